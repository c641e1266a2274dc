"""`kitserve rollout replay` and `records`: what a rollout's judge would have said of recorded calls."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from gateway.cli.options import FAILED, Output, OutputFormat, check_model_name, err, out, print_json
from gateway.errors import ConfigError, KitserveError
from gateway.wording import counted

if TYPE_CHECKING:
    from gateway.call_records.replay import Judgement
    from gateway.rollout.plan import Plan

_EXIT_CODES: Mapping[str, int] = {"Successful": 0, "Failed": FAILED, "Inconclusive": 3, "Error": 4}
_ERROR = _EXIT_CODES["Error"]
_STDIN = Path("-")


def replay(
    records: Annotated[
        Path,
        typer.Argument(help="Records of calls, one JSON object a line; - is standard input.", metavar="FILE"),
    ],
    plan: Annotated[
        Path,
        typer.Option(
            "--plan", help="A `rollout:` block (YAML); its first step is what is judged.", metavar="PLAN"
        ),
    ],
    output: OutputFormat = Output.TEXT,
) -> None:
    """Judge recorded calls as a rollout's first step would.

    Calls before the canary's first one are history. The exit code is 0 for Successful, 1 for Failed, 3 for
    Inconclusive, and 4 for Error: the records could not be read or judged.
    """
    from gateway.call_records.lines import read_records
    from gateway.call_records.plan_file import read_plan
    from gateway.call_records.replay import Replay

    read = read_plan(plan)
    try:
        with _opened(records) as file:
            judgement = Replay(read).judge(read_records(_lines(file), str(records)))
    except ConfigError:
        raise
    except KitserveError as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        raise typer.Exit(_ERROR) from error
    if output is Output.JSON:
        print_json(_document(judgement))
    else:
        for line in _text(judgement, read):
            out.print(line, markup=False, highlight=False)
    raise typer.Exit(_EXIT_CODES[judgement.outcome])


def records(
    log: Annotated[
        Path, typer.Argument(help="The access log, as JSON lines; - is standard input.", metavar="LOG")
    ],
    model: Annotated[
        str, typer.Option("--model", help="The model whose calls are wanted.", callback=check_model_name)
    ],
    canary: Annotated[
        str | None,
        typer.Option(
            "--canary",
            help="The canary's tag or digest (or its first digits), where the log holds several rollouts.",
            metavar="VERSION",
        ),
    ] = None,
) -> None:
    """Write the calls in an access log as records for `rollout replay`.

    The access log must hold every call (`access_log: all`). It does not say which calls were mirrored, so the
    records have no pairs, and no check of answers can be made of them.
    """
    from gateway.call_records.access_log import Converter

    converter, total = Converter(model, canary or None), 0
    with _opened(log) as file:
        lines = _lines(file)
        first = next(lines, b"")
        for record in converter.convert(chain((first,), lines)):
            sys.stdout.write(json.dumps(record, separators=(",", ":")) + "\n")
            total += 1
    for reason, count in converter.skipped.most_common():
        err.print(f"skipped: {count:,}: {reason}", style="dim", markup=False, highlight=False)
    if not total:
        raise KitserveError(_why_none(log, model, first))
    if len(converter.canaries) > 1:
        canaries = ", ".join(f"{tag} ({digest[:19]})" for digest, tag in converter.canaries.items())
        raise KitserveError(
            f"{log} has calls to several canaries of {model}, which cannot be judged as one: {canaries}; "
            "write those of one with --canary"
        )
    if canary and not converter.canaries:
        raise KitserveError(f"{log} has no call to {model} that the canary {canary} answered")


def _why_none(log: Path, model: str, first: bytes) -> str:
    """Say why a log, of which this is the first line, has given no record."""
    from gateway.call_records.lines import NoRecord, read_record
    from gateway.call_records.mistaken import not_json

    if not first:
        return f"{log} is empty"
    with contextlib.suppress(NoRecord):
        read_record(first)
        return f"{log} has records already, which `kitserve rollout replay` judges"
    reason = not_json(first)
    told = f" (line 1: {reason})" if reason else ""
    return (
        f"{log} has no call to {model} in a rollout{told}; it must be an access log of every call "
        "(access_log: all)"
    )


def _opened(path: Path) -> BinaryIO:
    """Open a file to read it line by line. Raises KitserveError."""
    from gateway.files import open_regular

    if path == _STDIN:
        return sys.stdin.buffer
    try:
        return os.fdopen(open_regular(path), "rb")
    except OSError as error:
        raise KitserveError(f"{path} cannot be read: {error.strerror or error}") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines; one that is too long for a record ends where it is."""
    from gateway.call_records.lines import MAX_LINE

    while line := file.readline(MAX_LINE):
        yield line


def _document(judgement: Judgement) -> dict[str, Any]:
    document = asdict(judgement)
    findings = document.pop("findings")
    document["verdicts"] = [{**finding["verdict"], "since": finding["since"]} for finding in findings]
    return document


def _text(judgement: Judgement, plan: Plan) -> Iterator[str]:
    """Write a judgement for people."""
    calls = judgement.calls
    if judgement.begin is None or judgement.clear_at is None:
        yield f"{judgement.outcome}: the canary has answered none of {counted(calls['stable'], 'call')}"
        return
    length = f"after {judgement.seconds:g} s of calls to the canary, from {judgement.begin:.3f}"
    is_clear = judgement.outcome in ("Successful", "Failed")
    yield f"{judgement.outcome} {length}" + (f"; clear since {judgement.clear_at:g} s" if is_clear else "")
    for finding in judgement.findings:
        verdict = finding.verdict
        yield f"  {verdict.outcome} since {finding.since:g} s: {verdict.check}: {verdict.message}"
    yield (
        f"{counted(calls['canary'], 'call')} to the canary, {calls['stable']:,} to the stable version, "
        f"{judgement.history_seconds:,.0f} s of them before; {judgement.not_counted:,} are no evidence"
    )
    first = plan.steps[0]
    if first.weight == 0:
        yield "the first step has weight 0: only its mirrored calls are judged"
