"""Versions come into Serve with all that their workers need, and leave it once nobody can call them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.config import GatewayConfig
from gateway.contract import AppName, NodeSettings, WorkerState
from gateway.control.loop import deployer as deployer_module
from gateway.control.loop import tasks as tasks_module
from gateway.control.loop.deployer import Deployer, DeploySettings, worker_spec
from gateway.control.loop.watch import Watch
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, desired_from
from gateway.control.state.versions import Version, version_of
from gateway.control.state.workers import Workers
from gateway.errors import EdgeError
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from gateway.serving import Batching, QueueLimits
from runtimes.base import Resources
from tests.support.control_plane import FakeEdge, FakeServe, report, wait_for_tasks
from tests.support.waiting import wait

KIT = "oci-layout:/nowhere:iris:v1"
PINNED = PinnedReference.of(parse_reference(KIT), Digest.of(b"v1"))


def desired(**fields: Any) -> Desired:
    return desired_from(GatewayConfig.model_validate({"models": [{"name": "iris", "kit": KIT, **fields}]}))


def version(**fields: Any) -> Version:
    return version_of(desired(**fields).models[0], PINNED, 1)


def node_settings(home: Path) -> NodeSettings:
    return NodeSettings(home, "127.0.0.1", gateway="kitserve", edge_key="secret", drain_seconds=1.0)


class Plant:
    """A deployer, with a state, a Serve and an edge of its own."""

    def __init__(self, home: Path, serve: FakeServe) -> None:
        self.state = State(home / "state.db")
        self.state.apply(desired(), "{}")
        self.serve = serve
        self.edge = FakeEdge()
        self.awaited: set[AppName] = set()
        edge: Any = self.edge
        settings = DeploySettings(node_settings(home), reserve_cpus=False)
        self.workers = Workers()
        self.watch = Watch(self.workers, serve.applications, lambda: None)
        self.deployer = Deployer(
            self.state, edge, self.watch, settings, self.awaited.__contains__, lambda: None
        )

    def deploy(self) -> AppName:
        """Deploy a version; returns its app."""
        self.deployer.deploy([version()])
        wait(lambda: version().app in self.serve.running)
        return version().app

    def remove(self, app: AppName, is_off_edge: bool = True) -> None:
        """Tick once with a surplus app."""
        self.deployer.remove([app], self.state.condemned(), is_off_edge)


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    monkeypatch.setattr(deployer_module, "_LINGER_SECONDS", -1.0)
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.0)
    plant = Plant(tmp_path, FakeServe(monkeypatch))
    yield plant
    plant.deployer.stop()
    wait_for_tasks()
    plant.state.close()


def test_a_version_is_remembered_before_it_is_deployed(plant: Plant) -> None:
    app = plant.deploy()
    assert plant.state.versions() == {app: version()}
    assert plant.serve.specs[app].parents == ()


def test_versions_start_as_many_at_a_time_as_may_and_none_twice(plant: Plant) -> None:
    versions = [version_of(desired().models[0], PINNED, number) for number in range(1, 6)]

    def deployed() -> list[AppName]:
        plant.deployer.deploy([version for version in versions if version.app not in plant.serve.running])
        return [version.app for version, _ in plant.serve.deployments]

    apps = [version.app for version in versions]
    wait(lambda: deployed() == apps[:3])
    time.sleep(0.1)
    assert deployed() == apps[:3]
    plant.workers.hear(report(apps[1], WorkerState.PULLING))
    wait(lambda: deployed() == apps[:4])
    # A tick that looked before the last deployment begins it again.
    wait(lambda: apps[0] in plant.watch.applications())
    for _ in range(5):
        plant.deployer.deploy(versions[:1])
        time.sleep(0.02)
    assert deployed() == apps[:4]


def test_workers_are_told_what_the_config_says(tmp_path: Path) -> None:
    node = node_settings(tmp_path)
    fields = {
        "resources": {"cpus": 2, "gpus": 1},
        "timeout": "3s",
        "queue": {"max_requests": 7, "max_bytes": "2MiB"},
        "batching": {"max_batch_size": 4, "max_delay": "5ms"},
    }
    wanted = desired(**fields)
    spec = worker_spec(version(**fields), wanted.models[0], wanted, node)
    assert (spec.model, spec.reference.label) == ("iris", "v1")
    assert str(spec.reference) == f"{KIT}@{Digest.of(b'v1')}"
    assert (spec.node.home, spec.node.host, spec.node.edge_key) == (tmp_path, "127.0.0.1", "secret")
    assert spec.serving.resources == Resources(2.0, 1.0)
    assert spec.serving.queue == QueueLimits(7, 2 * 1024 * 1024, 3.0)
    assert spec.serving.batching == Batching(4, 0.005)
    assert worker_spec(version(), desired().models[0], desired(), node).serving.batching is None


def test_other_scaling_of_what_runs_is_remembered_only_once_serve_has_taken_it(plant: Plant) -> None:
    app = plant.deploy()
    wait(lambda: app in plant.watch.applications())
    scaled = version(replicas={"min": 2, "max": 3})
    assert (scaled.app, scaled == version()) == (app, False)

    def is_told() -> bool:
        plant.deployer.deploy([scaled])
        return (scaled, True) in plant.serve.deployments

    plant.serve.error = ConnectionError("the controller is gone")
    wait(is_told)
    assert plant.state.versions() == {app: version()}, "the next tick finds that Serve must be told"
    plant.serve.error = None

    def is_remembered() -> bool:
        plant.deployer.deploy([scaled])
        return plant.state.versions() == {app: scaled}

    wait(is_remembered)
    assert plant.serve.specs[app].serving == scaled.serving
    assert plant.serve.deployments[0] == (version(), False)
    assert set(plant.serve.deployments[1:]) == {(scaled, True)}


def test_what_is_surplus_is_condemned_deleted_and_then_forgotten(plant: Plant) -> None:
    app = plant.deploy()
    plant.remove(app)
    assert plant.state.condemned() == {app}, "before the task: no tick may route to it again"
    wait(lambda: plant.serve.deleted == [app])
    assert app in plant.state.versions(), "until Serve runs it no more"

    def is_forgotten() -> bool:
        plant.remove(app)
        return app not in plant.state.versions()

    wait(is_forgotten)
    assert plant.serve.deleted == [app]


def test_workers_that_still_load_end_with_their_version_and_others_drain(plant: Plant) -> None:
    app = plant.deploy()
    ready = report(app, WorkerState.READY)
    plant.workers.hear(ready)
    plant.workers.hear(replace(report(app, WorkerState.LOADING), worker="late", port=0))
    plant.remove(app)
    wait(lambda: plant.serve.spared == {app: {ready.worker}})


def test_nothing_goes_while_calls_may_be_on_their_way(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    app = plant.deploy()
    plant.remove(app, is_off_edge=False)
    plant.awaited.add(app)
    plant.remove(app)
    plant.awaited.clear()
    plant.edge.earlier_processes = 1
    plant.remove(app)
    plant.edge.error = EdgeError("no answer")
    plant.remove(app)
    plant.edge.error, plant.edge.earlier_processes = None, 0
    monkeypatch.setattr(deployer_module, "_LINGER_SECONDS", 60.0)
    plant.remove(app)
    assert plant.state.condemned() == frozenset()
    assert app in plant.serve.running


def test_an_earlier_process_of_the_edge_is_waited_for_no_longer_than_it_drains(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = plant.deploy()
    plant.edge.earlier_processes = 1
    monkeypatch.setattr(deployer_module, "DRAIN_SECONDS", -1.0)
    plant.remove(app)
    assert plant.state.condemned() == {app}


def test_what_is_condemned_already_is_deleted_whatever_the_edge_has(plant: Plant) -> None:
    app = plant.deploy()
    plant.state.condemn_version(app)
    plant.remove(app, is_off_edge=False)
    wait(lambda: plant.serve.deleted == [app])
