from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.engine.running_bodies import (
    NOT_RECORDED,
    REFUSED_SECONDS,
    RunningBodies,
    open_running_bodies,
)
from gateway.errors import RefusedBody, StoreError

POISON = (b"poison",)
# Locks are of processes, so that other workers need some of their own.
WORKER = """
import sys
from pathlib import Path
from gateway.engine.running_bodies import RunningBodies
bodies = RunningBodies(Path(sys.argv[1]))
places = {}
for line in sys.stdin:
    command, _, body = line.strip().partition(" ")
    if command == "begin":
        places[body] = bodies.begin((body.encode(),))
    else:
        bodies.end(places[body])
    print(places[body], flush=True)
"""


class Worker:
    """Another worker of the version, in a process of its own."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, command: str, body: str = "poison") -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command} {body}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "running" / "iris-v1"


@pytest.fixture
def survivor(path: Path) -> Iterator[RunningBodies]:
    with RunningBodies(path) as bodies:
        yield bodies


@pytest.fixture
def workers(path: Path, survivor: RunningBodies) -> Iterator[list[Worker]]:
    """Two other workers."""
    with ExitStack() as stack:
        workers = [Worker(path) for _ in range(2)]
        for worker in workers:
            stack.callback(worker.kill)
        yield workers


def test_a_body_that_ended_two_workers_is_refused_and_others_are_not(
    workers: list[Worker], survivor: RunningBodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = workers
    first.do("begin")
    first.do("begin", "innocent")
    second.do("begin", "bystander")
    first.kill()
    place = survivor.begin((b"innocent",))
    assert survivor.is_suspect(place)
    survivor.end(place)
    assert second.do("begin") != NOT_RECORDED
    second.kill()
    with pytest.raises(RefusedBody, match="2 workers of this version ended while they worked on this body"):
        survivor.begin(POISON)
    with pytest.raises(RefusedBody):
        survivor.begin((b"poi", memoryview(b"son")))
    again = survivor.begin((b"innocent",))
    assert again != NOT_RECORDED
    assert not survivor.is_suspect(again)
    later = time.time() + REFUSED_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert not survivor.is_suspect(survivor.begin(POISON))


def test_a_body_that_a_worker_survived_is_forgiven(workers: list[Worker], survivor: RunningBodies) -> None:
    for worker in workers:
        worker.do("begin")
        worker.kill()
        place = survivor.begin(POISON)
        assert survivor.is_suspect(place)
        survivor.end(place)
    assert not survivor.is_suspect(survivor.begin(POISON))


def test_what_runs_elsewhere_is_no_reason_to_suspect(workers: list[Worker], survivor: RunningBodies) -> None:
    first, _ = workers
    first.do("begin")
    assert survivor.begin(POISON) == NOT_RECORDED
    survivor.end(NOT_RECORDED)
    assert first.do("begin", "poison") == NOT_RECORDED
    first.kill()
    assert survivor.is_suspect(survivor.begin(POISON))


def test_a_worker_that_takes_the_number_of_a_dead_one_is_not_taken_for_it(path: Path) -> None:
    for _ in range(2):
        bodies = RunningBodies(path)
        bodies.begin(POISON)
        bodies.close()
    with RunningBodies(path) as bodies, pytest.raises(RefusedBody):
        bodies.begin(POISON)


def test_a_file_of_another_form_is_made_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 1000)
    with RunningBodies(path) as bodies:
        assert not bodies.is_suspect(bodies.begin(POISON))


def test_without_a_file_workers_work_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "running").write_text("a file where the directory should be")
    with pytest.raises(StoreError):
        RunningBodies(tmp_path / "running" / "iris")
    with caplog.at_level(logging.WARNING):
        assert open_running_bodies(tmp_path / "running", "iris") is None
    assert "running_bodies.off" in caplog.text


def test_files_of_versions_that_are_gone_are_removed_and_those_in_use_kept(
    path: Path, workers: list[Worker]
) -> None:
    gone = path.with_name("gone")
    RunningBodies(gone).close()
    workers[0].do("begin")
    for old in (gone, path):
        os.utime(old, (0, 0))
    bodies = open_running_bodies(path.parent, "other")
    assert bodies is not None
    bodies.close()
    assert not gone.exists()
    assert path.exists()
