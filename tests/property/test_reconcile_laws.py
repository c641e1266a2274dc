"""Laws of plans that hold whatever is applied and whichever workers live, tried on a simulated Serve."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import Desired, DesiredModel, FixedCanary
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import ModelState
from gateway.control.state.versions import Kind, Version
from gateway.oci.reference import Digest, Reference, parse_reference
from gateway.serving import Scaling, Serving

READY = WorkerState.READY
KITS = [parse_reference(f"registry.test/kit:v{number}") for number in range(4)]
BROKEN = KITS[3]
MISSING = parse_reference("registry.test/kit:none")


@dataclass
class World:
    """The gateway's memory, and a simulated Serve that carries out plans step by step."""

    desired: Desired = field(default_factory=Desired)
    pins: dict[Reference, Digest] = field(default_factory=dict)
    failures: dict[Reference | Kind, str] = field(default_factory=dict)
    versions: dict[AppName, Version] = field(default_factory=dict)
    routes: dict[str, AppRoute] = field(default_factory=dict)
    condemned: set[AppName] = field(default_factory=set)
    workers: dict[AppName, list[WorkerState]] = field(default_factory=dict)
    proven: set[AppName] = field(default_factory=set)
    asleep: set[AppName] = field(default_factory=set)

    def apply(self, desired: Desired) -> None:
        self.desired = replace(desired, generation=self.desired.generation + 1)
        self.pins, self.failures = {}, {}

    def plan(self) -> Plan:
        recorded = Recorded(
            self.desired, self.pins, self.failures, self.versions, self.routes, frozenset(self.condemned)
        )
        workers = [
            Announcement(f"{app}#{number}", app, state, "", "10.0.0.1", number + 1)
            for app, states in self.workers.items()
            for number, state in enumerate(states)
        ]
        self.proven = {app for app in self.workers if app in self.proven or self.ready(app)}
        sleepers = {app for app, version in self.versions.items() if version.serving.scaling.may_sleep}
        self.asleep = {app for app in (self.asleep | sleepers) & self.proven if not self.ready(app)}
        apps = dict.fromkeys(self.workers, "")
        return reconcile(recorded, Observed(apps, workers, frozenset(self.proven), frozenset(self.asleep)))

    def tick(self, delete: bool = True) -> Plan:
        plan = self.plan()
        check(self, plan)
        self.routes = dict(plan.routes)
        for reference in plan.resolve:
            if reference == MISSING:
                self.failures[reference] = "no such tag"
            else:
                self.pins[reference] = Digest.of(str(reference).encode())
        for version in plan.deploy:
            self.deploy(version)
        for app in plan.surplus if delete else ():
            if app in self.condemned or app not in self.workers:
                self.workers.pop(app, None)
                self.versions.pop(app, None)
                self.condemned.discard(app)
            else:
                self.condemned.add(app)
        return plan

    def deploy(self, version: Version) -> None:
        """Start the first workers of an app, or take one that runs within its new bounds."""
        self.versions[version.app] = version
        scaling = version.serving.scaling
        workers = self.workers.get(version.app)
        if workers is None:
            self.workers[version.app] = [WorkerState.PULLING] * scaling.first
            return
        # Those that are ready stay, where some must go.
        workers.sort(key=lambda state: state is not READY)
        del workers[scaling.max :]
        workers += [WorkerState.PULLING] * (scaling.min - len(workers))

    def progress(self) -> None:
        """Bring every worker one step on; those of the broken kit fail."""
        for app, states in self.workers.items():
            if kit_of(self.versions[app]) == BROKEN:
                self.failures[self.versions[app].kind] = "broken"
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
            if self.versions[app].serving.scaling.may_sleep and app not in self.condemned:
                if not states:
                    states.append(WorkerState.PULLING)
                elif self.ready(app):
                    states.clear()

    def restart(self) -> None:
        """End everything but the database; apply the same config."""
        self.workers = {}
        self.proven = set()
        self.apply(self.desired)

    def ready(self, app: AppName) -> int:
        return self.workers.get(app, []).count(READY)

    def answers(self, version: Version) -> bool:
        """Tell whether a call is answered, if only after it woke the version."""
        may_sleep = version.serving.scaling.may_sleep or version.app in self.asleep
        return self.ready(version.app) > 0 or (may_sleep and version.app in self.proven)


def kit_of(version: Version) -> Reference:
    """Return the reference that a version was resolved from."""
    return next(kit for kit in (*KITS, MISSING) if kit.pinned(version.digest) == version.reference.reference)


def check(world: World, plan: Plan) -> None:
    models = {model.name: model for model in world.desired.models}
    deployed = {version.app: version for version in plan.deploy}
    assert not deployed.keys() & set(plan.surplus)
    for app in deployed.keys() & world.workers.keys():
        scaling = deployed[app].serving.scaling
        running = world.versions[app]
        assert running.serving.scaling != scaling, "Serve is told only what it does not know"
        serving = replace(running.serving, scaling=scaling)
        assert deployed[app] == replace(running, serving=serving), "what runs is only scaled"
    assert not {version.kind for version in plan.deploy} & world.failures.keys()
    assert set(plan.routes) == set(models)
    versions = world.versions | deployed
    for name, route in plan.routes.items():
        before = world.routes.get(name, AppRoute())
        assert 0 <= route.weight <= 100
        assert route.canary is None or route.canary != route.stable
        assert route.canary is not None or route.weight == 0
        assert all(versions[app].model == name for app in apps_of(route))
        assert not apps_of(route) & world.condemned, "nothing is routed to what is being removed"
        assert route.canary is None or world.answers(versions[route.canary]), (
            "a canary gets calls only while it answers"
        )
        if before.stable and before.stable not in world.condemned and route.stable != before.stable:
            assert route.stable is not None, "a routed version is never dropped for nothing"
            assert world.answers(versions[route.stable])
            # One that slept when its bounds changed holds its calls until it is awake.
            fewest = versions[route.stable].serving.scaling.min
            assert world.ready(route.stable) >= fewest or route.stable in world.asleep
            assert models[name].kit == kit_of(versions[route.stable])
        for backend in next(entry for entry in plan.table.routes if entry.model == name).backends():
            assert backend.is_callable == world.answers(versions[AppName(backend.version)])
    for entry in plan.table.routes:
        assert all(versions[AppName(backend.version)].model == entry.model for backend in entry.backends())
    drained = {backend.version for backend in plan.table.draining}
    assert drained <= set(plan.surplus)


def apps_of(route: AppRoute) -> set[AppName]:
    return {app for app in (route.stable, route.canary) if app}


_scaling = st.sampled_from([Scaling(), Scaling(min=2, max=2), Scaling(min=0, max=2)])


@st.composite
def configs(draw: st.DrawFn) -> Desired:
    models: list[DesiredModel] = []
    for name in draw(st.lists(st.sampled_from(["a", "b"]), unique=True)):
        stable, canary = draw(st.permutations([*KITS, MISSING]))[:2]
        weight = draw(st.integers(0, 100))
        share = FixedCanary(canary, weight) if draw(st.booleans()) else None
        models.append(DesiredModel(name, stable, Serving(scaling=draw(_scaling)), canary=share))
    return Desired(models=tuple(models))


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
        if isinstance(step, Desired):
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
    assert plan.routes == world.routes
    assert plan.table.draining == ()
    for model, status in zip(world.desired.models, plan.models, strict=True):
        failed = {BROKEN, MISSING} & set(model.kits)
        answering = (ModelState.READY, ModelState.ASLEEP)
        assert status.state in ((ModelState.FAILED,) if failed else answering)
        route = plan.routes[model.name]
        if model.kit not in failed:
            assert route.stable is not None
            assert kit_of(world.versions[route.stable]) == model.kit
            assert world.versions[route.stable].serving == model.serving
        if model.canary and not failed:
            assert route.canary is not None
            assert kit_of(world.versions[route.canary]) == model.canary.kit
            assert world.versions[route.canary].serving == model.serving
            assert route.weight == model.canary.weight
    assert all(apps_of(route) <= set(world.workers) for route in plan.routes.values())


@settings(deadline=None)
@given(configs(), configs(), st.integers(0, 12), st.sets(st.integers(0, 12)))
def test_what_answers_goes_on_through_any_apply(
    before: Desired, after: Desired, repeat: int, idle: set[int]
) -> None:
    world = World()
    world.apply(before)
    settle(world)
    answered = {name for name, route in world.routes.items() if route.stable}
    world.apply(after)
    kept = {model.name for model in after.models} & answered
    for number in range(12):
        if number == repeat:
            world.apply(after)
        if number in idle:
            world.idle()
        plan = world.tick()
        for name in kept:
            stable = plan.routes[name].stable
            assert stable is not None
            assert world.answers(world.versions[stable]), "calls are answered at every moment"
        world.progress()


@settings(deadline=None)
@given(configs(), _scaling, st.sets(st.integers(0, 8)))
def test_other_scaling_changes_no_route_and_takes_no_worker_that_is_within_it(
    before: Desired, scaling: Scaling, idle: set[int]
) -> None:
    world = World()
    world.apply(before)
    settle(world)
    routed = {name: route for name, route in world.routes.items() if route.stable}
    serving = Serving(scaling=scaling)
    world.apply(replace(before, models=tuple(replace(model, serving=serving) for model in before.models)))
    for number in range(8):
        if number in idle:
            world.idle()
        ready = {app: world.ready(app) for app in world.workers}
        plan = world.tick()
        assert {name: plan.routes[name] for name in routed} == routed
        for route in routed.values():
            for app in apps_of(route):
                assert world.ready(app) >= min(ready[app], scaling.max)
                assert world.answers(world.versions[app]), "calls are answered at every moment"
        world.progress()


@settings(deadline=None)
@given(configs(), configs())
def test_one_model_is_served_the_same_whatever_is_beside_it(config: Desired, other: Desired) -> None:
    neighbours = tuple(replace(model, name=f"x{model.name}") for model in other.models)
    alone, together = World(), World()
    alone.apply(config)
    together.apply(replace(config, models=(*config.models, *neighbours)))
    for _ in range(8):
        plan, plan_of_all = alone.tick(), together.tick()
        assert {name: plan_of_all.routes[name] for name in plan.routes} == plan.routes
        assert plan_of_all.models[: len(plan.models)] == plan.models
        alone.progress()
        together.progress()
