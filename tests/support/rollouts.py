"""A gateway's state, its rollouts and its plans, with a Serve that does at once what it is told."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.config.config import GatewayConfig
from gateway.contract import Announcement, AppName, Description, WorkerState
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.loop.retries import failures_among
from gateway.control.rollouts.collection import EvidenceCollection
from gateway.control.rollouts.driver import Rollouts
from gateway.control.rollouts.golden_gate import GoldenGate
from gateway.control.state.database import State
from gateway.control.state.desired import desired_from
from gateway.control.state.rollout_status import RolloutEvent
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import RetryStatus
from gateway.control.state.versions import Kind
from gateway.kits.library import Library
from gateway.metrics.evidence_windows import EVIDENCE_SECONDS, WINDOWS_TOLD
from gateway.metrics.tally import Tally
from gateway.oci.reference import Digest, Reference, parse_reference
from gateway.rollout.state import Reason, Stage
from runtimes.base import Signature, TensorSpec

ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": 10, "for": "5s"}, {"weight": 50, "for": "5s"}],
    "checks": {"max_error_rate": 0.05, "min_requests": 10},
    "scale_down_delay": "10s",
}
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "INT64", (-1,)),))

DESCRIPTION = Description("onnx", SIGNATURE)


def kit(tag: str) -> Reference:
    return parse_reference(f"registry.test/iris:{tag}")


def digest(tag: str) -> Digest:
    return Digest.of(tag.encode())


class World:
    """The gateway's state and rollouts, and a Serve whose workers are ready at once, or never.

    `registry` are the tags that can be resolved, each one tick after it is asked for; without it, each tag
    means something as soon as it is applied. A kit whose tag is in `unloadable` loads no more.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, 100.0
        self.wall = 1_000_000.0
        """Seconds since 1970, by which workers count."""
        self.told: dict[str, int] = {}
        self.ready_since: dict[AppName, float] = {}
        self.state = State(path)
        self.descriptions: dict[AppName, Description] = {}
        self.workers: dict[AppName, Tally] = {}
        self.late: frozenset[AppName] = frozenset()
        self.draining: set[AppName] = set()
        self.proven: set[AppName] = set()
        self.replicas: dict[str, int] = {"min": 1, "max": 1}
        self.plan: Plan | None = None
        self.pins: dict[Reference, Digest] = {}
        self.retries: dict[Hashable, RetryStatus] = {}
        self.registry: set[str] | None = None
        self.unloadable: set[str] = set()
        self.failing: dict[AppName, str] = {}
        self.announced: list[RolloutEvent] = []
        self.starts = 1
        self.golden = GoldenGate(lambda: Library(path.parent / "library"), "")
        self.begin()

    def begin(self, is_new_start: bool = False) -> None:
        self.starts += is_new_start
        self.rollouts = Rollouts(
            self.state,
            self.descriptions.get,
            self.golden,
            self.announced.append,
            is_new_start,
            lambda: self.now,
            EvidenceCollection(lambda: self.wall),
        )

    def die(self, is_new_start: bool = False) -> None:
        """The gateway is killed, or all of Kitserve, and comes back on a machine whose clock began anew."""
        self.state.close()
        self.state, self.now = State(self.path), 3.0
        self.wall += 1.0
        self.begin(is_new_start)

    def apply(self, tag: str, rollout: dict[str, Any] | None = ROLLOUT, **fields: Any) -> None:
        model = {
            "name": "iris",
            "kit": str(kit(tag)),
            "replicas": self.replicas,
            **({} if rollout is None else {"rollout": rollout}),
            **fields,
        }
        self.state.apply(desired_from(GatewayConfig.model_validate({"models": [model]})), "{}")
        if self.registry is None:
            self.pins.setdefault(kit(tag), digest(tag))
        else:
            self.pins.clear()

    def tick(self, seconds: float = 1.0, ready: bool = True) -> Plan:
        self.now += seconds
        self.wall += seconds
        recorded = Recorded(
            desired=self.state.desired(),
            pins=self.pins,
            failures={**self.state.failures(), **failures_among(self.retries)},
            retries=self.retries,
            versions=self.state.versions(),
            routes=self.state.routes(),
            condemned=self.state.condemned(),
            earlier=self.state.earlier_versions(),
        )
        workers = self._reports()
        self.proven |= self.workers.keys()
        apps = dict.fromkeys(recorded.versions, "")
        observed = Observed(apps, workers, frozenset(self.proven), failing=self.failing)
        recorded = replace(recorded, rollouts=self.rollouts.tick(recorded, observed, self.late))
        plan = reconcile(recorded, observed)
        self.state.save_routes(plan.routes)
        for reference in plan.resolve:
            if self.registry is not None and reference.tag in self.registry:
                self.pins[reference] = digest(str(reference.tag))
            else:
                self.state.fail(reference, recorded.desired.generation, f"{reference}: no such tag")
        for version in plan.deploy:
            self.state.keep_version(version)
            if version.label in self.unloadable:
                self.failing[version.app] = "its layers are gone"
            elif ready:
                self.load(version.label)
        for app in plan.surplus:
            self.workers.pop(app, None)
            self.state.drop_version(app)
        self.plan = plan
        return plan

    def _reports(self) -> list[Announcement]:
        """Have all workers report."""
        workers = [
            Announcement(
                f"{app}#{self.starts}",
                app,
                WorkerState.DRAINING if app in self.draining else WorkerState.READY,
                "",
                "10.0.0.1",
                1,
                numbers=tally.numbers(),
                evidence=tally.told_windows(self.told.get(f"{app}#{self.starts}", 0)),
                ready_since=self.ready_since.get(app, 0.0),
            )
            for app, tally in self.workers.items()
        ]
        for worker in workers:
            self.told[worker.worker] = self.rollouts.hear(worker)
        return workers

    def app(self, tag: str) -> AppName:
        """The app of a tag that was deployed last."""
        return [app for app in self.state.versions() if f".{tag}." in app][-1]

    def kind(self, tag: str) -> Kind:
        return self.state.versions()[self.app(tag)].kind

    def call(self, tag: str, count: int, status: int = 200) -> None:
        for _ in range(count):
            self.workers[self.app(tag)].judged(b"", status, 0.002)

    def call_for(self, seconds: float, *calls: tuple[str, int, int]) -> None:
        """Have calls come evenly: by tag, how many in each half second, and the status of their answers."""
        for number in range(round(seconds / EVIDENCE_SECONDS)):
            for tag, count, status in calls:
                self.call(tag, count, status)
            self.wall += EVIDENCE_SECONDS
            if number % WINDOWS_TOLD == WINDOWS_TOLD - 1:
                self._reports()
        self._reports()

    def serve(self, tag: str) -> None:
        self.apply(tag)
        for _ in range(3):
            self.tick()

    def load(self, tag: str) -> None:
        """Have the worker of a version be ready."""
        self.load_app(self.app(tag))

    def load_app(self, app: AppName) -> None:
        """Have the worker of an app be ready."""
        self.workers.setdefault(app, Tally(lambda: self.wall, lambda: self.wall))
        self.descriptions[app] = DESCRIPTION

    def lose(self, tag: str) -> None:
        """Have the worker of a version die, and no other one load."""
        self.unloadable.add(tag)
        self.workers.pop(self.app(tag))
        self.failing[self.app(tag)] = "its layers are gone"

    def to_step(self, tag: str = "v2") -> None:
        self.apply(tag)
        for _ in range(3):
            self.tick()

    def route(self) -> tuple[str | None, str | None, int]:
        """What calls go to: tags, and the canary's percent."""
        routed = self.state.routes()["iris"]
        stable, canary = (
            None if app is None else app.split(".")[1] for app in (routed.stable, routed.canary)
        )
        return stable, canary, routed.weight

    def position(self) -> tuple[Stage, Reason, int]:
        rollout = self.rollouts.get("iris")
        assert rollout is not None
        return rollout.stage, rollout.reason, rollout.weight
