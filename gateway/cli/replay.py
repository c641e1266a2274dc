"""`kitserve replay`: recorded calls are sent to a candidate kit, which is judged as in a rollout."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from gateway.cli import tables
from gateway.cli.completion import model_names, references
from gateway.cli.options import (
    FAILED,
    Home,
    Output,
    OutputFormat,
    check_model_name,
    err,
    out,
    print_json,
    private_home,
)
from gateway.config.config import GatewayConfig, load_config, parse_config
from gateway.config.models import Model
from gateway.errors import ConfigError, ControlError, InvalidReference, KitserveError
from gateway.rollout.plan import Checks
from gateway.rollout.verdict import Outcome, Verdict, overall

if TYPE_CHECKING:
    from gateway.contract import WorkerSpec
    from gateway.replay.judgement import Judgement
    from gateway.replay.records import Reader

_EXIT_CODES: Mapping[Outcome, int] = {
    Outcome.SUCCESSFUL: 0,
    Outcome.FAILED: FAILED,
    Outcome.INCONCLUSIVE: 3,
    Outcome.ERROR: 4,
}
_KEY_VARIABLE = "KITSERVE_KEY"
_MAX_RECORDS = 10_000
_GRACE_SECONDS = 10.0
_REPEAT_SECONDS = 5.0
_NUMBERS = re.compile(r"[0-9.]+")


class _LoadingProgress:
    """Prints what the candidate's process does; where only numbers change, once in a while."""

    def __init__(self, kit: str) -> None:
        self._kit = kit
        self._words = ""
        self._printed_at = 0.0

    def __call__(self, detail: str) -> None:
        now, words = time.monotonic(), _NUMBERS.sub("", detail)
        if words != self._words or now - self._printed_at >= _REPEAT_SECONDS:
            self._words, self._printed_at = words, now
            err.print(f"{self._kit}: {detail}", markup=False)


def _check_url(url: str | None) -> str | None:
    """Refuse what is no address of a server."""
    try:
        parts = None if url is None else urlsplit(url)
        is_url = parts is None or (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        is_url = False
    if not is_url:
        raise typer.BadParameter(f"{url!r} is no address such as http://127.0.0.1:8080")
    return url


def replay(
    records: Annotated[
        Path, typer.Argument(help="A file of records, or a directory of such files.", metavar="FILE|DIR")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="The model whose calls are replayed.",
            callback=check_model_name,
            autocompletion=model_names,
        ),
    ],
    kit: Annotated[
        str,
        typer.Option("--kit", help="The candidate's reference.", metavar="REF", autocompletion=references),
    ],
    home: Home,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Run and judge the candidate as this config says.", metavar="FILE"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help=f"Compare with the stable version of a running Kitserve; ${_KEY_VARIABLE} has the key.",
            metavar="URL",
            callback=_check_url,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many records are replayed at most.", min=1)] = _MAX_RECORDS,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Send recorded calls to a kit, and judge it as a rollout would.

    The kit is served by a process of its own, beside any running Kitserve. The exit code is 0 for Successful,
    1 for Failed, 3 for Inconclusive, and 4 for Error: nothing could be found out.
    """
    try:
        document = _replay(records, _written_model(config, model, kit), model, home, against, limit)
    except (ConfigError, InvalidReference):
        raise
    except KitserveError as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        raise typer.Exit(_EXIT_CODES[Outcome.ERROR]) from error
    if output is Output.JSON:
        print_json(document)
    else:
        for part in tables.replay_text(document):
            out.print(part)
    raise typer.Exit(_EXIT_CODES[document["outcome"]])


def _replay(
    records: Path,
    written: tuple[GatewayConfig, Model],
    name: str,
    home: Path,
    against: str | None,
    limit: int,
) -> dict[str, Any]:
    """Replay records; return how that ended. Raises KitserveError where it says nothing of the candidate."""
    # Imported here, because the runtimes come with it.
    from gateway.replay.candidate import Candidate, CandidateFailed
    from gateway.replay.judgement import Judgement, ended
    from gateway.replay.records import Reader

    kit, rollout = written[1].kit, written[1].rollout
    spec = _worker_spec(written, name, private_home(home))
    checks = Checks() if rollout is None else rollout.plan().checks
    reader = Reader(name)
    judgement = Judgement(checks, is_text=False, is_timed=against is not None)
    loading = _LoadingProgress(kit)
    candidate = Candidate(spec, loading)
    loading("loading")
    try:
        with candidate as address:
            judgement = Judgement(checks, address.is_text, is_timed=against is not None)
            reason = _send(records, reader, spec, (address.host, address.port), against, limit, judgement)
            if reason and candidate.has_ended:
                reason += f"; its process ended ({candidate.ending})"
    except CandidateFailed as error:
        reason = str(error)
    verdicts = (*((ended(reason),) if reason else ()), *judgement.verdicts())
    return _document(spec, verdicts, reader, judgement)


def _send(
    records: Path,
    reader: Reader,
    spec: WorkerSpec,
    address: tuple[str, int],
    against: str | None,
    limit: int,
    judgement: Judgement,
) -> str:
    """Send the records; return why the candidate does not answer any more, "" where it does."""
    from gateway.replay.calls import Target
    from gateway.replay.replay import AgainstFailed, find_stable, replay
    from gateway.wire.headers import EDGE_HEADER

    seconds = spec.serving.queue.compute_seconds + _GRACE_SECONDS
    stable = None
    if against is not None:
        key = os.environ.get(_KEY_VARIABLE, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            stable = find_stable(against, spec.model, headers, seconds)
        except AgainstFailed as error:
            judgement.trouble = str(error)
            return ""
    host, port = address
    headers = {EDGE_HEADER: spec.node.edge_key}
    target = Target(f"http://{host}:{port}", f"/v2/models/{spec.model}/infer", headers, seconds)
    columns = SpinnerColumn(), TextColumn("replaying"), MofNCompleteColumn()
    try:
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
            task = progress.add_task("", total=None)
            chosen = islice(reader.read(records), limit)
            return replay(
                chosen, target, stable, judgement, lambda count: progress.update(task, completed=count)
            )
    finally:
        target.close()
        if stable is not None:
            stable.target.close()


def _written_model(file: Path | None, name: str, kit: str) -> tuple[GatewayConfig, Model]:
    """Return a config and a model of it whose kit is the candidate; the model's own where the file has it.

    Raises:
        ConfigError: when the file cannot be read, or the candidate is no reference.
        ControlError: when the file has no such model.
    """
    if file is None:
        document: dict[str, Any] = {"models": [{"name": name, "kit": kit}]}
    else:
        config = load_config(file)
        model = config.model(name)
        if model is None:
            names = ", ".join(model.name for model in config.models) or "none"
            raise ControlError(f"{file} has no model {name}; its models: {names}")
        # Once more through all checks, as the candidate may be none of the kits that this model may be.
        written = {**model.model_dump(mode="json", exclude_unset=True), "kit": kit}
        for field in ("canary", "track"):
            written.pop(field, None)
        document = {**config.model_dump(mode="json", exclude_unset=True), "models": [written]}
    config = parse_config(json.dumps(document), kit).rooted(Path.cwd())
    return config, config.models[0]


def _worker_spec(written: tuple[GatewayConfig, Model], name: str, home: Path) -> WorkerSpec:
    """Return what the candidate's process needs to know. Raises KitserveError, as for an unknown kit."""
    from gateway.contract import AppName, NodeSettings, WorkerSpec
    from gateway.control.loop.resolver import resolve
    from gateway.control.state.desired import desired_from
    from gateway.oci.pinned import PinnedReference

    desired = desired_from(written[0])
    model = desired.models[0]
    reference = PinnedReference.of(model.kit, resolve(model.kit, home, desired).digest)
    return WorkerSpec(
        app=AppName(f"{name}.replay"),
        model=name,
        reference=reference,
        parents=(),
        runtime=model.runtime,
        file=model.file,
        serving=model.serving,
        golden=None,
        policy=model.policy,
        sources=desired.sources,
        cache_limit=desired.cache_limit,
        node=NodeSettings(home, "127.0.0.1", "", secrets.token_urlsafe(32), drain_seconds=0.0),
    )


def _document(
    spec: WorkerSpec, verdicts: tuple[Verdict, ...], reader: Reader, judgement: Judgement
) -> dict[str, Any]:
    return {
        "model": spec.model,
        "kit": str(spec.reference),
        "outcome": overall(verdicts),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "compared": judgement.compared,
        "differing": judgement.differing,
        "differences": [asdict(difference) for difference in judgement.differences],
        "not_compared": dict(judgement.not_compared.most_common()),
        "skipped": dict(reader.skipped.most_common()),
    }
