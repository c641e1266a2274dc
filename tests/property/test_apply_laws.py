"""Whatever was applied, ordered, killed or lost: the last config is in force, and what is ready serves."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control.loop.reconcile import Plan
from gateway.control.state.status import ModelState
from gateway.control.state.versions import Version
from gateway.errors import ControlError
from gateway.oci.reference import parse_reference
from gateway.rollout.events import Abort, Promote, Retry, Rollback
from gateway.rollout.state import LIVE, Stage
from tests.support.rollouts import World, digest, kit

STEPS = [
    [{"weight": 10, "for": "5s"}, {"weight": 50, "for": "5s"}],
    [{"weight": 0, "mirror": 0.5, "for": "2s"}, {"weight": 100, "for": "2s"}],
    [{"weight": 30, "pause": True}],
]
RUNTIMES = [None, "onnx", "torchscript"]
GOOD, BROKEN, MISSING = ["v1", "v2", "v3"], "broken", "missing"


@dataclass(frozen=True)
class Apply:
    """A config: its kit, its rollout by number (None for none), its runtime by number.

    `is_pinned` says that the kit is named by its digest.
    """

    tag: str
    steps: int | None
    runtime: int
    is_pinned: bool = False


@dataclass(frozen=True)
class Lose:
    """No worker of a kit loads any more, and those that run die."""

    tag: str


@dataclass(frozen=True)
class Kill:
    """A worker of each app of a kit dies; Serve starts another."""

    tag: str


APPLIES = st.builds(
    Apply,
    st.sampled_from([*GOOD, *GOOD, BROKEN, MISSING]),
    st.none() | st.integers(0, len(STEPS) - 1),
    st.integers(0, len(RUNTIMES) - 1),
    st.booleans(),
)
ORDERS = st.sampled_from([Promote(), Promote(full=True), Abort(), Retry(), Rollback("")])
EVENTS = st.one_of(
    APPLIES,
    APPLIES,
    ORDERS,
    st.builds(Kill, st.sampled_from(GOOD)),
    st.sampled_from(["tick", "tick", "tick", "long", "calls", "errors", "gateway", "kitserve"]),
)


class Site(World):
    """A world that random events happen to, and whose Serve keeps starting workers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.registry = {*GOOD, BROKEN}
        self.unloadable = {BROKEN}
        self.ran: list[Version] = []

    def tick(self, seconds: float = 1.0, ready: bool = True) -> Plan:
        workers = self.workers.keys() | set()
        plan = super().tick(seconds, ready)
        for route in plan.routes.values():
            if route.canary in workers and route.stable not in workers:
                assert route.weight in (0, 100), "nothing goes where nobody answers"
        if (model := self.state.desired().models[0]).plan is not None and self.rollouts.get("iris"):
            labels = {version.label for version in plan.deploy} - {model.kit.tag}
            ran = {version.label for version in self.ran}
            kinds = {version.kind for version in plan.deploy if version.label in labels & ran}
            assert kinds <= {version.kind for version in self.ran}, "what serves keeps its settings"
        self.ran = list(self.state.versions().values())
        return plan

    def run(self, seconds: float = 1.0) -> None:
        """Tick once; then each app has what Serve would make of it by the next tick."""
        self.tick(seconds)
        generation = self.state.desired().generation
        for app, version in self.state.versions().items():
            if version.label not in self.unloadable:
                self.load_app(app)
            elif version.label == BROKEN:
                self.state.fail(version.kind, generation, "broken")
            else:
                self.failing[app] = "its layers are gone"
        self.failing = {app: why for app, why in self.failing.items() if app not in self.workers}

    def do(self, event: Any) -> None:
        """Have something happen."""
        if isinstance(event, Apply):
            rules = {"scale_down_delay": "3s", "checks": {"max_error_rate": 0.2, "min_requests": 10}}
            rollout = None if event.steps is None else {"steps": STEPS[event.steps], **rules}
            runtime = RUNTIMES[event.runtime]
            fields = {} if runtime is None else {"runtime": runtime}
            if event.is_pinned:
                fields["kit"] = str(kit(event.tag).pinned(digest(event.tag)))
            self.apply(event.tag, rollout, **fields)
        elif isinstance(event, Kill):
            for app in [app for app in self.workers if f".{event.tag}." in app]:
                del self.workers[app]
            self.tick()
        elif isinstance(event, Lose):
            self.unloadable.add(event.tag)
            self.do(Kill(event.tag))
        elif event in ("gateway", "kitserve"):
            if event == "kitserve":
                self.workers.clear()
            self.die(is_new_start=event == "kitserve")
        elif event in ("calls", "errors"):
            for tally in self.workers.values():
                for number in range(200):
                    status = 500 if event == "errors" and number % 2 else 200
                    tally.answered("", status, request=0.002, queue=0.0, compute=0.001)
        elif event in ("tick", "long"):
            self.run(1.0 if event == "tick" else 30.0)
        else:
            with contextlib.suppress(ControlError):
                self.rollouts.order("iris", event)

    def settle(self) -> None:
        """Let everything come to rest: while calls succeed and a person promotes."""
        for _ in range(16):
            self.run(6)
            for tally in self.workers.values():
                for _ in range(120):
                    tally.answered("", 200, request=0.002, queue=0.0, compute=0.001)
            rollout = self.rollouts.get("iris")
            if rollout is not None and rollout.stage in LIVE:
                self.rollouts.order("iris", Promote())


@contextmanager
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        world = Site(Path(directory) / "state.db")
        world.do(Apply("v1", 0, 0))
        for _ in range(3):
            world.run()
        try:
            yield world
        finally:
            world.state.close()


@settings(deadline=None, max_examples=100)
@given(st.lists(EVENTS, max_size=14), APPLIES)
def test_the_last_config_is_in_force_whatever_was_on_its_way(history: list[Any], last: Apply) -> None:
    with site() as world:
        for event in history:
            world.do(event)
        world.do(last)
        world.run()
        world.run()
        rollout = world.rollouts.get("iris")
        if rollout is not None and last.tag in GOOD:
            assert parse_reference(rollout.declared).digest == digest(last.tag), "at once"
            assert rollout.weight == 0 or rollout.declared == rollout.canary
        if rollout is not None and rollout.stage is Stage.DEGRADED and last.tag in GOOD:
            # What failed before, under this same config, is tried again only when a person says so.
            with contextlib.suppress(ControlError):
                world.rollouts.order("iris", Retry())
        if rollout is not None and rollout.stage is Stage.HEALTHY and last.tag in GOOD:
            with contextlib.suppress(ControlError):  # rolled back
                world.rollouts.order("iris", Retry())
        world.settle()
        assert world.plan is not None
        (model,) = world.plan.models
        stable, canary, _ = world.route()
        if last.tag in GOOD:
            assert (stable, canary, model.state) == (last.tag, None, ModelState.READY)
            app = world.state.routes()["iris"].stable
            assert app is not None
            assert world.state.versions()[app].runtime == RUNTIMES[last.runtime]
            assert set(world.workers) == {app}, "nothing else is kept"
        else:
            assert model.state is ModelState.FAILED
            assert stable in GOOD, "what served goes on"
            assert world.state.routes()["iris"].stable in world.workers


@settings(deadline=None, max_examples=100)
@given(st.lists(EVENTS, max_size=10), st.sampled_from(GOOD), APPLIES)
def test_what_is_ready_serves(history: list[Any], lost: str, last: Apply) -> None:
    with site() as world:
        for event in history:
            world.do(event)
        world.do(last)
        for _ in range(3):
            world.run()
        world.do(Lose(lost))
        for _ in range(8):
            world.run()
        route = world.state.routes()["iris"]
        rollout = world.rollouts.get("iris")
        has_lost = rollout is not None and rollout.stage is Stage.DEGRADED
        if lost != last.tag and last.tag in GOOD and not has_lost and not _was_rolled_back(world):
            assert route.stable in world.workers, "what is ready serves"


def _was_rolled_back(world: Site) -> bool:
    """Tell whether a person has turned away from what the config asks for."""
    rollout = world.rollouts.get("iris")
    return rollout is not None and rollout.stage is Stage.HEALTHY and rollout.declared != rollout.stable
