"""What `kitserve plan` prints: lines of the plan's document, each with a style. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.filesize import decimal

from gateway.config.changes import FieldChange
from gateway.oci.reference import Digest
from gateway.wording import counted

Line = tuple[str, str]
_MARKS = {
    "new": ("+", "green"),
    "changed": ("~", "yellow"),
    "removed": ("-", "red"),
    "unchanged": (" ", "dim"),
}
_WORKERS = {
    "new": "new workers are started",
    "scaled": "as many workers as the config says",
    "kept": "its workers stay",
    "removed": "its workers end, once their calls are answered",
}
_AGAINST = {
    "running": "compared with the Kitserve that runs (generation {generation}):",
    "file": "compared with another config:",
    "nothing": "compared with nothing:",
}
_INDENT = "    "


def plan_lines(plan: Mapping[str, Any]) -> Iterator[Line]:
    """Yield the lines of a plan."""
    yield _AGAINST[plan["against"]].format_map(plan), "dim"
    for model in plan["models"]:
        yield from _model_lines(model)
    for change in plan["settings"]:
        yield f"~ {FieldChange(**change)}", "yellow"
    if plan["restart"]:
        names = ", ".join(plan["restart"])
        yield f"! {names}: needs a restart of `kitserve serve`; `kitserve apply` is refused until then", "red"
    for fault in plan["faults"]:
        yield f"! {fault}", "red"
    yield from _sums(plan)


def _model_lines(model: Mapping[str, Any]) -> Iterator[Line]:
    mark, style = _MARKS[model["action"]]
    is_still = model["action"] == "unchanged"
    yield (
        f"{mark} {model['name']}: {model['action']}{'' if is_still else '; ' + _WORKERS[model['workers']]}",
        style,
    )
    for kit in model["kits"] if not is_still or model["refused"] else ():
        yield from _kit_lines(kit)
    is_same_kit = all(_is_same(kit) for kit in model["kits"])
    for change in model["changes"]:
        # The kit's line says it.
        if is_same_kit or change["field"] not in ("kit", "canary.kit"):
            yield f"{_INDENT}{FieldChange(**change)}", ""
    if not is_still:
        for use in model["memory"]:
            yield f"{_INDENT}memory of {use['version']}: {_memory(use)}", ""
    yield from _rollout_lines(model["rollout"])
    if model["refused"]:
        yield f"{_INDENT}would be refused: {model['refused']}", "red"
    if model["note"]:
        yield f"{_INDENT}{model['note']}", "dim"


def _kit_lines(kit: Mapping[str, Any]) -> Iterator[Line]:
    before, after = kit["before"], kit["after"]
    name = "kit" if kit["role"] == "stable" else "canary"
    if before is not None and after is not None and before["digest"] != after["digest"]:
        moved = ", as the tag has moved" if kit["has_moved"] else ""
        yield f"{_INDENT}{name} {_version(before)} -> {_version(after)}{moved}", ""
    elif after is not None:
        yield f"{_INDENT}{name} {_version(after)}", ""
    elif before is not None:
        yield f"{_INDENT}{name} {_version(before)}", ""
    for change in kit["changes"]:
        yield f"{_INDENT}{name}'s {_fact(change)}", ""
    if after is not None and (before is None or before["digest"] != after["digest"]):
        facts = [
            f"license {', '.join(after['licenses'])}" if after["licenses"] else "no license",
            after["signature"],
            f"class {after['hazard']}" if after["hazard"] else "",
            "may run code" if after["code"] else "may not run code",
            f"{decimal(kit['pull_bytes'])} to pull" if kit["pull_bytes"] else "nothing to pull",
        ]
        yield f"{_INDENT}{_INDENT}{'; '.join(filter(None, facts))}", "dim"
    if kit["note"]:
        yield f"{_INDENT}{_INDENT}{kit['note']}", "dim"


def _is_same(kit: Mapping[str, Any]) -> bool:
    before, after = kit["before"], kit["after"]
    return before is not None and after is not None and before["digest"] == after["digest"]


def _fact(change: Mapping[str, Any]) -> str:
    """Write a change in what a kit says of itself: lists as people write them."""
    before, after = (
        ", ".join(value) or "none" if isinstance(value, list) else value
        for value in (change["before"], change["after"])
    )
    return str(FieldChange(change["field"], before, after))


def _version(kit: Mapping[str, Any]) -> str:
    return f"{kit['tag']} ({Digest.parse(kit['digest']).short})"


def _rollout_lines(rollout: Mapping[str, Any] | None) -> Iterator[Line]:
    if rollout is None:
        return
    if rollout["ends"]:
        yield f"{_INDENT}{rollout['ends']}", ""
    if rollout["starts"]:
        yield f"{_INDENT}a rollout begins from {rollout['stable']} to {rollout['canary']}:", ""
    elif not rollout["ends"]:
        yield f"{_INDENT}{rollout['message']}:", ""
    if rollout["starts"] or not rollout["ends"]:
        for number, step in enumerate(rollout["steps"], 1):
            yield f"{_INDENT}{_INDENT}step {number}: {step}", ""
        yield f"{_INDENT}{_INDENT}checks: {'; '.join(rollout['checks'])}", ""


def _memory(use: Mapping[str, Any]) -> str:
    if use["bytes_each"] is None:
        return "not known before it is loaded"
    times = f"{use['workers']} × " if use["workers"] != 1 else ""
    return f"{times}{decimal(use['bytes_each'])} ({use['source']})"


def _sums(plan: Mapping[str, Any]) -> Iterator[Line]:
    pull, memory = plan["pull"], plan["memory"]
    if pull["bytes"]:
        size, free = decimal(pull["bytes"]), decimal(pull["disk_free"])
        yield f"to pull: {size} in {counted(pull['layers'], 'layer')}; {free} of the disk are free", ""
    if plan["has_changes"]:
        yield from _memory_sums(memory)
    actions = Counter(model["action"] for model in plan["models"])
    numbers = ", ".join(f"{actions[action]} {action}" for action in _MARKS)
    end = (
        "; it would be refused" if plan["is_refused"] else "" if plan["has_changes"] else "; nothing changes"
    )
    yield f"Plan: {numbers}{end}", "bold"


def _memory_sums(memory: Mapping[str, Any]) -> Iterator[Line]:
    before, during, after = (decimal(memory[moment]) for moment in ("before", "during", "after"))
    if memory["unknown"]:
        words = f"{before} now; what {', '.join(memory['unknown'])} will take is known once they are loaded"
    else:
        words = f"{before} now, {during} while versions change, {after} then"
    if memory["free"] is not None:
        words += f"; {decimal(memory['free'])} of {decimal(memory['total'])} are free"
    yield f"memory of workers: {words}", ""
