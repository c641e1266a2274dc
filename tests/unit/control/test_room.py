"""Versions that nobody calls make room on a GPU, the least recently called first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.loop.room import making_room
from gateway.control.state.versions import Version
from gateway.oci.pinned import PinnedReference
from gateway.serving import Scaling, Serving

PINNED = PinnedReference.parse(f"oci-layout:samples:samples/iris:v1@sha256:{'a' * 64}")
WAITS = "needs 9.0 GiB: …; GPU 0 has 4.0 GiB free of 24.0 GiB"


def version(app: str, fewest: int = 0) -> Version:
    return Version(AppName(app), app, PINNED, None, "", Serving(scaling=Scaling(min=fewest)))


def worker(app: str, idle: float = 0, **fields: object) -> Announcement:
    announcement = Announcement(f"{app}-1", AppName(app), WorkerState.READY, gpus="GPU 0", idle_seconds=idle)
    return replace(announcement, **fields)  # type: ignore[arg-type]


VERSIONS = {each.app: each for each in (version("a"), version("b"), version("stays", 1), version("new"))}
NEW = worker("new", state=WorkerState.LOADING, gpus="", gpu_wait=WAITS)


def test_the_one_that_was_called_least_recently_sleeps() -> None:
    assert making_room([NEW, worker("a", 20), worker("b", 90), worker("stays", 900)], VERSIONS) == "b"
    assert making_room([NEW, worker("a", 20), worker("b", 10)], VERSIONS) == "a"


@pytest.mark.parametrize(
    "other",
    [
        worker("stays", 900),
        worker("a", 900, ongoing=1),
        worker("a", 0.1),
        worker("a", 900, gpus=""),
        worker("unknown", 900),
    ],
    ids=["may not sleep", "is called", "was called now", "has no GPU", "of nobody"],
)
def test_others_do_not(other: Announcement) -> None:
    assert making_room([NEW, other], VERSIONS) is None


def test_nobody_sleeps_where_nobody_waits_and_one_at_a_time() -> None:
    assert making_room([worker("a", 90)], VERSIONS) is None
    leaving = worker("b", state=WorkerState.DRAINING)
    assert making_room([NEW, worker("a", 90), leaving], VERSIONS) is None


def test_a_version_is_as_idle_as_the_busiest_of_its_workers() -> None:
    busy = replace(worker("b", 5), worker="b-2")
    assert making_room([NEW, worker("a", 20), worker("b", 90), busy], VERSIONS) == "a"
