"""What commands show to people, as tables and text: models, rollouts, kits and the cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from gateway.wording import counted
from runtimes.extras import install_command

if TYPE_CHECKING:
    from gateway.kits.cache import CachedKit

_COLOURS = {
    "ready": "green",
    "asleep": "cyan",
    "failed": "red",
    "loading": "yellow",
    "pulling": "yellow",
    "Healthy": "green",
    "Progressing": "yellow",
    "Paused": "yellow",
    "Degraded": "red",
    "Successful": "green",
    "Failed": "red",
    "Inconclusive": "yellow",
    "Error": "red",
}
"""Of a model's states, a rollout's phases and the outcomes of checks."""
_ORIGINS = {"context": "model", "slots": "default", "batch": "default", "system_prompt": "prompt"}
"""Where settings of a language model come from that no parameter makes; others come from parts of its kit."""
_SETTINGS = (
    "context",
    "slots",
    "batch",
    "chat_template",
    "projector",
    "draft",
    "adapters",
    "system_prompt",
    "stop",
)
"""What a language model is run with, besides how its tokens are chosen."""
_MAX_SHOWN = 100  # characters of a setting


def models_table(models: Iterable[dict[str, Any]]) -> Table:
    """Models and their versions, one version a row; of language models also what they do with tokens."""
    models = list(models)
    has_tokens = any(version.get("generation") for model in models for version in model["versions"])
    titles = ("MODEL", "STATE", "VERSION", "DIGEST", "WEIGHT", "REPLICAS", "RUNTIME")
    table = _table(*titles, *(["TOKENS"] if has_tokens else []))
    for model in models:
        name, state = model["name"], _coloured(model["state"])
        if not model["versions"]:
            table.add_row(name, state, *["-"] * 5)
        for version in model["versions"]:
            table.add_row(
                name,
                state,
                version["tag"],
                _short(version["digest"]),
                f"{version['weight']} %" if version["role"] else "-",
                str(version["replicas"]),
                version["runtime"] or "-",
                *([_tokens(version.get("generation"))] if has_tokens else []),
            )
            if version["note"]:
                table.add_row("", "", _text(version["note"], "yellow"))
            name, state = "", Text()
    return table


def _tokens(generation: dict[str, Any] | None) -> str:
    """What a version does with tokens: calls now, tokens so far, and how fast an answer goes on."""
    if not generation:
        return "-"
    speed = generation["tokens_per_second"]
    parts = [
        f"{generation['generating']} generating",
        f"{generation['waiting']} waiting",
        f"{generation['input_tokens']:,} in",
        f"{generation['output_tokens']:,} out",
        *([f"{speed:.1f}/s"] if speed is not None else []),
    ]
    return ", ".join(parts)


def model_line(model: dict[str, Any]) -> str:
    """A model's state in one line."""
    versions = ", ".join(
        f"{_named(version)} {version['weight']} %" for version in model["versions"] if version["role"]
    )
    # Without numbers, as this line is printed again whenever it changes.
    again = "(is tried again)" if model.get("retry") else ""
    parts = [f"{model['name']}: {model['state']}", versions, model["message"], again]
    rollout = model.get("rollout")
    # While its canary loads or waits for a gate, the model's message says so.
    if rollout is not None and rollout["step"]:
        parts.append(f"rollout: {rollout['message']}")
    return "  ".join(part for part in parts if part)


def containment_lines(models: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What the workers gave up before they loaded a kit, with the models whose workers did alike."""
    alike: dict[tuple[str, str], dict[str, None]] = {}
    for model in models:
        for version in model["versions"]:
            for worker in version.get("workers", ()):
                key = ", ".join(worker["contained"]), ", ".join(worker["not_contained"])
                alike.setdefault(key, {})[model["name"]] = None
    for (on, off), names in alike.items():
        of = "" if len(alike) == 1 else f" ({', '.join(names)})"
        yield f"workers are contained{of}: {on or 'nothing'}" + (f"; not contained: {off}" if off else "")


def device_lines(models: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What computes the models that are on GPUs: the device, its provider, and the memory that it took."""
    for model in models:
        for version in model["versions"]:
            for worker in version.get("workers", ()):
                if worker.get("device", "cpu") not in ("", "cpu"):
                    size = worker["gpu_bytes"]
                    taken = "memory not known" if size is None else f"{decimal(size)} of its memory"
                    place = f"{worker['device']}, {worker['provider']}, {taken}"
                    yield f"{model['name']} ({_named(version)}) is on {place}"


def message_line(model: dict[str, Any]) -> str:
    """What a person should know of a model, and when what failed is tried again."""
    line, retry = f"{model['name']}: {model['message']}", model.get("retry")
    if not retry:
        return line
    next_try = "tried now" if retry["is_trying"] else f"next try in {math.ceil(retry['seconds'])} s"
    return f"{line} (tried {counted(retry['tries'], 'time')}; {next_try})"


def rollout_text(rollout: dict[str, Any]) -> RenderableType:
    """A rollout: its phase, its versions, its steps and its checks."""
    head = Text.assemble(f"{rollout['model']}: ", _coloured(rollout["phase"]), f" {rollout['reason']}")
    lines: list[RenderableType] = [head]
    if rollout["message"]:
        lines.append(Text(f"  {rollout['message']}"))
    lines.append(Text(f"stable  {_named(rollout['stable'])}  {100 - rollout['weight']} %"))
    if rollout["canary"]:
        mirrored = f", {rollout['mirror'] * 100:g} % mirrored" if rollout["mirror"] else ""
        lines.append(Text(f"canary  {_named(rollout['canary'])}  {rollout['weight']} %{mirrored}"))
    for number, step in enumerate(rollout["steps"], 1):
        if number == rollout["step"]:
            lines.append(Text(f"> step {number}: {step}  ({rollout['held']:g} s so far)", "bold"))
        else:
            lines.append(Text(f"  step {number}: {step}", "dim"))
    lines.extend(
        Text.assemble("  ", _coloured(verdict["outcome"]), f" {verdict['check']}: {verdict['message']}")
        for verdict in rollout["verdicts"]
    )
    return Group(*lines)


def replay_text(replay: dict[str, Any]) -> Iterator[RenderableType]:
    """Show how a replay ended: each check, what was answered otherwise, and what was passed over."""
    yield Text.assemble(_coloured(replay["outcome"]), f" {replay['model']}: {replay['kit']}")
    for verdict in replay["verdicts"]:
        yield Text.assemble("  ", _coloured(verdict["outcome"]), f" {verdict['check']}: {verdict['message']}")
    yield Text(f"{counted(replay['compared'], 'answer')} compared, of which {replay['differing']:,} differ")
    for difference in replay["differences"]:
        yield Text(f"  {difference['request_id']}", "dim")
        yield Text(f"    stable    {difference['stable']}")
        yield Text(f"    candidate {difference['candidate']}")
    for title, reasons in (("not compared", replay["not_compared"]), ("skipped", replay["skipped"])):
        for reason, count in reasons.items():
            yield Text(f"{title}: {count:,}: {reason}", "dim")


def events_table(events: Iterable[dict[str, Any]]) -> Table:
    """The events of rollouts, one a row."""
    table = _table("TIME", "ROLLOUT", "PHASE", "REASON", "STABLE", "CANARY", "WEIGHT", "MESSAGE")
    for event in events:
        table.add_row(
            _time(event["time"], "%Y-%m-%d %H:%M:%S"),
            str(event["number"]),
            _coloured(event["phase"]),
            event["reason"],
            _revision(event["stable"]),
            _revision(event["canary"]),
            f"{event['weight']} %",
            Text(event["message"]),
        )
    return table


def cache_table(kits: Iterable[CachedKit]) -> Table:
    """The kits on this machine, one a row."""
    table = _table("KIT", "DIGEST", "STORED", "UNPACKED", "LAST USED", "IN USE")
    for kit in kits:
        table.add_row(
            Text("\n").join(map(_text, kit.names or ("-",))),
            kit.digest.short,
            decimal(kit.stored),
            decimal(kit.unpacked),
            _time(kit.last_used, "%Y-%m-%d %H:%M"),
            "yes" if kit.in_use else "no",
        )
    return table


def kit_text(kit: dict[str, Any]) -> Iterable[RenderableType]:
    """A kit: its names, its layers, its runtime and its tensors."""
    yield _text(kit["reference"], "bold")
    for name in ("digest", "format", "package", "framework", "model"):
        if kit[name]:
            yield _text(f"{name:<9}  {kit[name]}")
    if variant := kit["variant"]:
        chosen = variant["reason"].removeprefix("variant ")
        yield _text(f"variant    {chosen or variant['labels'] or 'the only kit of its index'}")
    for note in kit["hints"].get("notes", ()):
        yield _text(f"note       {note}")
    for parent in kit["parents"]:
        yield _text(f"parent     {parent}")
    layers = _table("LAYER", "DIGEST", "SIZE", "COMPRESSION", "SERVED", "PATH")
    for layer in kit["layers"]:
        layers.add_row(
            layer["role"],
            _short(layer["digest"]),
            f"{layer['size']:,}",
            layer["compression"],
            "yes" if layer["served"] else "no",
            _text(layer["path"] or "-"),
        )
    yield layers
    trust = kit["trust"]
    verdict = ("the policy allows it", "green") if trust["allowed"] else ("the policy refuses it", "red")
    yield Text("trust: ") + _text(*verdict)
    for reason in trust["reasons"]:
        yield _text(f"  {reason}")
    if kit["runtime"] is None:
        title, style = ("cannot be served", "red") if kit["servable"] is False else ("runtime", "yellow")
        yield Text(f"{title}: ") + _text(kit["runtime_message"], style)
        return
    yield _text(f"runtime: {kit['runtime']} ({kit['file']})")
    if extras := ",".join(kit["missing_extras"]):
        yield _text(f"it needs what is not installed here: {install_command(extras)}", "yellow")
    if kit["mlflow"] is not None:
        yield _text(f"MLflow: {kit['mlflow']['text']}")
        for note in kit["mlflow"]["notes"]:
            yield _text(f"  its signature is passed over in part: {note}", "yellow")
    if kit["pickle"] is not None:
        yield _text(f"{kit['hazard']}: it imports {kit['pickle']['imports']}")
        if kit["pickle"]["scikit_learn"]:
            yield _text(f"made with scikit-learn {', '.join(kit['pickle']['scikit_learn'])}")
    if kit["language"] is not None:
        yield from _language_text(kit["language"])
    tensors = _table("TENSOR", "NAME", "DATATYPE", "SHAPE")
    for kind in ("inputs", "outputs"):
        for tensor in kit[kind]:
            shape = "any" if tensor["shape"] is None else str(list(tensor["shape"]))
            tensors.add_row(kind.removesuffix("s"), _text(tensor["name"]), tensor["datatype"], shape)
    if tensors.row_count:
        yield tensors
    elif kit["language"] is None:
        yield _text("its inputs and outputs are known once it is loaded; /docs shows them then")


def _language_text(language: dict[str, Any]) -> Iterable[RenderableType]:
    """A language model: what it is run with, where that comes from, and what memory it takes."""
    if language["tasks"]:
        yield _text(f"tasks: {', '.join(language['tasks'])}")
    yield _text(f"memory: {language['memory']['text']}")
    settings = _table("SETTING", "VALUE", "FROM")
    parameters = {setting: f"parameter {name}" for name, setting in language["taken"].items()}
    values = {name: language[name] for name in _SETTINGS} | language["sampling"]
    for name, value in values.items():
        if value is None or value == () or value == []:
            continue
        shown = ", ".join(map(repr, value)) if isinstance(value, list | tuple) else str(value)
        cut = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
        settings.add_row(
            name, _text(" ".join(cut.split())), _text(parameters.get(name) or _ORIGINS.get(name, "part"))
        )
    yield settings
    for name, reason in language["ignored"].items():
        yield _text(f"not taken: {name} ({reason})")


def _table(*titles: str) -> Table:
    """A table that breaks what is too long for the line, and never cuts it off."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _text(words: str, style: str = "") -> Text:
    """Words that come from a kit: without markup, and without control characters for the terminal."""
    printable = (sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in words)
    return Text("".join(printable), style)


def _coloured(word: str) -> Text:
    return Text(word, _COLOURS.get(word, ""))


def _time(seconds: float, pattern: str) -> str:
    """Seconds since 1970 as local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime(pattern)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _named(version: dict[str, Any]) -> str:
    return f"{version['tag']}@{_short(version['digest'])}"


def _revision(reference: str) -> str:
    """Tag and digest of a pinned reference, "-" for none."""
    name, _, digest = reference.partition("@")
    return f"{name.rpartition(':')[2] or name}@{_short(digest)}" if digest else "-"
