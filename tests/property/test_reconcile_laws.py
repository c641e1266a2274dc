"""The laws of plans: they hold whatever is applied and whichever workers live, against a small Serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.config import GatewayConfig
from gateway.contract import Announcement, WorkerState
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.state.database import Desired, Routed
from gateway.control.state.snapshot import Known, Observed
from gateway.control.state.status import ModelState
from gateway.control.state.versions import Version, kind_of
from gateway.oci.reference import Digest

READY = WorkerState.READY
KITS = [f"registry.test/kit:v{number}" for number in range(4)]
BROKEN = KITS[3]
MISSING = "registry.test/kit:none"


@dataclass
class World:
    """What the gateway remembers, and a Serve that carries out plans, step by step."""

    desired: Desired = field(default_factory=lambda: Desired(0, GatewayConfig()))
    pins: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    routed: dict[str, Routed] = field(default_factory=dict)
    condemned: set[str] = field(default_factory=set)
    workers: dict[str, list[WorkerState]] = field(default_factory=dict)
    proven: set[str] = field(default_factory=set)

    def apply(self, config: GatewayConfig) -> None:
        self.desired = Desired(self.desired.generation + 1, config)
        self.pins, self.failures = {}, {}

    def plan(self) -> Plan:
        known = Known(
            self.desired, self.pins, self.failures, self.versions, self.routed, frozenset(self.condemned)
        )
        workers = [
            Announcement(f"{app}#{number}", app, state, "", "10.0.0.1", number + 1)
            for app, states in self.workers.items()
            for number, state in enumerate(states)
        ]
        self.proven = {app for app in self.workers if app in self.proven or self.ready(app)}
        return reconcile(known, Observed(dict.fromkeys(self.workers, ""), workers, frozenset(self.proven)))

    def tick(self, delete: bool = True) -> Plan:
        plan = self.plan()
        check(self, plan)
        self.routed = dict(plan.routed)
        for reference in plan.resolve:
            if reference == MISSING:
                self.failures[reference] = "no such tag"
            else:
                self.pins[reference] = str(Digest.of(reference.encode()))
        for version in plan.deploy:
            self.versions[version.app] = version
            self.workers[version.app] = [WorkerState.PULLING] * version.first_replicas
        for app in plan.surplus if delete else ():
            if app in self.condemned or app not in self.workers:
                self.workers.pop(app, None)
                self.versions.pop(app, None)
                self.condemned.discard(app)
            else:
                self.condemned.add(app)
        return plan

    def progress(self) -> None:
        """Bring every worker one step on; those of the broken kit fail."""
        for app, states in self.workers.items():
            if BROKEN in self.versions[app].reference:
                self.failures[kind_of(app)] = "broken"
                self.condemned.add(app)
            else:
                self.workers[app] = [
                    READY
                    if state is WorkerState.LOADING
                    else WorkerState.LOADING
                    if state is not READY
                    else READY
                    for state in states
                ]

    def kill(self, choice: int) -> None:
        """Have a worker die, and Serve start another."""
        if self.workers:
            states = self.workers[sorted(self.workers)[choice % len(self.workers)]]
            if states:
                states[choice % len(states)] = WorkerState.PULLING

    def idle(self) -> None:
        """Take the workers of what may sleep and is ready; call what sleeps."""
        for app, states in self.workers.items():
            if self.versions[app].may_sleep and app not in self.condemned:
                if not states:
                    states.append(WorkerState.PULLING)
                elif self.ready(app):
                    states.clear()

    def restart(self) -> None:
        """End everything but the database; apply the same config."""
        self.workers = {}
        self.proven = set()
        self.apply(self.desired.config)

    def ready(self, app: str) -> int:
        return self.workers.get(app, []).count(READY)

    def answers(self, app: str) -> bool:
        """Tell whether a call is answered, if only after it woke the version."""
        return self.ready(app) > 0 or (app in self.proven and self.versions[app].may_sleep)


def check(world: World, plan: Plan) -> None:
    models = {model.name: model for model in world.desired.config.models}
    deployed = {version.app for version in plan.deploy}
    assert not deployed & set(plan.surplus)
    assert not deployed & set(world.workers)
    assert not {app for app in deployed if kind_of(app) in world.failures}
    assert set(plan.routed) == set(models)
    versions = world.versions | {version.app: version for version in plan.deploy}
    for name, route in plan.routed.items():
        before = world.routed.get(name, Routed())
        assert 0 <= route.weight <= 100
        assert route.canary is None or route.canary != route.stable
        assert route.canary is not None or route.weight == 0
        assert all(versions[app].model == name for app in apps_of(route))
        assert not apps_of(route) & world.condemned, "nothing is routed to what is being removed"
        assert route.canary is None or world.answers(route.canary), (
            "a canary gets calls only while it answers"
        )
        if before.stable and before.stable not in world.condemned and route.stable != before.stable:
            assert route.stable is not None, "a routed version is never dropped for nothing"
            assert world.answers(route.stable)
            assert world.ready(route.stable) >= versions[route.stable].min_replicas
            assert models[name].kit in versions[route.stable].reference.partition("@")[0]
        for backend in next(entry for entry in plan.table.routes if entry.model == name).backends():
            assert backend.is_callable == world.answers(backend.version)
    for entry in plan.table.routes:
        assert all(versions[backend.version].model == entry.model for backend in entry.backends())
    drained = {backend.version for backend in plan.table.draining}
    assert drained <= set(plan.surplus)


def apps_of(route: Routed) -> set[str]:
    return {app for app in (route.stable, route.canary) if app}


_replicas = st.sampled_from([1, 2, {"min": 0, "max": 2}])


@st.composite
def configs(draw: st.DrawFn) -> GatewayConfig:
    models: list[dict[str, Any]] = []
    for name in draw(st.lists(st.sampled_from(["a", "b"]), unique=True)):
        stable, canary = draw(st.permutations([*KITS, MISSING]))[:2]
        weight = draw(st.integers(0, 100))
        share = {"canary": {"kit": canary, "weight": weight}} if draw(st.booleans()) else {}
        models.append({"name": name, "kit": stable, "replicas": draw(_replicas), **share})
    return GatewayConfig.model_validate({"models": models})


steps = st.one_of(
    configs(),
    st.just("progress"),
    st.just("progress"),
    st.just("tick"),
    st.just("keep"),
    st.just("restart"),
    st.just("idle"),
    st.just("idle"),
    st.integers(0, 7),
)


def settle(world: World) -> None:
    for _ in range(12):
        world.progress()
        world.tick()


@settings(deadline=None, max_examples=200)
@given(st.lists(steps, max_size=25))
def test_whatever_happens_the_laws_hold_and_it_settles(history: list[Any]) -> None:
    world = World()
    for step in history:
        if isinstance(step, GatewayConfig):
            world.apply(step)
        elif isinstance(step, int):
            world.kill(step)
        elif step == "progress":
            world.progress()
        elif step == "restart":
            world.restart()
        elif step == "idle":
            world.idle()
        world.tick(delete=step != "keep")
    settle(world)
    plan = world.plan()
    assert (plan.resolve, plan.deploy, plan.surplus) == ((), (), ())
    assert plan.routed == world.routed
    assert plan.table.draining == ()
    for model, status in zip(world.desired.config.models, plan.models, strict=True):
        kits = [model.kit, *([model.canary.kit] if model.canary else [])]
        failed = {BROKEN, MISSING} & set(kits)
        answering = (ModelState.READY, ModelState.ASLEEP)
        assert status.state in ((ModelState.FAILED,) if failed else answering)
        route = plan.routed[model.name]
        if model.kit not in failed:
            assert route.stable is not None
            assert model.kit in world.versions[route.stable].reference
        if model.canary and not failed:
            assert route.canary is not None
            assert model.canary.kit in world.versions[route.canary].reference
            assert route.weight == model.canary.weight
    assert all(apps_of(route) <= set(world.workers) for route in plan.routed.values())


@settings(deadline=None)
@given(configs(), configs(), st.integers(0, 12), st.sets(st.integers(0, 12)))
def test_what_answers_goes_on_through_any_apply(
    before: GatewayConfig, after: GatewayConfig, again: int, idle: set[int]
) -> None:
    world = World()
    world.apply(before)
    settle(world)
    answered = {name for name, route in world.routed.items() if route.stable}
    world.apply(after)
    kept = {model.name for model in after.models} & answered
    for number in range(12):
        if number == again:
            world.apply(after)
        if number in idle:
            world.idle()
        plan = world.tick()
        for name in kept:
            stable = plan.routed[name].stable
            assert stable is not None
            assert world.answers(stable), "calls are answered at every moment"
        world.progress()


@settings(deadline=None)
@given(configs(), configs())
def test_one_model_is_served_the_same_whatever_is_beside_it(
    config: GatewayConfig, other: GatewayConfig
) -> None:
    neighbours = tuple(model.model_copy(update={"name": f"x{model.name}"}) for model in other.models)
    alone, together = World(), World()
    alone.apply(config)
    together.apply(config.model_copy(update={"models": (*config.models, *neighbours)}))
    for _ in range(8):
        plan, plan_of_all = alone.tick(), together.tick()
        assert {name: plan_of_all.routed[name] for name in plan.routed} == plan.routed
        assert plan_of_all.models[: len(plan.models)] == plan.models
        alone.progress()
        together.progress()
