"""What the control plane drives, in memory: a Serve that runs what is deployed, an edge that keeps tables."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from gateway.contract import Announcement, AppName, WorkerSpec, WorkerState
from gateway.control.loop import ray_serve
from gateway.control.loop.ray_serve import Application
from gateway.control.rollouts.swaps import Swaps
from gateway.control.state.database import State
from gateway.control.state.rollout_status import RolloutEvent
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.versions import Version
from gateway.edge.edge import EdgeStatistics
from gateway.edge.routes import RoutingTable
from gateway.errors import EdgeError
from gateway.logs.limits import Logged
from gateway.rollout.state import Rollout, Stage
from tests.support.waiting import wait


class FakeServe:
    """Serve in the place of `gateway.control.loop.ray_serve`: nothing is ready before a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: dict[AppName, Application] = {}
        self.specs: dict[AppName, WorkerSpec] = {}
        self.deployments: list[tuple[Version, bool]] = []
        """What it was told to deploy, also where it refused, and whether it was told that this runs."""
        self.deleted: list[AppName] = []
        self.spared: dict[AppName, frozenset[str]] = {}
        """The workers that were not to be killed with their app."""
        self.error: Exception | None = None
        self.looks = 0
        for name in ("applications", "deploy", "delete", "kill_starting"):
            monkeypatch.setattr(ray_serve, name, getattr(self, name))

    def applications(self) -> dict[AppName, Application]:
        if self.error is not None:
            raise self.error
        running = dict(self.running)
        self.looks += 1
        return running

    def deploy(self, version: Version, spec: WorkerSpec, reserve_cpus: bool, is_running: bool) -> None:
        self.deployments.append((version, is_running))
        if self.error is not None:
            raise self.error
        self.specs[version.app] = spec
        self.running[version.app] = Application("deploying")

    def delete(self, app: AppName) -> None:
        del self.running[app]
        self.deleted.append(app)

    def kill_starting(self, app: AppName, started: frozenset[str]) -> None:
        self.spared[app] = started

    def give_up(self, app: AppName) -> None:
        """Start no more workers of an app."""
        self.running[app] = replace(self.running[app], trouble="its workers die", gave_up=True)

    def run(self, app: AppName, workers: int = 1) -> None:
        """Have so many workers of an app run, as Serve sees it."""
        self.running[app] = Application(was_ready=True, running=workers)


class FakeEdge:
    """An edge that keeps the tables it is given, or refuses them with `error`."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []
        self.ended_canaries: list[str] = []
        self.configured: list[tuple[str, str]] = []
        self.earlier_processes = 0
        self.error: EdgeError | None = None

    def apply(self, table: RoutingTable) -> None:
        if self.error is not None:
            raise self.error
        self.tables.append(table)

    def configure(self, listen: str, access_log: Logged) -> None:
        if self.error is not None:
            raise self.error
        self.configured.append((listen, access_log))

    def end_canary(self, model: str) -> None:
        self.ended_canaries.append(model)

    def occupant(self, backend: str) -> str | None:
        raise NotImplementedError

    def old_processes(self) -> int:
        if self.error is not None:
            raise self.error
        return self.earlier_processes

    def statistics(self) -> EdgeStatistics:
        return EdgeStatistics()


class FakeRollouts:
    """Rollouts where no model has one; those of `degraded` are aborted."""

    def __init__(self, state: State) -> None:
        self.degraded: set[str] = set()
        self.announced: list[RolloutEvent] = []
        self.swaps = Swaps(state, self.announced.append)

    def tick(self, recorded: Recorded, observed: Observed, late: frozenset[AppName]) -> dict[str, Rollout]:
        return {}

    def get(self, model: str) -> Rollout | None:
        return Rollout(stage=Stage.DEGRADED) if model in self.degraded else None


def wait_for_tasks() -> None:
    """Wait until no task of a loop that was stopped is in progress: it would meet the next test's Serve."""
    wait(lambda: not any(thread.name.startswith(("resolve", "serve")) for thread in threading.enumerate()))


def report(
    app: AppName, state: WorkerState = WorkerState.READY, detail: str = "", port: int = 1
) -> Announcement:
    """Return what a worker of an app reports."""
    return Announcement(f"{app}#{port}", app, state, detail, "10.0.0.1", port, "onnx")
