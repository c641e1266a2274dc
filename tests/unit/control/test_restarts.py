"""The workers of a version that is restarted are replaced one after another, and one always answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.state.desired import DesiredModel
from gateway.control.state.restarts import Restart, Restarts, RestartState, next_step
from gateway.control.state.versions import Version, version_of
from gateway.errors import ControlError
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from gateway.serving import Scaling
from tests.support.clock import Clock

KIT = parse_reference("r.io/iris:v1")
DIGEST = Digest.parse("sha256:" + "a" * 64)
VERSION = version_of(DesiredModel("iris", KIT), PinnedReference.of(KIT, DIGEST), 1)
APP = VERSION.app
VERSIONS = {APP: VERSION}


def workers(*names: str, state: WorkerState = WorkerState.READY) -> list[Announcement]:
    return [Announcement(name, APP, state, port=1) for name in names]


def restart(*left: str, count: int | None = None) -> Restart:
    return Restart(
        APP, "iris", "v1", count or len(left), frozenset(left), Scaling(), patience=100.0, moved_at=0.0
    )


def test_one_worker_gets_its_successor_first() -> None:
    begun = restart("a")
    assert next_step(begun, workers("a"), 1.0) == begun
    loading = [*workers("a"), *workers("b", state=WorkerState.LOADING)]
    assert next_step(begun, loading, 1.0) == begun
    ending = next_step(begun, workers("a", "b"), 2.0)
    assert ending.ending == "a"
    draining = [*workers("a", state=WorkerState.DRAINING), *workers("b")]
    assert next_step(ending, draining, 3.0) == ending, "it answers the calls that it has"
    settling = next_step(ending, workers("b"), 4.0)
    assert (settling.left, settling.state) == (frozenset(), RestartState.UNDER_WAY)
    starting = [*workers("b"), *workers("c", state=WorkerState.LOADING)]
    assert next_step(settling, starting, 5.0) == settling, "Serve kills what it has not seen ready"
    assert next_step(settling, workers("b", "c"), 5.0).state is RestartState.DONE


def test_it_is_scaled_down_once_serve_knows_that_the_last_one_ended() -> None:
    """Before, Serve counts two that run, and may stop the new one: the version would have none."""
    restarts = Restarts(clock := Clock())
    begun = restarts.begin(VERSION, workers("a"))
    running = {APP: replace(VERSION, serving=replace(VERSION.serving, scaling=begun.surge))}
    restarts.advance(workers("a", "b"), running, {})
    restarts.advance(workers("b"), running, {})
    assert restarts.scaled([VERSION], running) == [], "Serve has not started another in its place"
    clock.now += 29
    restarts.advance(workers("b"), running, {})
    assert restarts.scaled([VERSION], running) == []
    clock.now += 2
    restarts.advance(workers("b"), running, {})
    assert restarts.scaled([VERSION], running) == [VERSION], (
        "there is no room for another; Serve knows by now"
    )


def test_several_are_replaced_one_after_another() -> None:
    step = next_step(restart("a", "b"), workers("a", "b", "c"), 1.0)
    assert step.ending == "a"
    step = next_step(step, workers("b", "c"), 2.0)
    assert (set(step.left), step.ending) == ({"b"}, "a"), "the next waits for the one in its place"
    step = next_step(step, workers("b", "c", "d"), 3.0)
    assert step.ending == "b"
    assert next_step(step, workers("c", "d", "e"), 4.0).state is RestartState.DONE


def test_where_there_is_no_room_for_one_more_several_do_with_one_less() -> None:
    two, one = restart("a", "b"), restart("a")
    assert next_step(two, workers("a", "b"), 29.0).ending == ""
    assert next_step(two, workers("a", "b"), 31.0).ending == "a"
    assert next_step(two, workers("a"), 31.0).ending == "", "the last one stays until another is there"
    assert next_step(one, workers("a"), 31.0).ending == ""


def test_a_worker_that_never_comes_is_given_up_and_why_is_told() -> None:
    given_up = next_step(restart("a"), workers("a"), 161.0, "it waits for a GPU")
    assert given_up.state is RestartState.FAILED
    assert given_up.message == "no new worker was ready within 161 s: it waits for a GPU"
    assert given_up.left == {"a"}


def test_workers_that_ended_by_themselves_are_replaced_too() -> None:
    assert next_step(restart("a"), workers("b", "c"), 1.0).state is RestartState.DONE
    # One that leaves by itself is waited for.
    leaving = [*workers("a", state=WorkerState.DRAINING), *workers("b", "c")]
    assert next_step(restart("a"), leaving, 1.0).ending == ""


def test_meanwhile_the_version_has_one_worker_more() -> None:
    restarts = Restarts(Clock())
    begun = restarts.begin(VERSION, workers("a"))
    assert (begun.surge.min, begun.surge.max) == (2, 2)
    (deployed,) = restarts.scaled([VERSION], VERSIONS)
    assert deployed.serving.scaling == begun.surge
    assert deployed.kind == VERSION.kind, "its workers are the same"
    running = {APP: deployed}
    # The config still wants what it wanted: it is not deployed to and fro.
    assert restarts.scaled([VERSION], running) == []
    restarts.advance(workers("b", "c"), running, {})
    assert restarts.scaled([VERSION], running) == [VERSION]


def test_what_cannot_be_restarted_is_said() -> None:
    restarts = Restarts(Clock())
    with pytest.raises(ControlError, match="iris v1 has no worker that is ready"):
        restarts.begin(VERSION, workers("a", state=WorkerState.LOADING))
    restarts.begin(VERSION, workers("a"))
    with pytest.raises(ControlError, match="iris v1 is being restarted already"):
        restarts.begin(VERSION, workers("a"))
    restarts.advance(workers("b", "c"), VERSIONS, {})
    assert restarts.begin(VERSION, workers("b")).left == {"b"}


def test_only_the_worker_whose_turn_it_is_must_end() -> None:
    restarts = Restarts(Clock())
    restarts.begin(VERSION, workers("a", "b"))
    restarts.advance(workers("a", "b", "c"), VERSIONS, {})
    assert [name for name in "abc" if restarts.must_end(name)] == ["a"]
    restarts.advance(workers("b", "c"), VERSIONS, {})
    assert [name for name in "abc" if restarts.must_end(name)] == []


def test_the_restart_of_a_version_that_is_no_more_is_forgotten() -> None:
    other: Version = replace(VERSION, app=AppName("other"))
    restarts = Restarts(Clock())
    restarts.begin(VERSION, workers("a"))
    restarts.advance(workers("a", "b"), {other.app: other}, {})
    assert restarts.of("iris") == []
    assert not restarts.must_end("a")
