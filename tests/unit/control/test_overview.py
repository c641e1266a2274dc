"""What the gateway tells of its versions, and which of them answers a call that the activator holds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.activator.held_call import HeldCall
from gateway.control.activator.sleepers import GatewaySleepers
from gateway.control.state.database import AppRoute, State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.desired import DesiredModel
from gateway.control.state.overview import GatewayOverview
from gateway.control.state.status import Status
from gateway.control.state.versions import Version, version_of
from gateway.control.state.workers import Workers
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from gateway.serving import Scaling, Serving

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
        Announcement("w1", STABLE.app, WorkerState.READY, runtime="onnx", ongoing=3, queued=1, number=1)
    )
    workers.hear(Announcement("w2", OLD.app, WorkerState.LOADING, number=1))
    workers.hear(Announcement("w3", AppName("unknown"), WorkerState.READY, number=1))
    overview = GatewayOverview(Loop(), state, workers, Descriptions(state), Held())
    assert overview.status is Loop.status
    assert overview.description(STABLE.app) is None
    samples = {sample.labels.version: sample for sample in overview.version_samples()}
    assert list(samples) == ["v1", "v0", "v2"]
    stable = samples["v1"]
    assert (stable.labels.model, stable.labels.runtime) == ("iris", "onnx")
    assert stable.labels.digest == STABLE.digest.hex[:12]
    assert (stable.ongoing, stable.queued, stable.held) == (3, 1, 2)
    assert stable.replicas == {"ready": 1}
    assert samples["v0"].replicas == {"ready": 0, "loading": 1}
    assert [samples[tag].weights for tag in ("v1", "v2", "v0")] == [{"stable": 80}, {"canary": 20}, {}]


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
