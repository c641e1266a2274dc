"""What is read from Serve, and that the parts of Ray that are used and not public are still there."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
from ray import serve
from ray.serve._private import deployment_state
from ray.serve._private.application_state import ApplicationStatusInfo, StatusOverview
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.common import DeploymentStatus, DeploymentStatusInfo, DeploymentStatusTrigger
from ray.serve.api import RunTarget
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from gateway.control.loop import ray_serve
from gateway.control.loop.ray_serve import Application, autoscaling
from gateway.serving import Scaling

SLOW = (
    "Deployment 'worker' in application 'x' has 1 replicas that have taken more than 10s to initialize.\n"
    "This may be caused by a slow __init__ or reconfigure method."
)
UNSCHEDULED = (
    "Deployment 'worker' in application 'x' has 1 replicas that have taken more than 10s to be scheduled. "
    "This may be due to waiting for the cluster to auto-scale or for a runtime environment to be installed. "
    'Resources required for each replica: {"CPU": 4.0, "GPU": 1.0}, total resources available: {"CPU": 1.0}. '
    "Use `ray status` for more details."
)
APP = "iris.v1.0123456789ab.01234567.1"


def overview(
    status: str,
    message: str = "",
    of_workers: str = "",
    deployment_status: DeploymentStatus = DeploymentStatus.HEALTHY,
) -> StatusOverview:
    """Return an application with one deployment, as Serve's controller has it."""
    trigger = DeploymentStatusTrigger.AUTOSCALING
    deployment = DeploymentStatusInfo("worker", deployment_status, trigger, of_workers)
    return StatusOverview(ApplicationStatusInfo(ApplicationStatus(status), message), APP, [deployment])


def _bytes(overview: StatusOverview) -> bytes:
    content: bytes = overview.to_proto().SerializeToString()  # type: ignore[no-untyped-call]
    return content


class Controller:
    """Says of applications what Serve's controller would, in the bytes that it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *overviews: StatusOverview) -> None:
        self.overviews = {overview.name: overview for overview in overviews}
        self.asked: list[str] = []
        client = ServeControllerClient.__new__(ServeControllerClient)
        client._shutdown = False
        client._controller = self
        monkeypatch.setattr(ray_serve, "_get_global_client", lambda **_: client)
        monkeypatch.setattr(ray, "get", lambda answer: answer)

    def __getattr__(self, method: str) -> SimpleNamespace:
        def remote(name: str | None = None) -> bytes | list[bytes]:
            self.asked.append(method)
            if method == "list_serve_statuses":
                return [_bytes(overview) for overview in self.overviews.values()]
            assert method == "get_serve_status", method
            missing = StatusOverview(ApplicationStatusInfo(ApplicationStatus.NOT_STARTED))
            return _bytes(self.overviews.get(name or "", missing))

        return SimpleNamespace(remote=remote)


@pytest.mark.parametrize(
    ("shown", "application"),
    [
        (overview("DEPLOYING", "a\n b"), Application("a b")),
        (overview("DEPLOYING", "a", "no node has 8 CPUs"), Application("no node has 8 CPUs")),
        (overview("RUNNING", "a"), Application(was_ready=True, running=2)),
        # One that wakes has a worker that may wait for long until there is room for it.
        (overview("RUNNING", "", UNSCHEDULED, DeploymentStatus.UPSCALING), Application(was_ready=True)),
        (overview("RUNNING", deployment_status=DeploymentStatus.DOWNSCALING), Application(was_ready=True)),
        (overview("UNHEALTHY", "", "a replica died"), Application("a replica died", was_ready=True)),
        (
            overview(
                "UNHEALTHY",
                "",
                "A replica's health check failed. This deployment will be UNHEALTHY until the replica "
                "recovers or a new deploy happens.",
            ),
            Application("a worker died or does not answer; another one is started", was_ready=True),
        ),
        (
            overview("DEPLOY_FAILED", "", "it died"),
            Application("its workers die while they start: it died", gave_up=True),
        ),
        (overview("DELETING", "a"), Application()),
        (overview("DEPLOYING", "", SLOW), Application()),
        (
            overview("DEPLOYING", "", UNSCHEDULED.replace('{"CPU": 4.0, "GPU": 1.0}', "{}")),
            Application(),
        ),
        (
            overview("DEPLOYING", "", UNSCHEDULED),
            Application(
                "waits for a node with 4 CPUs and 1 GPU free: "
                "on all nodes together, 1 of 2 CPUs and 0 of 0 GPUs are free"
            ),
        ),
    ],
    ids=lambda value: value.app_status.status.value if isinstance(value, StatusOverview) else "",
)
def test_each_status_of_an_application(
    shown: StatusOverview, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = (replace(shown, name=name) for name in (ray_serve.GATEWAY_APP, "somebody's"))
    controller = Controller(monkeypatch, shown, *others)
    monkeypatch.setattr(
        serve, "status", lambda: pytest.fail("it takes long where there are many applications")
    )
    names = (f"SERVE_REPLICA::{APP}#worker#a", f"SERVE_REPLICA::{APP}#worker#b")
    foreign = (f"SERVE_REPLICA::{APP}1#worker#c", "SERVE_CONTROLLER_ACTOR", f"{APP}#worker#d")
    named = [{"name": name, "namespace": "serve"} for name in (*names, *foreign)]
    monkeypatch.setattr(ray.util, "list_named_actors", lambda **_: named)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "memory": 1e9})
    assert ray_serve.applications() == {APP: application}
    assert controller.asked == ["list_serve_statuses"]


@pytest.mark.parametrize(
    ("shown", "failure"),
    [
        (overview("DEPLOYING", "", "Traceback:\nValueError: a"), ""),
        (overview("RUNNING"), ""),
        (overview("DEPLOY_FAILED", "b", "Traceback:\nValueError: a\n"), "ValueError: a"),
        (overview("DEPLOY_FAILED", "b"), "b"),
        (overview("DEPLOY_FAILED"), "it could not be started"),
    ],
)
def test_why_the_gateway_never_runs(
    shown: StatusOverview, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Controller(monkeypatch, replace(shown, name=ray_serve.GATEWAY_APP))
    assert ray_serve.gateway_failure() == failure


def test_a_gateway_that_serve_does_not_know_yet_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    Controller(monkeypatch)
    assert ray_serve.gateway_failure() == ""
    monkeypatch.setattr(ray_serve, "_get_global_client", lambda **_: None)
    assert ray_serve.gateway_failure() == ""


def test_to_delete_all_starts_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_serve, "_get_global_client", lambda **_: pytest.fail("it would start one"))
    ray_serve.delete_all()
    assert not ray.is_initialized()


@pytest.mark.parametrize(("minimum", "first"), [(0, 1), (2, 2)])
def test_only_a_version_that_does_not_run_yet_is_told_how_many_workers_to_start(
    minimum: int, first: int
) -> None:
    scaling = Scaling(min=minimum, max=3)
    assert AutoscalingConfig(**autoscaling(scaling)).initial_replicas == first
    running = AutoscalingConfig(**autoscaling(scaling, is_running=True))
    assert running.initial_replicas is None, "it would have that many workers again"
    bounds = (running.min_replicas, running.max_replicas)
    assert bounds == (minimum, 3)


def test_what_is_used_and_not_public_is_still_there() -> None:
    run_many = inspect.signature(serve.run_many).parameters
    assert {"wait_for_ingress_deployment_creation", "wait_for_applications_running"} <= set(run_many)
    assert {"target", "name", "route_prefix"} <= set(inspect.signature(RunTarget).parameters)
    assert "_blocking" in inspect.signature(serve.delete).parameters
    assert list(inspect.signature(DeploymentHandle).parameters)[:2] == ["deployment_name", "app_name"]
    assert inspect.iscoroutinefunction(DeploymentHandle.shutdown_async)
    assert callable(ray.util.get_node_ip_address)
    source = inspect.getsource(deployment_state)
    for text in (
        "s to be scheduled. ",
        "Resources required for each replica: {required}, ",
        "total resources available: {available}. ",
        "{SLOW_STARTUP_WARNING_S}s to ",
        "initialize.\\n",
        "RAY_SERVE_SLOW_STARTUP_WARNING_S",
        "RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S",
    ):
        assert text in source, text
