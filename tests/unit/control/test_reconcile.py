"""Situations of a model, one by one, and what is planned for each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from gateway.contract import Announcement, WorkerState
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import Desired, DesiredModel, FixedCanary
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import GenerationStatus, ModelState, RetryStatus
from gateway.control.state.versions import Kind, Version, version_of
from gateway.edge.routes import RouteState, RoutingTable, Server
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tally import Tally
from gateway.metrics.tokens import Tokens
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference, parse_reference
from gateway.rollout.plan import Plan as RolloutPlan
from gateway.rollout.plan import Step
from gateway.rollout.state import Rollout, Stage
from gateway.serving import Scaling, Serving

READY, LOADING, PULLING, DRAINING = (
    WorkerState.READY,
    WorkerState.LOADING,
    WorkerState.PULLING,
    WorkerState.DRAINING,
)


def kit(tag: str) -> Reference:
    return parse_reference(f"registry.test/iris:{tag}")


def digest(tag: str) -> Digest:
    return Digest.of(tag.encode())


PINS = {kit(tag): digest(tag) for tag in ("v1", "v2", "v3")}


def model(
    tag: str, canary: str = "", weight: int = 20, name: str = "iris", replicas: int = 1
) -> DesiredModel:
    return DesiredModel(
        name=name,
        kit=kit(tag),
        serving=Serving(scaling=Scaling(min=replicas, max=max(replicas, 1))),
        canary=FixedCanary(kit(canary), weight) if canary else None,
    )


def version(tag: str, number: int = 1, name: str = "iris", replicas: int = 1) -> Version:
    pinned = PinnedReference.of(kit(tag), digest(tag))
    return version_of(model(tag, name=name, replicas=replicas), pinned, number)


V1, V2, V3 = version("v1"), version("v2"), version("v3")
TWO = version("v2", replicas=2)
IDLE1, IDLE2 = version("v1", replicas=0), version("v2", replicas=0)
OTHER = version("v1", name="other")


def worker(version: Version, state: WorkerState = READY, port: int = 1, detail: str = "") -> Announcement:
    return Announcement(f"{version.app}#{port}", version.app, state, detail, "10.0.0.1", port, "onnx")


def recorded(
    *models: DesiredModel,
    versions: Iterable[Version] = (),
    routes: Mapping[str, AppRoute] | None = None,
    pins: Mapping[Reference, Digest] = PINS,
    failures: Mapping[Reference | Kind, str] | None = None,
    condemned: Iterable[Version] = (),
    generation: int = 1,
    retries: Mapping[Hashable, RetryStatus] | None = None,
) -> Recorded:
    return Recorded(
        Desired(generation, models),
        pins,
        failures or {},
        {version.app: version for version in versions},
        routes or {},
        frozenset(version.app for version in condemned),
        retries=retries or {},
    )


def late(subject: Hashable, has_failed: bool) -> dict[Hashable, RetryStatus]:
    """A subject that waits to be tried again."""
    return {subject: RetryStatus("no answer", 3, 40.0, is_trying=False, has_failed=has_failed)}


def observed(
    *workers: Announcement, apps: Iterable[Version] = (), proven: Iterable[Version] = ()
) -> Observed:
    running = [version.app for version in (*apps, *proven)] + [announcement.app for announcement in workers]
    return Observed(dict.fromkeys(running, ""), workers, frozenset(version.app for version in proven))


def to(stable: Version | None = None, canary: Version | None = None, weight: int = 0) -> dict[str, AppRoute]:
    return {"iris": AppRoute(stable.app if stable else None, canary.app if canary else None, weight)}


@dataclass(frozen=True)
class Case:
    """A situation of one model, `iris`, and what is planned for it."""

    about: str
    recorded: Recorded
    observed: Observed
    state: ModelState
    message: str = ""
    routes: Mapping[str, AppRoute] = field(default_factory=to)
    resolve: tuple[Reference, ...] = ()
    deploy: tuple[Version, ...] = ()
    surplus: tuple[Version, ...] = ()


CASES = [
    Case(
        "a reference that is not resolved",
        recorded(model("v1"), pins={}),
        observed(),
        ModelState.PULLING,
        "resolving its reference",
        resolve=(kit("v1"),),
    ),
    Case(
        "two references that are not resolved",
        recorded(model("v1", "v2"), pins={}),
        observed(),
        ModelState.PULLING,
        "resolving its reference; canary: resolving its reference",
        resolve=(kit("v1"), kit("v2")),
    ),
    Case(
        "a reference that cannot be resolved",
        recorded(model("v1"), pins={}, failures={kit("v1"): "no such tag"}),
        observed(),
        ModelState.FAILED,
        "no such tag",
    ),
    Case(
        "resolved",
        recorded(model("v1")),
        observed(),
        ModelState.LOADING,
        "starting a worker",
        deploy=(V1,),
    ),
    Case(
        "Serve says why nothing starts",
        recorded(model("v1"), versions=[V1]),
        Observed({V1.app: "no node has 8 CPUs"}, ()),
        ModelState.LOADING,
        "no node has 8 CPUs",
    ),
    Case(
        "the worker pulls",
        recorded(model("v1"), versions=[V1]),
        observed(worker(V1, PULLING, detail="1/9 bytes")),
        ModelState.PULLING,
        "1/9 bytes",
    ),
    Case(
        "the first worker is ready",
        recorded(model("v1"), versions=[V1]),
        observed(worker(V1)),
        ModelState.READY,
        routes=to(V1),
    ),
    Case(
        "the first of two workers is ready",
        recorded(model("v2", replicas=2), versions=[TWO]),
        observed(worker(TWO), worker(TWO, LOADING, 2)),
        ModelState.LOADING,
        "1 of 2 workers are ready",
        routes=to(TWO),
    ),
    Case(
        "a successor starts",
        recorded(model("v2"), versions=[V1], routes=to(V1)),
        observed(worker(V1)),
        ModelState.LOADING,
        "starting a worker",
        routes=to(V1),
        deploy=(V2,),
    ),
    Case(
        "a successor has one worker of two",
        recorded(model("v2", replicas=2), versions=[V1, TWO], routes=to(V1)),
        observed(worker(V1), worker(TWO), worker(TWO, LOADING, 2)),
        ModelState.LOADING,
        "1 of 2 workers are ready",
        routes=to(V1),
    ),
    Case(
        "a successor has all its workers",
        recorded(model("v2", replicas=2), versions=[V1, TWO], routes=to(V1)),
        observed(worker(V1), worker(TWO), worker(TWO, READY, 2)),
        ModelState.READY,
        routes=to(TWO),
        surplus=(V1,),
    ),
    Case(
        "a routed version has lost one worker of two",
        recorded(model("v2", replicas=2), versions=[TWO], routes=to(TWO)),
        observed(worker(TWO)),
        ModelState.READY,
        routes=to(TWO),
    ),
    Case(
        "a routed version has lost its workers",
        recorded(model("v1"), versions=[V1], routes=to(V1)),
        Observed({V1.app: "a replica died"}, ()),
        ModelState.LOADING,
        "a replica died",
        routes=to(V1),
    ),
    Case(
        "a successor failed",
        recorded(model("v2"), versions=[V1, V2], routes=to(V1), failures={V2.kind: "it is a pickle"}),
        observed(worker(V1), apps=[V2]),
        ModelState.FAILED,
        "it is a pickle",
        routes=to(V1),
        surplus=(V2,),
    ),
    Case(
        "a successor's reference cannot be resolved",
        recorded(model("v2"), versions=[V1], routes=to(V1), failures={kit("v2"): "no such tag"}),
        observed(worker(V1)),
        ModelState.FAILED,
        "no such tag",
        routes=to(V1),
    ),
    Case(
        "what failed under an earlier number, and is forgotten, stays away",
        recorded(model("v2"), versions=[V1], routes=to(V1), failures={V2.kind: "no"}, generation=7),
        observed(worker(V1)),
        ModelState.FAILED,
        "no",
        routes=to(V1),
    ),
    Case(
        "the same config again",
        recorded(model("v1"), versions=[V1], routes=to(V1), generation=9),
        observed(worker(V1)),
        ModelState.READY,
        routes=to(V1),
    ),
    Case(
        "the same config again while its worker loads",
        recorded(model("v1"), versions=[V1], generation=9),
        observed(worker(V1, LOADING)),
        ModelState.LOADING,
    ),
    Case(
        "back to an app that is on its way out",
        recorded(model("v1"), versions=[V1, V2], routes=to(V2), condemned=[V1], generation=9),
        observed(worker(V1, DRAINING), worker(V2)),
        ModelState.LOADING,
        "starting a worker",
        routes=to(V2),
        deploy=(version("v1", 9),),
        surplus=(V1,),
    ),
    Case(
        "back to an app that is surplus and not yet on its way out",
        recorded(model("v1"), versions=[V1, V2], routes=to(V2), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V1),
        surplus=(V2,),
    ),
    Case(
        "what is routed goes, whatever is wanted",
        recorded(model("v1"), versions=[V1], routes=to(V1), condemned=[V1], generation=9),
        observed(worker(V1)),
        ModelState.LOADING,
        "starting a worker",
        deploy=(version("v1", 9),),
        surplus=(V1,),
    ),
    Case(
        "a canary is ready",
        recorded(model("v1", "v2"), versions=[V1, V2], routes=to(V1)),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V1, V2, 20),
    ),
    Case(
        "a canary's weight changes",
        recorded(model("v1", "v2", 75), versions=[V1, V2], routes=to(V1, V2, 20), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V1, V2, 75),
    ),
    Case(
        "a canary loads",
        recorded(model("v1", "v2"), versions=[V1, V2], routes=to(V1)),
        observed(worker(V1), worker(V2, LOADING)),
        ModelState.LOADING,
        routes=to(V1),
    ),
    Case(
        "a canary is ready before the first stable version",
        recorded(model("v1", "v2"), versions=[V1, V2]),
        observed(worker(V1, LOADING), worker(V2)),
        ModelState.LOADING,
    ),
    Case(
        "a canary failed",
        recorded(
            model("v1", "v2"),
            versions=[V1, V2],
            routes=to(V1, V2, 20),
            failures={V2.kind: "broken"},
        ),
        observed(worker(V1), apps=[V2]),
        ModelState.FAILED,
        "canary: broken",
        routes=to(V1),
        surplus=(V2,),
    ),
    Case(
        "another canary loads, the former keeps its share",
        recorded(model("v1", "v3", 60), versions=[V1, V2], routes=to(V1, V2, 20)),
        observed(worker(V1), worker(V2)),
        ModelState.LOADING,
        "canary: starting a worker",
        routes=to(V1, V2, 20),
        deploy=(V3,),
    ),
    Case(
        "another canary is ready",
        recorded(model("v1", "v3", 60), versions=[V1, V2, V3], routes=to(V1, V2, 20)),
        observed(worker(V1), worker(V2), worker(V3)),
        ModelState.READY,
        routes=to(V1, V3, 60),
        surplus=(V2,),
    ),
    Case(
        "a canary that lost its workers gets no calls",
        recorded(model("v1", "v2"), versions=[V1, V2], routes=to(V1, V2, 20)),
        observed(worker(V1), apps=[V2]),
        ModelState.LOADING,
        "canary: starting a worker",
        routes=to(V1),
    ),
    Case(
        "a canary is promoted",
        recorded(model("v2"), versions=[V1, V2], routes=to(V1, V2, 20), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V2),
        surplus=(V1,),
    ),
    Case(
        "stable and canary change places",
        recorded(model("v2", "v1", 5), versions=[V1, V2], routes=to(V1, V2, 20), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V2, V1, 5),
    ),
    Case(
        "a canary is taken away",
        recorded(model("v1"), versions=[V1, V2], routes=to(V1, V2, 20), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V1),
        surplus=(V2,),
    ),
    Case(
        "after a cold restart the routed version comes again",
        recorded(model("v1"), versions=[V1], routes=to(V1), generation=9),
        observed(),
        ModelState.LOADING,
        "starting a worker",
        routes=to(V1),
        deploy=(V1,),
    ),
    Case(
        "after a cold restart with another config the routed version comes first",
        recorded(model("v2"), versions=[V1], routes=to(V1), pins={}, generation=9),
        observed(),
        ModelState.PULLING,
        "resolving its reference",
        routes=to(V1),
        resolve=(kit("v2"),),
        deploy=(V1,),
    ),
    Case(
        "a version that may sleep loads for the first time",
        recorded(model("v1", replicas=0), versions=[IDLE1]),
        observed(worker(IDLE1, LOADING)),
        ModelState.LOADING,
    ),
    Case(
        "a version that may sleep has its first worker",
        recorded(model("v1", replicas=0), versions=[IDLE1]),
        observed(worker(IDLE1), proven=[IDLE1]),
        ModelState.READY,
        routes=to(IDLE1),
    ),
    Case(
        "a version sleeps",
        recorded(model("v1", replicas=0), versions=[IDLE1], routes=to(IDLE1)),
        observed(proven=[IDLE1]),
        ModelState.ASLEEP,
        "the next call wakes it",
        routes=to(IDLE1),
    ),
    Case(
        "the last worker of a version goes",
        recorded(model("v1", replicas=0), versions=[IDLE1], routes=to(IDLE1)),
        observed(worker(IDLE1, DRAINING), proven=[IDLE1]),
        ModelState.ASLEEP,
        "the next call wakes it",
        routes=to(IDLE1),
    ),
    Case(
        "a version wakes",
        recorded(model("v1", replicas=0), versions=[IDLE1], routes=to(IDLE1)),
        observed(worker(IDLE1, PULLING, detail="1/9 bytes"), proven=[IDLE1]),
        ModelState.ASLEEP,
        "waking: 1/9 bytes",
        routes=to(IDLE1),
    ),
    Case(
        "a version went to sleep before anyone saw it ready",
        recorded(model("v2", replicas=0), versions=[V1, IDLE2], routes=to(V1)),
        observed(worker(V1), proven=[IDLE2]),
        ModelState.ASLEEP,
        "the next call wakes it",
        routes=to(IDLE2),
        surplus=(V1,),
    ),
    Case(
        "a successor of a version that sleeps loads",
        recorded(model("v2", replicas=0), versions=[IDLE1, IDLE2], routes=to(IDLE1)),
        observed(worker(IDLE2, LOADING), proven=[IDLE1]),
        ModelState.LOADING,
        routes=to(IDLE1),
    ),
    Case(
        "a canary sleeps, and keeps its share",
        recorded(
            model("v1", "v2", 5, replicas=0),
            versions=[IDLE1, IDLE2],
            routes=to(IDLE1, IDLE2, 20),
        ),
        observed(worker(IDLE1), proven=[IDLE1, IDLE2]),
        ModelState.READY,
        "canary: the next call wakes it",
        routes=to(IDLE1, IDLE2, 5),
    ),
    Case(
        "the canary of before sleeps while another one loads",
        recorded(
            model("v1", "v3", 5, replicas=0),
            versions=[IDLE1, IDLE2],
            routes=to(IDLE1, IDLE2, 20),
        ),
        observed(worker(IDLE1), proven=[IDLE1, IDLE2]),
        ModelState.LOADING,
        "canary: starting a worker",
        routes=to(IDLE1, IDLE2, 20),
        deploy=(version("v3", replicas=0),),
    ),
    Case(
        "a version that sleeps is being removed",
        recorded(
            model("v1", replicas=0),
            versions=[IDLE1],
            routes=to(IDLE1),
            condemned=[IDLE1],
            generation=2,
        ),
        observed(proven=[IDLE1]),
        ModelState.LOADING,
        "starting a worker",
        deploy=(version("v1", 2, replicas=0),),
        surplus=(IDLE1,),
    ),
    Case(
        "after a cold restart a version that may sleep must load again",
        recorded(model("v1", replicas=0), versions=[IDLE1], routes=to(IDLE1), generation=9),
        observed(),
        ModelState.LOADING,
        "starting a worker",
        routes=to(IDLE1),
        deploy=(IDLE1,),
    ),
    Case(
        "a version that runs is to have more workers",
        recorded(model("v2", replicas=2), versions=[V2], routes=to(V2), generation=9),
        observed(worker(V2)),
        ModelState.READY,
        routes=to(V2),
        deploy=(TWO,),
    ),
    Case(
        "a version that runs is to have fewer workers",
        recorded(model("v2"), versions=[TWO], routes=to(TWO), generation=9),
        observed(worker(TWO), worker(TWO, READY, 2)),
        ModelState.READY,
        routes=to(TWO),
        deploy=(V2,),
    ),
    Case(
        "a version that runs may sleep from now on",
        recorded(model("v1", replicas=0), versions=[V1], routes=to(V1), generation=9),
        observed(worker(V1), proven=[V1]),
        ModelState.READY,
        routes=to(V1),
        deploy=(IDLE1,),
    ),
    Case(
        "a version that may sleep and is awake is to stay awake",
        recorded(model("v1"), versions=[IDLE1], routes=to(IDLE1), generation=9),
        observed(worker(IDLE1), proven=[IDLE1]),
        ModelState.READY,
        routes=to(IDLE1),
        deploy=(V1,),
    ),
    Case(
        "a version that sleeps is to be awake, and answers until it is",
        recorded(model("v1"), versions=[IDLE1], routes=to(IDLE1), generation=9),
        Observed({IDLE1.app: ""}, (), frozenset([IDLE1.app]), frozenset([IDLE1.app])),
        ModelState.ASLEEP,
        "the next call wakes it",
        routes=to(IDLE1),
        deploy=(V1,),
    ),
    Case(
        "Serve was told of other bounds",
        recorded(model("v2", replicas=2), versions=[TWO], routes=to(TWO), generation=9),
        observed(worker(TWO), worker(TWO, LOADING, 2)),
        ModelState.READY,
        routes=to(TWO),
    ),
    Case(
        "other bounds for a successor that loads",
        recorded(model("v2", replicas=2), versions=[V1, V2], routes=to(V1), generation=9),
        observed(worker(V1), worker(V2, LOADING)),
        ModelState.LOADING,
        routes=to(V1),
        deploy=(TWO,),
    ),
    Case(
        "a successor that is ready is to come with more workers",
        recorded(model("v2", replicas=2), versions=[V1, V2], routes=to(V1), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.LOADING,
        "1 of 2 workers are ready",
        routes=to(V1),
        deploy=(TWO,),
    ),
    Case(
        "other bounds come with a successor: what is routed keeps its own",
        recorded(model("v2", replicas=2), versions=[V1], routes=to(V1)),
        observed(worker(V1)),
        ModelState.LOADING,
        "starting a worker",
        routes=to(V1),
        deploy=(TWO,),
    ),
    Case(
        "other bounds are those of the canary too, which keeps its share",
        recorded(model("v1", "v2", replicas=2), versions=[V1, V2], routes=to(V1, V2, 20), generation=9),
        observed(worker(V1), worker(V2)),
        ModelState.READY,
        routes=to(V1, V2, 20),
        deploy=(version("v1", replicas=2), TWO),
    ),
    Case(
        "other bounds for a successor that failed",
        recorded(
            model("v2", replicas=2),
            versions=[V1, V2],
            routes=to(V1),
            failures={V2.kind: "it is a pickle"},
            generation=9,
        ),
        observed(worker(V1), apps=[V2]),
        ModelState.FAILED,
        "it is a pickle",
        routes=to(V1),
        surplus=(V2,),
    ),
    Case(
        "other bounds for an app that is on its way out",
        recorded(model("v2", replicas=2), versions=[V2], routes=to(V2), condemned=[V2], generation=9),
        observed(worker(V2)),
        ModelState.LOADING,
        "starting a worker",
        deploy=(version("v2", 9, replicas=2),),
        surplus=(V2,),
    ),
    Case(
        "after a cold restart with other bounds the routed version comes again with them",
        recorded(model("v2", replicas=2), versions=[V2], routes=to(V2), generation=9),
        observed(),
        ModelState.LOADING,
        "starting a worker",
        routes=to(V2),
        deploy=(TWO,),
    ),
    Case(
        "a route to what nobody remembers",
        recorded(model("v1"), routes=to(V3)),
        observed(),
        ModelState.LOADING,
        "starting a worker",
        deploy=(V1,),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_situations(case: Case) -> None:
    plan = reconcile(case.recorded, case.observed)
    (status,) = plan.models
    assert (status.state, status.message) == (case.state, case.message)
    assert plan.routes == case.routes
    assert plan.resolve == case.resolve
    assert plan.deploy == case.deploy
    assert plan.surplus == tuple(version.app for version in case.surplus)


@pytest.mark.parametrize(
    "scaling",
    [
        Scaling(min=2, max=2),
        Scaling(max=3),
        Scaling(min=0),
        Scaling(target_ongoing_requests=2),
        Scaling(upscale_delay=9),
        Scaling(downscale_delay=9),
        Scaling(downscale_to_zero_delay=9),
        Scaling(wake_timeout=9),
    ],
    ids=["minimum", "maximum", "none", "target", "up", "down", "to zero", "wake"],
)
def test_other_scaling_is_for_the_app_that_runs_and_its_route_stays(scaling: Scaling) -> None:
    before = recorded(model("v1"), versions=[V1], routes=to(V1))
    serving = replace(V1.serving, scaling=scaling)
    scaled = replace(V1, serving=serving)
    after = recorded(replace(model("v1"), serving=serving), versions=[V1], routes=to(V1), generation=2)
    plan, now = reconcile(after, observed(worker(V1))), reconcile(before, observed(worker(V1)))
    assert plan == replace(now, deploy=(scaled,)), "nothing else changes"
    assert scaled.app == V1.app
    deployed = replace(after, versions={scaled.app: scaled})
    assert reconcile(deployed, observed(worker(V1))) == now, "it is told once"


def test_without_a_config_there_is_nothing_to_do() -> None:
    assert reconcile(recorded(), observed()) == Plan((), (), (), {}, RoutingTable(), ())


@pytest.mark.parametrize(
    ("pins", "failures", "state"),
    [
        ({}, {}, RouteState.PULLING),
        (PINS, {}, RouteState.LOADING),
        ({}, {kit("v1"): "no such tag"}, RouteState.FAILED),
        (PINS, {V1.kind: "a pickle"}, RouteState.FAILED),
    ],
    ids=["not resolved", "no worker", "no such tag", "refused"],
)
def test_a_model_that_cannot_be_called_says_its_state(
    pins: dict[Reference, Digest], failures: dict[Reference | Kind, str], state: RouteState
) -> None:
    plan = reconcile(recorded(model("v1"), pins=pins, failures=failures), observed())
    (only,) = plan.table.routes
    assert (only.model, only.stable, only.canary, only.state) == ("iris", None, None, state)


def test_only_ready_workers_of_a_routed_version_get_calls() -> None:
    workers = [worker(V1, state, port) for port, state in enumerate((DRAINING, READY, LOADING, READY))]
    plan = reconcile(recorded(model("v1"), versions=[V1], routes=to(V1)), observed(*workers))
    (stable,) = plan.table.backends()
    assert [server.port for server in stable.servers] == [1, 3]
    assert stable.names == V1.reference.names
    assert plan.table.draining == ()


def test_calls_are_held_for_a_version_that_may_sleep_from_when_it_was_ready_once() -> None:
    remembered = recorded(model("v1", replicas=0), versions=[IDLE1], routes=to(IDLE1))
    for observation, may_sleep, ports in [
        (observed(worker(IDLE1, LOADING)), False, []),
        (observed(worker(IDLE1), proven=[IDLE1]), True, [1]),
        (observed(proven=[IDLE1]), True, []),
        (observed(worker(IDLE1, LOADING), proven=[IDLE1]), True, []),
    ]:
        (stable,) = reconcile(remembered, observation).table.backends()
        assert (stable.may_sleep, [server.port for server in stable.servers]) == (may_sleep, ports)
    always = recorded(model("v1"), versions=[V1], routes=to(V1))
    (stable,) = reconcile(always, observed(proven=[V1])).table.backends()
    assert not stable.may_sleep
    (status,) = reconcile(remembered, observed(proven=[IDLE1])).models
    statuses = [(version.state, version.replicas, version.weight) for version in status.versions]
    assert statuses == [(ModelState.ASLEEP, 0, 100)]


def test_a_version_that_is_taken_away_is_woken_no_more() -> None:
    remembered = recorded(versions=[IDLE1], routes=to(IDLE1))
    assert reconcile(remembered, observed(proven=[IDLE1])).table == RoutingTable()
    (draining,) = reconcile(remembered, observed(worker(IDLE1, DRAINING), proven=[IDLE1])).table.draining
    assert not draining.may_sleep


def test_a_model_taken_away_drains_while_its_workers_can_be_reached() -> None:
    remembered = recorded(versions=[V1], routes=to(V1))
    workers = (worker(V1, DRAINING, 1), worker(V1, READY, 2), worker(V1, LOADING, 3))
    plan = reconcile(remembered, observed(*workers))
    assert (plan.routes, plan.table.routes, plan.models) == ({}, (), ())
    assert plan.surplus == (V1.app,)
    (draining,) = plan.table.draining
    assert draining.version == V1.app
    assert draining.servers == (Server(f"{V1.app}#1", "10.0.0.1", 1), Server(f"{V1.app}#2", "10.0.0.1", 2))
    assert reconcile(remembered, observed(apps=[V1])).table.draining == ()
    assert reconcile(remembered, observed()).surplus == (V1.app,), "until it is forgotten"


def test_the_failure_of_one_model_changes_nothing_of_another() -> None:
    remembered = {"other": AppRoute(OTHER.app)}
    alone = reconcile(
        recorded(model("v1", name="other"), versions=[OTHER], routes=remembered), observed(worker(OTHER))
    )
    both = reconcile(
        recorded(
            model("v2"),
            model("v1", name="other"),
            versions=[V2, OTHER],
            routes=remembered,
            failures={V2.kind: "it is a pickle"},
        ),
        observed(worker(OTHER), apps=[V2]),
    )
    assert both.routes == {"iris": AppRoute(), **alone.routes}
    assert both.table.routes[1:] == alone.table.routes
    assert both.models[1:] == alone.models
    assert both.models[0].state is ModelState.FAILED
    assert both.deploy == ()


def test_two_models_of_one_kit_have_workers_of_their_own_and_resolve_it_once() -> None:
    models = (model("v1"), model("v1", name="other"))
    assert reconcile(recorded(*models, pins={}), observed()).resolve == (kit("v1"),)
    assert reconcile(recorded(*models), observed()).deploy == (V1, OTHER)


def test_status_shows_routed_versions_first_and_failed_ones_last() -> None:
    plan = reconcile(
        recorded(
            model("v3", "v2", 30),
            versions=[V1, V2, V3],
            routes=to(V1, V2, 30),
            failures={V3.kind: "no"},
        ),
        observed(worker(V1), worker(V2), worker(V2, READY, 2), apps=[V3]),
    )
    statuses = [
        (version.tag, version.role, version.weight, version.state, version.replicas, version.runtime)
        for version in plan.models[0].versions
    ]
    assert statuses == [
        ("v1", "stable", 70, ModelState.READY, 1, "onnx"),
        ("v2", "canary", 30, ModelState.READY, 2, "onnx"),
        ("v3", "", 0, ModelState.FAILED, 0, ""),
    ]


def test_status_adds_up_the_tokens_of_a_versions_workers() -> None:
    tally = Tally()
    for role in ("stable", MIRRORED):
        tokens = Tokens(input=10, cached=4, output=3)
        tokens.first.observe(0.5)
        tokens.between.observe(0.125)
        tokens.between.observe(0.375)
        tally.generated(role, tokens)
    one = replace(worker(V1), numbers=tally.numbers(), generating=2, queued=1)
    other = replace(worker(V1, READY, 2), numbers=tally.numbers(), generating=1)
    fresh = replace(worker(V2), generating=1)
    plan = reconcile(
        recorded(model("v1", "v2", 30), versions=[V1, V2], routes=to(V1, V2, 30)),
        observed(one, other, fresh, worker(V2, READY, 2)),
    )
    stable, canary = (version.generation for version in plan.models[0].versions)
    assert stable == GenerationStatus(
        generating=3,
        waiting=1,
        input_tokens=20,
        cached_tokens=8,
        output_tokens=6,
        first_token_seconds=0.5,
        tokens_per_second=4.0,
    )
    assert canary == GenerationStatus(1, 0, 0, 0, 0, None, None)
    plan = reconcile(recorded(model("v1"), versions=[V1], routes=to(V1)), observed(worker(V1)))
    assert plan.models[0].versions[0].generation is None


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_reference_that_waits_to_be_tried_again_is_still_to_be_resolved(has_failed: bool) -> None:
    retries = late(kit("v1"), has_failed)
    failures: dict[Reference | Kind, str] = {kit("v1"): "no answer"} if has_failed else {}
    plan = reconcile(recorded(model("v1"), pins={}, failures=failures, retries=retries), observed())
    assert plan.resolve == (kit("v1"),)
    (shown,) = plan.models
    assert shown.retry == retries[kit("v1")]
    if has_failed:
        assert (shown.state, shown.message) == (ModelState.FAILED, "no answer")
    else:
        assert (shown.state, shown.message) == (ModelState.PULLING, "resolving its reference: no answer")


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_version_that_waits_to_be_tried_again_is_not_deployed_before_and_takes_nothing_away(
    has_failed: bool,
) -> None:
    retries = late(V2.kind, has_failed)
    before = recorded(
        model("v2"),
        versions=[V1],
        routes=to(V1),
        failures={V2.kind: "no answer"},
        retries=retries,
    )
    plan = reconcile(before, observed(worker(V1)))
    assert (plan.deploy, plan.surplus, plan.retry, plan.routes) == ((), (), (V2,), to(V1))
    (shown,) = plan.models
    assert shown.state is (ModelState.FAILED if has_failed else ModelState.PULLING)
    assert (shown.message, shown.retry) == ("no answer", retries[V2.kind])
    again = reconcile(replace(before, failures={}, retries={}), observed(worker(V1)))
    assert (again.deploy, again.retry) == ((V2,), ())


def test_a_canary_that_is_removed_until_it_is_tried_again_is_not_routed() -> None:
    rollout = Rollout(
        stable=str(V1.reference),
        canary=str(V2.reference),
        declared=str(V2.reference),
        plan=RolloutPlan((Step(10),)),
        stage=Stage.STEPPING,
    )
    before = recorded(
        replace(model("v2"), plan=rollout.plan),
        versions=[V1, V2],
        routes=to(V1, V2, 10),
        failures={V2.kind: "no answer"},
        retries=late(V2.kind, has_failed=False),
        condemned=[V2],
    )
    plan = reconcile(replace(before, rollouts={"iris": rollout}), observed(worker(V1)))
    assert plan.routes == to(V1)
    assert plan.surplus == (V2.app,)


def test_what_is_not_wanted_is_not_tried_again() -> None:
    retries = late(V2.kind, has_failed=True)
    before = recorded(
        model("v1"), versions=[V1], routes=to(V1), failures={V2.kind: "no answer"}, retries=retries
    )
    plan = reconcile(before, observed(worker(V1)))
    assert (plan.retry, plan.models[0].retry) == ((), None)


def test_what_is_to_be_known_of_how_a_kit_was_found_is_told_with_a_rollout_too() -> None:
    note = "variant quantization=q4_0: it is the largest that fits of 2"
    rollout = Rollout(stable=str(V1.reference), declared=str(V1.reference), plan=RolloutPlan((Step(10),)))
    before = replace(recorded(model("v1"), versions=[V1], routes=to(V1)), notes={kit("v1"): note})
    for rollouts in ({}, {"iris": rollout}):
        (shown,) = reconcile(replace(before, rollouts=rollouts), observed(worker(V1))).models
        assert (shown.state, shown.message) == (ModelState.READY, note)
    # What serves is another kit than the one that the note is about.
    pins = {**PINS, kit("v1"): digest("v2")}
    moved = replace(before, rollouts={"iris": rollout}, pins=pins)
    (shown,) = reconcile(moved, observed(worker(V1))).models
    assert note not in shown.message
