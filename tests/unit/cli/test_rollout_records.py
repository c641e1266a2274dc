"""`kitserve rollout replay` and `records`: what people see, and the exit codes that scripts go by."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.cli import Cli
from tests.support.world_calls import Traffic
from tests.support.worlds import STABLE, WORLDS, Version

_PLAN = """
rollout:
  steps: [{weight: 25, for: 20s}]
  checks: {max_error_rate: 0.02, max_latency_ratio: 1.5, agreement: {min: 0.9}}
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[[str], str]:
    """Write a plan; return its path."""

    def write(text: str = _PLAN) -> str:
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        return str(path)

    return write


_FAILING = Version(errors=0.5)


def _records(canary: Version, seconds: float) -> list[dict[str, Any]]:
    traffic = Traffic(replace(WORLDS[0], rate=200.0), canary, (3,), 100)
    return [*traffic.calls(-20, 0, 0).records(), *traffic.calls(0, seconds, 25, 0.1).records()]


def _written(path: Path, canary: Version = STABLE, seconds: float = 40) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in _records(canary, seconds)))
    return str(path)


@pytest.mark.parametrize(
    ("canary", "seconds", "outcome", "code"),
    [
        (STABLE, 40, "Successful", 0),
        (_FAILING, 40, "Failed", 1),
        (STABLE, 1, "Inconclusive", 3),
    ],
)
def test_the_exit_code_is_that_of_the_outcome(
    cli: Cli,
    plan: Callable[[str], str],
    tmp_path: Path,
    canary: Version,
    seconds: float,
    outcome: str,
    code: int,
) -> None:
    file = _written(tmp_path / "calls.jsonl", canary, seconds)
    text, _ = cli("rollout", "replay", file, "--plan", plan(_PLAN), code=code)
    assert text.startswith(outcome)
    assert "error_rate: canary fails" in text
    document, _ = cli("rollout", "replay", file, "--plan", plan(_PLAN), "-o", "json", code=code)
    judged = json.loads(document)
    assert judged["outcome"] == outcome
    checks = {verdict["check"]: verdict for verdict in judged["verdicts"]}
    assert set(checks) == {"requests", "error_rate", "latency", "agreement"}
    assert checks["error_rate"]["numbers"]["limit"] == 0.02
    assert judged["calls"]["canary"] > 0
    assert 0 <= judged["clear_at"] <= judged["seconds"] <= seconds


def test_records_come_from_standard_input_too(
    cli: Cli, plan: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(_written(tmp_path / "calls.jsonl")).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    text, _ = cli("rollout", "replay", "-", "--plan", plan(_PLAN))
    assert text.startswith("Successful")


def test_the_fields_of_the_block_may_stand_alone(
    cli: Cli, plan: Callable[[str], str], tmp_path: Path
) -> None:
    file = _written(tmp_path / "calls.jsonl", seconds=1)
    cli("rollout", "replay", file, "--plan", plan("steps: [{weight: 5}]"), code=3)


def test_of_a_log_of_several_rollouts_one_is_written_alone(cli: Cli, tmp_path: Path) -> None:
    def line(role: str, tag: str) -> str:
        digest = f"sha256:{tag}{'0' * 62}"
        call: dict[str, object] = {"event": "access", "model": "iris", "role": role}
        call |= {"version": tag, "digest": digest}
        call |= {"status": 200, "total_ms": 2, "end": "--", "placed": "1", "time": "2026-11-29T12:00:00Z"}
        return json.dumps(call, separators=(",", ":")) + "\n"

    log = tmp_path / "access.jsonl"
    roles = (("stable", "a1"), ("canary", "b2"), ("canary", "c3"), ("stable", "c3"))
    log.write_text("".join(line(role, tag) for role, tag in roles))
    _, error = cli("rollout", "records", str(log), "--model", "iris", code=1)
    assert "several canaries of iris" in " ".join(error.split())
    for canary in ("c3", "sha256:c30", "c300"):
        text, error = cli("rollout", "records", str(log), "--model", "iris", "--canary", canary)
        assert [json.loads(row)["version"] for row in text.splitlines()] == ["stable", "canary"]
        assert "skipped: 2: another canary answered it" in " ".join(error.split())
    _, error = cli("rollout", "records", str(log), "--model", "iris", "--canary", "d4", code=1)
    assert "that the canary d4 answered" in " ".join(error.split())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "line 1: write `rollout:` with `steps:`"),
        ("rollout:\n  steps: []\n", "line 2: rollout.steps"),
        ("rollout:\n  steps: [{weight: 5}]\n  sticki: 1\n", "line 3: rollout.sticki"),
        ("steps: [{weight: 5}]\nchecks:\n  agreement: {metric: psi}\n", "psi compares what answers hold"),
        ("rollout: [", "this is no YAML"),
    ],
)
def test_a_plan_with_a_fault_is_told_by_its_line(
    cli: Cli, plan: Callable[[str], str], tmp_path: Path, text: str, fault: str
) -> None:
    file = _written(tmp_path / "calls.jsonl", seconds=1)
    _, error = cli("rollout", "replay", file, "--plan", plan(text), code=2)
    assert fault in " ".join(error.split())


@pytest.mark.parametrize(
    ("content", "fault"),
    [('{"time": 1}\n', "calls.jsonl, line 1: status: nothing"), (None, "cannot be read: No such file")],
)
def test_records_that_cannot_be_read_are_an_error(
    cli: Cli, plan: Callable[[str], str], tmp_path: Path, content: str | None, fault: str
) -> None:
    file = tmp_path / "calls.jsonl"
    if content is not None:
        file.write_text(content)
    _, error = cli("rollout", "replay", str(file), "--plan", plan(_PLAN), code=4)
    assert fault in " ".join(error.split())


_LOG = b'{"time":"2026-11-29T12:00:01+00:00","level":"info","process":"edge","event":"%s","model":"iris"}\n'
_HOW = "`kitserve rollout records LOG --model NAME` makes records of calls out of an access log"
_HAPROXY = b"<134>Nov 29 12:00:01 haproxy[7]: 192.0.2.7:4000 [29/Nov/2026:12:00:01.000] front back/w1 200\n"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "calls.jsonl is empty"),
        (b"\n \n", "calls.jsonl is empty"),
        (_LOG % b"kit.pulled", f"line 1: this is a line of Kitserve's log; {_HOW}"),
        (_LOG % b"access", f"line 1: this is a line of the access log; {_HOW}"),
        (_HAPROXY, f"line 1: this is text, and no JSON; {_HOW} of JSON lines"),
        (b'{"schema":1,"digest":"sha256:12"}\n', "of the payload log, which `kitserve replay` sends"),
        (gzip.compress(_LOG), "line 1: the file is compressed (gzip); read it by `gzip -dc FILE |"),
        (bz2.compress(_LOG), "line 1: the file is compressed (bzip2)"),
        (b"\x7fELF\x02\x01\x01\0\0", "line 1: this is binary"),
        (bytes(range(128, 256)) * 1000, "line 1: this is binary"),
        ("é".encode() * 40_000, "line 1: this is text, and no JSON"),
    ],
)
def test_a_file_that_has_no_records_is_told_by_what_it_is(
    cli: Cli, plan: Callable[[str], str], tmp_path: Path, content: bytes, fault: str
) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_bytes(content)
    _, error = cli("rollout", "replay", str(file), "--plan", plan(_PLAN), code=4)
    assert fault in " ".join(error.split())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "access.jsonl is empty"),
        (gzip.compress(_LOG), "(line 1: the file is compressed (gzip);"),
        (b"\0" * 9, "(line 1: this is binary, and no JSON); it must be an access log"),
        (_HAPROXY, "(line 1: this is text, and no JSON); it must be an access log"),
        (
            b'{"time":1,"version":"stable","worker":"a","status":200,"seconds":1}\n',
            "has records already",
        ),
    ],
)
def test_a_file_that_is_no_access_log_is_told_by_what_it_is(
    cli: Cli, tmp_path: Path, content: bytes, fault: str
) -> None:
    log = tmp_path / "access.jsonl"
    log.write_bytes(content)
    _, error = cli("rollout", "records", str(log), "--model", "iris", code=1)
    assert fault in " ".join(error.split())


def test_an_access_log_becomes_records(cli: Cli, plan: Callable[[str], str], tmp_path: Path) -> None:
    start = datetime(2026, 11, 29, 12, tzinfo=UTC)
    lines = [
        json.dumps(
            {
                "time": (start + timedelta(seconds=record["time"])).isoformat(timespec="milliseconds"),
                "event": "access",
                "client": f"192.0.2.{number % 200}:4000",
                "path": "/v2/models/iris/infer",
                "status": record["status"],
                "model": "iris",
                "role": record["version"],
                "worker": record["worker"],
                "total_ms": record["seconds"] * 1000,
                "end": "--",
                "placed": "1",
            },
            separators=(",", ":"),
        )
        for number, record in enumerate(_records(_FAILING, 80))
    ]
    log = tmp_path / "access.jsonl"
    log.write_text("\n".join(['{"event":"routes.changed"}', *lines]) + "\n")
    written, error = cli("rollout", "records", str(log), "--model", "iris")
    assert len(written.splitlines()) == len(lines)
    assert not error
    file = tmp_path / "calls.jsonl"
    file.write_text(written)
    text, _ = cli("rollout", "replay", str(file), "--plan", plan(_PLAN), code=1)
    assert "error_rate: canary fails" in text
    assert "no call has been mirrored yet" in text


def test_a_log_without_such_calls_says_what_is_needed(cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text('{"event":"access","model":"other"}\n')
    _, error = cli("rollout", "records", str(log), "--model", "iris", code=1)
    assert "skipped: 1: it is of another model" in error
    assert "access_log: all" in error
