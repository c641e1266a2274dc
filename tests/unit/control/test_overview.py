"""What the gateway tells of its versions, and which of them answers a call that the activator holds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.activator.held_call import HeldCall
from gateway.control.activator.sleepers import GatewaySleepers
from gateway.control.state.database import AppRoute, State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.desired import DesiredModel
from gateway.control.state.overview import GatewayOverview
from gateway.control.state.status import ModelState, ModelStatus, Status
from gateway.control.state.versions import Version, version_of
from gateway.control.state.workers import Workers
from gateway.edge.control import EdgeControl
from gateway.edge.edge import EdgeStatistics
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.metrics.edge_numbers import EdgeNumbers
from gateway.metrics.system import EdgeSample
from gateway.metrics.tally import Tally
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from gateway.serving import Scaling, Serving
from runtimes.base import Resources
from tests.support.control_plane import FakeEdge

GONE = AppName("gone")


def version(tag: str, may_sleep: bool = False) -> Version:
    kit = parse_reference(f"registry.test/team/iris:{tag}")
    model = DesiredModel("iris", kit, Serving(scaling=Scaling(min=0 if may_sleep else 1)))
    return version_of(model, PinnedReference.of(kit, Digest.of(tag.encode())), 1)


STABLE, CANARY, OLD, SLEEPY = version("v1"), version("v2"), version("v0"), version("v3", may_sleep=True)


class Loop:
    status = Status(3)


class Held:
    def waiting(self) -> Mapping[AppName, int]:
        return {STABLE.app: 2}


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state.db")
    for version in (STABLE, CANARY, OLD, SLEEPY):
        state.keep_version(version)
    state.save_routes({"iris": AppRoute(STABLE.app, CANARY.app, 20), "lilac": AppRoute(GONE, None, 0)})
    return state


def test_each_version_that_is_routed_or_has_workers_has_a_sample(state: State) -> None:
    workers = Workers()
    workers.hear(
        Announcement(
            "w1",
            STABLE.app,
            WorkerState.READY,
            runtime="onnx",
            ongoing=3,
            queued=1,
            generating=2,
            kv_cache_usage=0.5,
            gpu_memory_bytes=7,
            number=1,
        )
    )
    workers.hear(Announcement("w2", OLD.app, WorkerState.LOADING, number=1))
    workers.hear(Announcement("w3", AppName("unknown"), WorkerState.READY, number=1))
    overview = GatewayOverview(Loop(), state, workers, Descriptions(state), Held(), FakeEdge())
    assert overview.status is Loop.status
    assert overview.description(STABLE.app) is None
    samples = {sample.labels.version: sample for sample in overview.version_samples()}
    assert list(samples) == ["v1", "v0", "v2"]
    stable = samples["v1"]
    assert (stable.labels.model, stable.labels.runtime) == ("iris", "onnx")
    assert stable.labels.digest == STABLE.digest.hex[:12]
    assert (stable.ongoing, stable.queued, stable.held) == (3, 1, 2)
    assert (stable.generating, stable.kv_cache_usage) == (2, {"w1": 0.5})
    assert (stable.gpu_memory_bytes, samples["v0"].gpu_memory_bytes) == ({"w1": 7}, {})
    assert stable.replicas == {"ready": 1}
    assert samples["v0"].replicas == {"ready": 0, "loading": 1}
    assert [samples[tag].weights for tag in ("v1", "v2", "v0")] == [{"stable": 80}, {"canary": 20}, {}]


class CountingEdge(FakeEdge):
    """An edge that has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}

    def statistics(self) -> EdgeStatistics:
        counted = {
            app: EdgeNumbers(Counter({("edge", "5xx"): errors})) for app, errors in self.numbers.items()
        }
        return EdgeStatistics(counted, EdgeSample(is_up=True), 50)


def test_counters_go_on_under_the_labels_of_a_version_that_is_run_anew(state: State) -> None:
    workers, edge, tally = Workers(), CountingEdge(), Tally()
    again = replace(STABLE, app=AppName(STABLE.app[:-1] + "2"), serving=Serving(resources=Resources(cpus=3)))
    tally.answered("stable", 200, request=0.1, queue=0.0, compute=0.1)
    workers.hear(
        Announcement("w1", STABLE.app, WorkerState.READY, runtime="onnx", numbers=tally.numbers(), number=1)
    )
    edge.numbers = {STABLE.app: 5}
    overview = GatewayOverview(Loop(), state, workers, Descriptions(state), Held(), edge)

    def counted() -> list[tuple[str, int, int, int]]:
        shown = [sample for sample in overview.scrape().versions if sample.labels.version == "v1"]
        return [
            (
                sample.labels.runtime,
                sample.numbers.succeeded.calls,
                sample.edge.responses["edge", "5xx"],
                sample.restarts,
            )
            for sample in shown
        ]

    assert counted() == [("onnx", 1, 5, 0)]
    state.keep_version(again)
    workers.hear(
        Announcement("w2", again.app, WorkerState.READY, runtime="onnx", numbers=tally.numbers(), number=1)
    )
    edge.numbers[again.app] = 1
    assert counted() == [("onnx", 2, 6, 0)], "no two series have the same labels"
    workers.drop("w1")
    state.save_routes({})
    state.drop_version(STABLE.app)
    assert counted() == [("onnx", 2, 6, 1)], "what is gone still counts"
    workers.drop("w2")
    assert counted() == [("onnx", 2, 6, 2)]


def test_who_said_that_it_drains_was_not_restarted_and_a_failed_one_was() -> None:
    workers = Workers()
    for number, last in enumerate((WorkerState.DRAINING, WorkerState.FAILED, WorkerState.READY)):
        workers.hear(Announcement(f"w{number}", STABLE.app, WorkerState.READY, number=1, memory_bytes=number))
        workers.hear(Announcement(f"w{number}", STABLE.app, last, number=2, memory_bytes=number))
    assert workers.numbers()[STABLE.app].memory_bytes == {"w0": 0, "w1": 1, "w2": 2}
    workers.take_failed()
    workers.drop("w0")
    assert workers.numbers()[STABLE.app].restarts == 1
    workers.drop("w2")
    assert (workers.numbers()[STABLE.app].restarts, workers.numbers()[STABLE.app].memory_bytes) == (2, {})


def test_the_states_of_models_and_of_processes_are_in_a_scrape(state: State) -> None:
    class Failing:
        status = Status(3, (ModelStatus("iris", ModelState.FAILED, "no", ()),))

    overview = GatewayOverview(Failing(), state, Workers(), Descriptions(state), Held(), CountingEdge())
    system = overview.scrape().system
    (model,) = system.models
    assert model.states == {state.value: state is ModelState.FAILED for state in ModelState}
    assert (model.rollout, model.tries) == (None, 0)
    assert system.edge == EdgeSample(is_up=True, unavailable={"iris": 0})
    assert system.memory_bytes["edge"] == 50
    assert system.memory_bytes["gateway"] > 10_000_000


@pytest.mark.parametrize(
    ("occupant", "path", "answers"),
    [
        (STABLE, b"/v2/models/iris/infer", STABLE),
        (CANARY, b"/v2/models/iris/infer", STABLE),
        (CANARY, b"/v2/models/iris/versions/v2/infer", CANARY),
        (SLEEPY, b"/v2/models/iris/infer", SLEEPY),
    ],
    ids=["stable", "canary", "named canary", "canary that may sleep"],
)
def test_a_held_call_is_answered_by_the_version_that_it_names_or_may_wake(
    state: State, monkeypatch: pytest.MonkeyPatch, occupant: Version, path: bytes, answers: Version
) -> None:
    woken: list[str] = []

    async def wake(app: AppName) -> None:
        woken.append(app)

    async def main() -> None:
        edge = EdgeControl(EdgeSettings("127.0.0.1:0"), EdgeFiles(Path()))
        monkeypatch.setattr(edge, "occupant", {"slot1": occupant.app, "slot2": GONE}.get)
        workers = Workers()
        workers.hear(Announcement("w1", STABLE.app, WorkerState.READY, number=1))
        sleepers = GatewaySleepers(state, workers, edge, wake)
        call = HeldCall("slot1", b"POST %s HTTP/1.1\r\n\r\n" % path, b"")
        sleeper = sleepers.find(call)
        assert sleeper is not None
        assert (sleeper.app, sleeper.model, sleeper.version) == (answers.app, "iris", answers.label)
        assert (sleeper.digest, sleeper.wake_seconds) == (
            str(answers.digest),
            answers.serving.scaling.wake_timeout,
        )
        for backend in ("slot2", "slot3"):
            assert sleepers.find(HeldCall(backend, call.head, b"")) is None
        assert [worker.worker for worker in sleepers.ready_workers(STABLE.app)] == ["w1"]
        await sleepers.wake(answers.app)

    asyncio.run(main())
    assert woken == [answers.app]


def test_a_model_that_is_removed_leaves_no_series(state: State) -> None:
    class Loop:
        status = Status(3, (ModelStatus("iris", ModelState.READY, "", ()),))

    class Edge(CountingEdge):
        def statistics(self) -> EdgeStatistics:
            whole = EdgeSample(is_up=True, unavailable={"iris": 2, "removed": 9})
            return replace(super().statistics(), whole=whole)

    workers, edge = Workers(), Edge()
    workers.hear(Announcement("w1", STABLE.app, WorkerState.READY, number=1))
    edge.numbers = {STABLE.app: 5}
    overview = GatewayOverview(Loop(), state, workers, Descriptions(state), Held(), edge)
    assert "v1" in {sample.labels.version for sample in overview.scrape().versions}
    state.save_routes({})
    state.condemn_version(STABLE.app)
    state.drop_version(STABLE.app)
    scrape = overview.scrape()
    assert "v1" not in {sample.labels.version for sample in scrape.versions}
    assert scrape.system.edge is not None
    assert scrape.system.edge.unavailable == {"iris": 2}


def test_what_workers_of_versions_that_are_gone_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_REMEMBERED", "_MAX_GONE"):
        monkeypatch.setattr(f"gateway.control.state.workers.{name}", 3)
    workers = Workers()
    workers.hear(Announcement("stays", AppName("app0"), WorkerState.READY, number=1))
    for number in range(20):
        workers.hear(Announcement(f"w{number}", AppName(f"app{number}"), WorkerState.READY, number=1))
        workers.drop(f"w{number}")
    numbers = workers.numbers()
    assert len(numbers) <= 7
    assert numbers[AppName("app0")].restarts == 1, "a version that has workers is not forgotten"


def test_workers_that_are_not_contained_are_counted(state: State) -> None:
    workers = Workers()
    for name, off in (("w1", ("files",)), ("w2", ())):
        workers.hear(Announcement(name, STABLE.app, WorkerState.READY, not_contained=off, number=1))
    workers.hear(Announcement("w3", STABLE.app, WorkerState.LOADING, not_contained=("files",), number=1))
    assert workers.numbers()[STABLE.app].uncontained == 1


def test_without_the_state_the_rest_is_told(state: State) -> None:
    overview = GatewayOverview(Loop(), state, Workers(), Descriptions(state), Held(), CountingEdge())
    state.close()
    scrape = overview.scrape()
    assert (scrape.versions, scrape.system.memory_bytes["edge"]) == ((), 50)
    assert state.errors == 1
