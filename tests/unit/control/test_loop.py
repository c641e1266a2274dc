"""The loop as it runs: from an applied config to routes at the edge, and what it does when parts fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config.config import GatewayConfig
from gateway.contract import MAX_REST_SECONDS, AppName, NodeSettings, Passing, WorkerState
from gateway.control.loop import judge as judge_module
from gateway.control.loop import loop as loop_module
from gateway.control.loop import resolver as resolver_module
from gateway.control.loop import retries as retries_module
from gateway.control.loop import silence as silence_module
from gateway.control.loop import tasks as tasks_module
from gateway.control.loop import watch as watch_module
from gateway.control.loop.deployer import DeploySettings
from gateway.control.loop.loop import ReconcileLoop
from gateway.control.loop.resolver import Meaning
from gateway.control.state.database import AppRoute, State
from gateway.control.state.desired import desired_from
from gateway.control.state.restarts import Restarts, RestartState
from gateway.control.state.status import ModelState
from gateway.control.state.workers import Workers
from gateway.edge.routes import RoutingTable, Server
from gateway.errors import EdgeError, NotFound, UnusableModel
from gateway.oci.reference import Digest
from tests.support.clock import Clock
from tests.support.control_plane import FakeEdge, FakeRollouts, FakeServe, report, wait_for_tasks
from tests.support.waiting import wait

KIT = "oci-layout:/nowhere:iris:v1"


class Plane:
    """A loop with its own state, Serve and edge."""

    def __init__(self, home: Path, serve: FakeServe) -> None:
        self.state = State(home / "state.db")
        self.state.begin("this start")
        self.workers = Workers()
        self.serve = serve
        self.restarts = Restarts()
        self.edge = FakeEdge()
        self.rollouts = FakeRollouts(self.state)
        edge: Any = self.edge
        rollouts: Any = self.rollouts
        node = NodeSettings(home, "127.0.0.1", gateway="kitserve", edge_key="", drain_seconds=1.0)
        settings = DeploySettings(node, reserve_cpus=False)
        self.loop = ReconcileLoop(
            self.state, self.workers, edge, rollouts, settings, lambda _: False, self.restarts
        )

    def start(self, replicas: dict[str, int] | None = None) -> AppName:
        """Apply a config and start the loop; returns the app once Serve runs it."""
        self.apply(replicas)
        self.loop.start(has_workers=False)
        wait(lambda: len(self.serve.running) == 1)
        return next(iter(self.serve.running))

    def start_and_serve(self, replicas: dict[str, int] | None = None) -> AppName:
        """Do the same, and return the app once it takes calls."""
        app = self.start(replicas)
        self.workers.hear(report(app))
        wait(lambda: self.shown() == (ModelState.READY, ""))
        return app

    def apply(self, replicas: dict[str, int] | None = None) -> None:
        model = {"name": "iris", "kit": KIT, "replicas": replicas or {"min": 1, "max": 1}}
        self.state.apply(desired_from(GatewayConfig.model_validate({"models": [model]})), "{}")

    def ticks(self, count: int = 3) -> None:
        """Wait for so many ticks more; what the first of them saw has been carried out by the last."""
        for _ in range(count):
            beat = self.loop.beat
            wait(lambda beat=beat: self.loop.beat > beat)  # type: ignore[misc]  # a lambda with a default

    def look(self) -> None:
        """Wait until the loop has looked at Serve anew."""
        looks = self.serve.looks
        wait(lambda: self.serve.looks > looks + 1)

    def shown(self) -> tuple[ModelState, str] | None:
        """Return the model's state and message."""
        return next(((model.state, model.message) for model in self.loop.status.models), None)

    def servers(self) -> tuple[Server, ...] | None:
        """Return the workers that the edge gives the model's calls to, None while it has no version."""
        table = self.edge.tables[-1] if self.edge.tables else RoutingTable()
        return next((backend.servers for backend in table.backends()), None)


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    monkeypatch.setattr(resolver_module, "resolve", lambda *_: Meaning(Digest.of(b"v1")))
    for name in ("_TICK_SECONDS", "_QUIET_TICK_SECONDS"):
        monkeypatch.setattr(loop_module, name, 0.02)
    for name in ("_LOOK_SECONDS", "_QUIET_LOOK_SECONDS"):
        monkeypatch.setattr(watch_module, name, 0.02)
    plane = Plane(tmp_path, FakeServe(monkeypatch))
    yield plane
    plane.loop.stop()
    wait_for_tasks()
    plane.state.close()


def test_from_a_config_to_routes(plane: Plane) -> None:
    app = plane.start()
    wait(lambda: plane.shown() == (ModelState.LOADING, "deploying"))
    assert plane.servers() is None
    plane.workers.hear(report(app))
    wait(lambda: plane.shown() == (ModelState.READY, ""))
    assert plane.state.routes() == {"iris": AppRoute(app)}
    assert plane.servers() == (Server(f"{app}#1", "10.0.0.1", 1),)


def test_it_looks_less_often_while_nothing_is_under_way(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_EDGE_SECONDS", 0.0)
    app = plane.start()
    wait(lambda: plane.shown() == (ModelState.LOADING, "deploying"))
    assert not plane.loop._watch.is_quiet
    plane.workers.hear(report(app))
    wait(lambda: plane.loop._watch.is_quiet)
    plane.edge.error = EdgeError("it is gone")
    wait(lambda: not plane.loop._watch.is_quiet)


def test_routes_are_logged_where_weights_change_and_not_for_each_worker(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    app = plane.start_and_serve({"min": 2, "max": 2})
    plane.workers.hear(report(app, port=2))
    wait(lambda: len(plane.servers() or ()) == 2)
    applied = [record for record in caplog.records if record.msg == "routes.applied"]
    assert [record.__dict__["routes"] for record in applied] == [{"iris": {}}, {"iris": {app: 100}}]


def test_what_a_worker_that_answers_has_to_tell_is_shown(plane: Plane) -> None:
    app = plane.start()
    plane.workers.hear(replace(report(app), not_batched="no batch axis", first_call="index out of range"))
    wait(lambda: plane.shown() == (ModelState.READY, ""))
    (version,) = plane.loop.status.models[0].versions
    assert version.note == (
        "not batched: no batch axis; unproven, as its first call failed: index out of range"
    )


def test_a_change_is_seen_at_once(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TICK_SECONDS", "_QUIET_TICK_SECONDS"):
        monkeypatch.setattr(loop_module, name, 60.0)
    app = plane.start()
    wait(lambda: plane.shown() == (ModelState.LOADING, "deploying"))
    plane.workers.hear(report(app))
    plane.loop.wake()
    wait(lambda: plane.servers() is not None)


def test_an_edge_that_has_the_table_is_given_it_again_only_now_and_then(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.start_and_serve()
    plane.ticks()
    tables = len(plane.edge.tables)
    plane.ticks()
    assert len(plane.edge.tables) == tables
    monkeypatch.setattr(loop_module, "_EDGE_SECONDS", 0.0)
    wait(lambda: len(plane.edge.tables) > tables)


def test_nothing_is_done_before_a_config_is_applied_in_this_start(plane: Plane) -> None:
    plane.apply()
    plane.state.begin("the next start")
    plane.loop.start(has_workers=False)
    plane.ticks()
    assert (plane.loop.status.models, plane.edge.tables, plane.serve.running) == ((), [], {})


def test_a_version_whose_worker_fails_before_it_takes_calls_is_given_up(plane: Plane) -> None:
    app = plane.start()
    plane.workers.hear(report(app, WorkerState.FAILED, "it is a pickle"))
    wait(lambda: plane.shown() == (ModelState.FAILED, "it is a pickle"))
    wait(lambda: plane.serve.deleted == [app])


def test_a_version_that_takes_calls_is_left_to_serve_when_its_worker_fails(plane: Plane) -> None:
    app = plane.start_and_serve()
    plane.workers.hear(report(app, WorkerState.FAILED, "no memory"))
    wait(lambda: plane.shown() == (ModelState.LOADING, "deploying"))
    plane.ticks()
    assert (plane.state.failures(), plane.state.routes()) == ({}, {"iris": AppRoute(app)})


def test_a_version_that_serve_gave_up_is_given_up_unless_a_worker_is_ready(plane: Plane) -> None:
    app = plane.start_and_serve()
    plane.serve.give_up(app)
    plane.look()
    plane.ticks()
    assert plane.shown() == (ModelState.READY, "")
    plane.workers.drop(f"{app}#1")
    wait(lambda: plane.shown() == (ModelState.FAILED, "its workers die"))
    assert plane.state.routes() == {"iris": AppRoute()}


def test_where_serve_gave_up_people_are_told_what_a_worker_said(plane: Plane) -> None:
    app = plane.start_and_serve()
    plane.workers.hear(report(app, WorkerState.FAILED, "no memory"))
    wait(lambda: plane.shown() == (ModelState.LOADING, "deploying"))
    plane.serve.give_up(app)
    wait(lambda: plane.shown() == (ModelState.FAILED, "no memory"))


def test_a_version_that_sleeps_is_not_given_up_when_it_fails_to_wake(plane: Plane) -> None:
    app = plane.start_and_serve({"min": 0, "max": 1})
    plane.workers.drop(f"{app}#1")
    plane.serve.give_up(app)
    wait(lambda: plane.shown() == (ModelState.ASLEEP, "the next call wakes it"))
    plane.ticks()
    assert plane.state.routes() == {"iris": AppRoute(app)}


@pytest.mark.parametrize("minimum", [1, 0])
def test_workers_that_run_and_do_not_report_are_told_of_until_they_do(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, minimum: int
) -> None:
    monkeypatch.setattr(silence_module, "_SILENCE_SECONDS", 0.2)
    app = plane.start({"min": minimum, "max": 1})
    wait(lambda: plane.shown() == (ModelState.LOADING, "deploying"))
    plane.serve.run(app)
    wait(lambda: "its workers run but have not reported for 0.2 s" in str(plane.shown()))
    assert str(ModelState.LOADING) in str(plane.shown())
    plane.workers.hear(report(app))
    wait(lambda: plane.shown() == (ModelState.READY, ""))


def test_a_version_that_sleeps_has_no_silent_workers(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence_module, "_SILENCE_SECONDS", 0.0)
    app = plane.start_and_serve({"min": 0, "max": 1})
    plane.serve.run(app, workers=0)
    plane.workers.drop(f"{app}#1")
    wait(lambda: plane.shown() == (ModelState.ASLEEP, "the next call wakes it"))
    plane.look()
    plane.ticks()
    assert plane.shown() == (ModelState.ASLEEP, "the next call wakes it")


def test_what_is_wrong_at_the_edge_is_told_and_tried_again(plane: Plane) -> None:
    app = plane.start_and_serve()
    plane.edge.error = EdgeError("no answer")
    plane.workers.hear(report(app, port=2))
    wait(lambda: plane.loop.status.edge == "no answer")
    plane.edge.error = None
    wait(lambda: plane.loop.status.edge == "")
    servers = plane.servers()
    assert servers is not None
    assert [server.port for server in servers] == [1, 2]


def test_a_model_that_the_edge_was_never_told_of_is_not_ready(plane: Plane) -> None:
    plane.edge.error = EdgeError("it needs more files")
    plane.workers.hear(report(plane.start()))
    message = "its workers are ready, but the edge does not route to them: it needs more files"
    wait(lambda: plane.shown() == (ModelState.LOADING, message))
    plane.edge.error = None
    wait(lambda: plane.shown() == (ModelState.READY, ""))
    plane.edge.error = EdgeError("it is being started again")
    plane.workers.hear(report(next(iter(plane.serve.running)), port=2))
    wait(lambda: plane.loop.status.edge != "")
    assert plane.shown() == (ModelState.READY, ""), "callers have a way to it"


def test_a_tick_that_raises_is_told_and_ends_nothing(plane: Plane) -> None:
    plane.apply()
    plane.serve.error = ConnectionError("the controller is gone")
    plane.loop.start(has_workers=False)
    wait(lambda: plane.loop.status.trouble == "the controller is gone")
    plane.serve.error = None
    wait(lambda: len(plane.serve.running) == 1)
    wait(lambda: plane.loop.status.trouble == "")


def test_a_kit_that_cannot_be_served_fails_without_a_worker(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnusableModel("it is no model")

    monkeypatch.setattr(judge_module, "check_version", refuse)
    plane.apply()
    plane.loop.start(has_workers=False)
    wait(lambda: plane.shown() == (ModelState.FAILED, "it is no model"))
    plane.ticks()
    assert plane.serve.deployments == []
    assert plane.state.versions() == {}
    monkeypatch.setattr(judge_module, "check_version", lambda *_: None)
    plane.apply()
    wait(lambda: len(plane.serve.running) == 1)


@pytest.mark.parametrize("reports_again", [True, False])
def test_after_a_restart_it_acts_once_the_workers_were_heard_or_are_silent_for_long(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, reports_again: bool
) -> None:
    monkeypatch.setattr(loop_module, "_MIN_HEARING_SECONDS", 0.0)
    plane.apply()
    app = AppName("iris.v1.0123456789ab.01234567.1")
    plane.state.save_routes({"iris": AppRoute(app)})
    plane.loop.start(has_workers=True)
    plane.ticks()
    assert (plane.edge.tables, plane.serve.running) == ([], {})
    if reports_again:
        plane.workers.hear(report(app))
    else:
        monkeypatch.setattr(loop_module, "_MAX_HEARING_SECONDS", 0.0)
    wait(lambda: len(plane.edge.tables) > 0)


@pytest.mark.parametrize(("running", "seconds"), [(1, 3.0), (2, MAX_REST_SECONDS + 2.0)])
def test_after_a_restart_a_worker_is_awaited_that_runs_and_may_rest(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, running: int, seconds: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=clock, time=time.time))
    plane.loop._started = clock.now
    plane.apply()
    app = AppName("iris.v1.0123456789ab.01234567.1")
    plane.state.save_routes({"iris": AppRoute(app)})
    plane.serve.run(app, running)
    plane.workers.hear(report(app))
    clock.now += seconds - 0.1
    plane.loop.tick()
    assert plane.edge.tables == []
    clock.now += 0.2
    plane.loop.tick()
    assert len(plane.edge.tables) == 1
    # What has not begun cannot be stopped.
    plane.loop.start(has_workers=False)


def test_only_a_canary_whose_rollout_was_aborted_ends_before_the_workers_were_heard(plane: Plane) -> None:
    plane.apply()
    iris = AppRoute(AppName("stable"), AppName("canary"), 20)
    other = AppRoute(AppName("one"), AppName("two"), 20)
    plane.state.save_routes({"iris": iris, "other": other})
    plane.rollouts.degraded.add("iris")
    plane.loop.start(has_workers=True)
    plane.ticks()
    assert plane.edge.tables == []
    assert set(plane.edge.ended_canaries) == {"iris"}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again after a moment."""
    monkeypatch.setattr(retries_module, "_PAUSES", (0.2,))
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.1)


def fail(plane: Plane, app: AppName, passing: Passing | None, port: int = 1) -> None:
    failed = replace(report(app, WorkerState.FAILED, "no answer", port), passing=passing)
    plane.workers.hear(failed)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("passing", [Passing(), Passing(away_host="registry.test")])
def test_a_version_whose_kit_could_not_be_fetched_is_deployed_again_until_it_can(
    plane: Plane, passing: Passing
) -> None:
    app = plane.start()
    for tries in range(1, 4):
        wait(lambda: app in plane.serve.running)
        fail(plane, app, passing, port=tries)
        wait(lambda tries=tries: len(plane.serve.deleted) == tries)  # type: ignore[misc]
    wait(lambda: plane.shown() == (ModelState.FAILED, "no answer") or app in plane.serve.running)
    assert plane.state.failures() == {}
    wait(lambda: app in plane.serve.running)
    plane.workers.hear(report(app, port=9))
    wait(lambda: plane.shown() == (ModelState.READY, ""))
    assert plane.loop.status.models[0].retry is None
    assert len(plane.serve.deployments) == 4


def test_how_often_a_version_was_tried_is_told_and_when_it_is_next(plane: Plane) -> None:
    app = plane.start()
    fail(plane, app, Passing())
    wait(lambda: plane.shown() == (ModelState.FAILED, "no answer"))
    wait(lambda: plane.loop.status.models[0].retry is not None)
    retry = plane.loop.status.models[0].retry
    assert retry is not None
    assert (retry.reason, retry.tries, retry.has_failed) == ("no answer", 1, True)
    assert 3.0 < retry.seconds <= 6.0


@pytest.mark.usefixtures("soon")
def test_a_version_that_can_never_be_served_is_not_tried_again(plane: Plane) -> None:
    app = plane.start()
    fail(plane, app, None)
    wait(lambda: plane.serve.deleted == [app])
    time.sleep(0.5)
    plane.ticks()
    assert (len(plane.serve.deployments), plane.shown()) == (1, (ModelState.FAILED, "no answer"))
    assert plane.loop.status.models[0].retry is None


def test_another_config_tries_at_once(plane: Plane) -> None:
    app = plane.start()
    fail(plane, app, Passing())
    wait(lambda: plane.serve.deleted == [app])
    plane.apply()
    wait(lambda: len(plane.serve.running) == 1)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("was_ready", [True, False])
def test_a_version_that_serve_gave_up_is_tried_again_only_if_it_was_ready_before(
    plane: Plane, was_ready: bool
) -> None:
    app = plane.start_and_serve() if was_ready else plane.start()
    plane.serve.give_up(app)
    plane.look()
    plane.workers.drop(f"{app}#1")
    wait(lambda: plane.serve.deleted == [app])
    if was_ready:
        wait(lambda: app in plane.serve.running)
        plane.workers.hear(report(app, port=2))
        wait(lambda: plane.shown() == (ModelState.READY, ""))
        assert plane.state.routes() == {"iris": AppRoute(app)}
    else:
        time.sleep(0.5)
        plane.ticks()
        assert plane.shown() == (ModelState.FAILED, "its workers die")
        assert len(plane.serve.deployments) == 1


@pytest.mark.usefixtures("soon")
def test_a_version_that_serves_is_not_touched_by_a_registry_that_is_away(plane: Plane) -> None:
    app = plane.start_and_serve({"min": 2, "max": 2})
    fail(plane, app, Passing(away_host="registry.test"), port=2)
    plane.ticks(5)
    assert (plane.serve.deleted, plane.state.routes()) == ([], {"iris": AppRoute(app)})


@pytest.mark.usefixtures("soon")
def test_a_reference_that_could_not_be_resolved_is_asked_for_until_it_can(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Meaning | Exception] = [NotFound("no such tag")] * 3
    answers.append(Meaning(Digest.of(b"v1")))
    shown = []

    def resolve(*_: Any) -> Meaning:
        shown.append(plane.shown())
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(resolver_module, "resolve", resolve)
    plane.start()
    assert answers == []
    assert set(shown[1:]) == {(ModelState.FAILED, "no such tag")}
    assert plane.state.failures() == {}


@pytest.mark.usefixtures("soon")
def test_a_version_that_is_restarted_has_one_worker_more_until_all_are_replaced(plane: Plane) -> None:
    app = plane.start_and_serve({"min": 1, "max": 1})
    version = plane.state.versions()[app]
    old = report(app)
    plane.restarts.begin(version, plane.workers.present())
    wait(lambda: plane.state.versions()[app].serving.scaling.min == 2)
    assert not plane.restarts.must_end(old.worker), "nobody could take its calls"
    new = replace(old, worker="new", port=old.port + 1)
    plane.workers.hear(new)
    wait(lambda: plane.restarts.must_end(old.worker))
    assert not plane.restarts.must_end("new")
    assert plane.serve.deployments[-1][0].serving.scaling.max == 2
    plane.workers.drop(old.worker)
    plane.workers.hear(replace(new, worker="newer", port=new.port + 1))
    wait(lambda: plane.state.versions()[app].serving.scaling == version.serving.scaling)
    assert [restart.state for restart in plane.restarts.of("iris")] == [RestartState.DONE]
    assert set(plane.serve.running) == {app}, "no other application was deployed"


def swap(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> tuple[AppName, AppName]:
    """Serve a version, and apply another with `surge: 0`; return their apps once Serve runs the second."""
    monkeypatch.setattr(resolver_module, "resolve", lambda kit, *_: Meaning(Digest.of(kit.tag.encode())))
    old = plane.start_and_serve()
    plane.serve.run(old)
    apply_swap(plane, "v2")
    wait(lambda: old in plane.serve.deleted)
    plane.workers.drop(f"{old}#1")
    wait(lambda: len(plane.serve.running) == 1 and old not in plane.serve.running)
    return old, next(iter(plane.serve.running))


def apply_swap(plane: Plane, tag: str) -> None:
    model = {"name": "iris", "kit": KIT.replace("v1", tag), "rollout": {"surge": 0}}
    plane.state.apply(desired_from(GatewayConfig.model_validate({"models": [model]})), "{}")


def events(plane: Plane) -> list[tuple[str, str]]:
    return [(event.phase, event.reason) for event in plane.rollouts.announced]


def test_the_gap_of_a_swap_is_told_from_its_beginning_to_its_end(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = swap(plane, monkeypatch)
    assert events(plane) == [("Progressing", "Swapping")]
    assert plane.state.routes()["iris"] == AppRoute(None)
    assert [version.app for version, _ in plane.serve.deployments] == [old, new]
    plane.workers.hear(report(new, port=2))
    wait(lambda: len(plane.rollouts.announced) == 2)
    assert events(plane)[1] == ("Healthy", "RolloutCompleted")
    began, ended = plane.rollouts.announced
    assert (began.stable[:27], ended.stable, ended.canary) == (KIT[:27], began.canary, "")
    assert began.stable != began.canary
    assert len(plane.state.rollout_events("iris")) == 2


def come_back(plane: Plane, failed: AppName) -> AppName:
    """Wait until Serve runs the version before one that failed, and have it answer; return its app."""
    wait(lambda: len(plane.serve.running) == 1 and failed not in plane.serve.running)
    back = next(iter(plane.serve.running))
    plane.workers.hear(report(back, port=3))
    wait(lambda: plane.state.routes()["iris"].stable == back)
    return back


def test_the_version_before_a_swap_comes_back_where_the_next_one_cannot_be_loaded(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = swap(plane, monkeypatch)
    before = plane.serve.deployments[0][0]
    fail(plane, new, passing=None, port=2)
    back = come_back(plane, new)
    returned = plane.serve.deployments[-1][0]
    assert (returned.reference, returned.kind) == (before.reference, before.kind)
    wait(lambda: len(plane.rollouts.announced) == 3)
    assert events(plane)[1:] == [("Degraded", "SwapFailed"), ("Degraded", "SwappedBack")]
    assert plane.rollouts.announced[2].message.startswith("the version before it answers again; ")
    plane.loop.wake()
    time.sleep(0.3)
    assert set(plane.serve.running) == {back}, "the one that failed is tried again"
    assert len(plane.rollouts.announced) == 3
    assert old not in plane.serve.running
    shown = plane.shown()
    assert shown is not None
    assert (shown[0], "no answer" in shown[1]) == (ModelState.FAILED, True), (
        "the config is not what is served"
    )
    apply_swap(plane, "v1")
    wait(lambda: len(plane.rollouts.announced) == 4)
    last = plane.rollouts.announced[3]
    assert (last.phase, last.stable, last.canary) == ("Healthy", str(before.reference), "")
    assert set(plane.serve.running) == {back}


def test_the_version_before_comes_back_too_where_a_later_config_in_the_gap_cannot_be_loaded_either(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = swap(plane, monkeypatch)
    apply_swap(plane, "v3")
    wait(lambda: len(plane.serve.running) == 1 and new not in plane.serve.running)
    newer = next(iter(plane.serve.running))
    fail(plane, newer, passing=None, port=2)
    come_back(plane, newer)
    assert plane.serve.deployments[-1][0].reference == plane.serve.deployments[0][0].reference
    wait(lambda: len(plane.rollouts.announced) == 3)
    assert events(plane) == [
        ("Progressing", "Swapping"),
        ("Degraded", "SwapFailed"),
        ("Degraded", "SwappedBack"),
    ]
    assert ":v3@" in plane.rollouts.announced[2].canary


@pytest.mark.usefixtures("soon")
def test_a_swap_that_failed_and_is_applied_again_is_tried_as_patiently_as_before(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = swap(plane, monkeypatch)
    fail(plane, new, passing=None, port=2)
    wait(lambda: ("Degraded", "SwapFailed") in events(plane))
    wait(lambda: len(plane.serve.running) == 1 and new not in plane.serve.running)
    before = plane.serve.deployments[0][0].reference
    apply_swap(plane, "v2")
    for tries in range(3):
        wait(lambda: plane.serve.deployments[-1][0].reference != before)
        wait(lambda: set(plane.serve.running) == {plane.serve.deployments[-1][0].app})
        count = len(plane.serve.deployments)
        fail(plane, plane.serve.deployments[-1][0].app, Passing(), port=3 + tries)
        wait(lambda count=count: len(plane.serve.deployments) > count)  # type: ignore[misc]
    assert plane.serve.deployments[-1][0].reference == before
    back = plane.serve.deployments[-1][0].app
    wait(lambda: set(plane.serve.running) == {back})
    plane.ticks(10)
    assert set(plane.serve.running) == {back}
    assert len(events(plane)) == 2


def test_what_a_config_asks_for_again_after_a_swap_has_failed_has_not_come_back_but_is_healthy(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = swap(plane, monkeypatch)
    fail(plane, new, passing=None, port=2)
    wait(lambda: ("Degraded", "SwapFailed") in events(plane))
    apply_swap(plane, "v1")
    plane.ticks()
    come_back(plane, new)
    wait(lambda: len(plane.rollouts.announced) == 3)
    assert events(plane)[2] == ("Healthy", "RolloutCompleted")


@pytest.mark.usefixtures("soon")
def test_a_swap_whose_next_version_fails_for_what_may_pass_is_tried_again_and_then_undone(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = swap(plane, monkeypatch)
    tried = [new]
    for tries in range(3):
        fail(plane, tried[-1], Passing(), port=2 + tries)
        assert len(plane.rollouts.announced) == 1 or tries == 2
        wait(
            lambda: (
                not {tried[-1]} & set(plane.serve.running) or len(plane.serve.deployments) > len(tried) + 1
            )
        )
        wait(lambda: len(plane.serve.running) == 1)
        tried.append(next(iter(plane.serve.running)))
    assert plane.serve.deployments[-1][0].reference == plane.serve.deployments[0][0].reference
    assert ("Degraded", "SwapFailed") in events(plane)


def test_a_swap_to_a_version_that_cannot_be_loaded_is_told(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = swap(plane, monkeypatch)
    fail(plane, new, passing=None, port=2)
    wait(lambda: len(plane.rollouts.announced) == 2)
    assert events(plane)[1] == ("Degraded", "SwapFailed")
    assert plane.rollouts.announced[1].message.startswith("the version before it is loaded again: ")
    plane.apply()
    wait(lambda: len(plane.serve.running) == 1 and new not in plane.serve.running)
    plane.workers.hear(report(next(iter(plane.serve.running)), port=3))
    wait(lambda: plane.shown() == (ModelState.READY, ""))
