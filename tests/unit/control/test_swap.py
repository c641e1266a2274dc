"""With `surge: 0`, the stable version ends before the next one loads: what is planned at each point."""

from __future__ import annotations

from dataclasses import replace

from gateway.contract import Announcement, WorkerState
from gateway.control.loop.reconcile import reconcile
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import Desired, DesiredModel
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import ModelState
from gateway.control.state.versions import Version, version_of
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference

KITS = {tag: parse_reference(f"registry.test/iris:{tag}") for tag in ("v1", "v2")}
PINS = {kit: Digest.of(tag.encode()) for tag, kit in KITS.items()}


def model(tag: str, surge: int = 0) -> DesiredModel:
    return DesiredModel("iris", KITS[tag], surge=surge)


def version(tag: str, number: int) -> Version:
    return version_of(model(tag), PinnedReference.of(KITS[tag], PINS[KITS[tag]]), number)


V1, V2 = version("v1", 1), version("v2", 2)
OLD = Announcement("w1", V1.app, WorkerState.READY, host="10.0.0.1", port=1)
NEW = Announcement("w2", V2.app, WorkerState.READY, host="10.0.0.1", port=2)
BEFORE = Recorded(
    desired=Desired(2, (model("v2"),)),
    pins=PINS,
    failures={},
    versions={V1.app: V1},
    routes={"iris": AppRoute(V1.app)},
)


def test_the_next_version_waits_for_the_one_that_serves() -> None:
    plan = reconcile(BEFORE, Observed({V1.app: ""}, (OLD,)))
    assert (plan.deploy, plan.swaps, plan.surplus) == ((), (V2,), ())
    assert plan.routes == {"iris": AppRoute(V1.app)}
    (status,) = plan.models
    assert "loads once the version before it has ended (`surge: 0`)" in status.message


def test_nothing_answers_once_the_stable_version_is_condemned_and_nothing_loads_beside_it() -> None:
    condemned = replace(BEFORE, condemned=frozenset({V1.app}))
    plan = reconcile(condemned, Observed({V1.app: ""}, (OLD,)))
    assert (plan.deploy, plan.swaps, plan.surplus) == ((), (), (V1.app,))
    assert plan.routes == {"iris": AppRoute()}
    (status,) = plan.models
    assert status.state is ModelState.LOADING


def test_the_next_version_loads_once_the_other_is_gone_and_takes_the_calls_when_it_is_ready() -> None:
    gone = replace(BEFORE, versions={}, routes={"iris": AppRoute()})
    plan = reconcile(gone, Observed({}, ()))
    assert (plan.deploy, plan.swaps) == ((V2,), ())
    assert plan.models[0].message == "starting a worker", "it waits for nobody"
    loaded = replace(gone, versions={V2.app: V2})
    plan = reconcile(loaded, Observed({V2.app: ""}, (NEW,)))
    assert plan.routes == {"iris": AppRoute(V2.app)}
    assert (plan.deploy, plan.swaps, plan.surplus) == ((), (), ())


def test_where_nothing_runs_as_after_a_start_the_next_version_loads_alone() -> None:
    plan = reconcile(BEFORE, Observed({}, ()))
    assert (plan.deploy, plan.swaps) == ((), (V2,)), "neither beside the other"
    condemned = replace(BEFORE, condemned=frozenset({V1.app}))
    plan = reconcile(condemned, Observed({}, ()))
    assert (plan.deploy, plan.surplus) == ((V2,), (V1.app,))
    failed = replace(BEFORE, failures={V2.kind: "cannot be loaded"})
    plan = reconcile(failed, Observed({}, ()))
    assert (plan.deploy, plan.swaps) == ((V1,), ())


def test_a_version_that_failed_takes_nobodys_place() -> None:
    failed = replace(BEFORE, failures={V2.kind: "cannot be loaded"})
    plan = reconcile(failed, Observed({V1.app: ""}, (OLD,)))
    assert (plan.deploy, plan.swaps) == ((), ())
    assert plan.routes == {"iris": AppRoute(V1.app)}


def test_with_room_for_two_the_next_version_loads_beside_the_other() -> None:
    beside = replace(BEFORE, desired=Desired(2, (model("v2", surge=1),)))
    plan = reconcile(beside, Observed({V1.app: ""}, (OLD,)))
    assert (plan.deploy, plan.swaps) == ((V2,), ())
