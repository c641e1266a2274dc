"""What is read from Serve, and that the parts of Ray that are used and not public are still there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import ray
from ray import serve
from ray.serve._private import deployment_state
from ray.serve._private.common import ReplicaState
from ray.serve.api import RunTarget
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

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
    status: str, message: str = "", of_workers: str = "", replicas: Mapping[ReplicaState, int] | None = None
) -> SimpleNamespace:
    """Return an application as `serve.status()` has it, with one deployment."""
    deployment = SimpleNamespace(message=of_workers, replica_states=replicas or {})
    return SimpleNamespace(status=status, message=message, deployments={"worker": deployment})


@pytest.mark.parametrize(
    ("shown", "application"),
    [
        (overview("DEPLOYING", "a\n b"), Application("a b")),
        (overview("DEPLOYING", "a", "no node has 8 CPUs"), Application("no node has 8 CPUs")),
        (overview("RUNNING", "a"), Application(was_ready=True)),
        (
            overview("RUNNING", replicas={ReplicaState.RUNNING: 2, ReplicaState.STARTING: 1}),
            Application(was_ready=True, running=2),
        ),
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
    ids=lambda value: value.status if isinstance(value, SimpleNamespace) else "",
)
def test_each_status_of_an_application(
    shown: SimpleNamespace, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = {APP: shown, ray_serve.GATEWAY_APP: shown, "somebody's": shown}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=running))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "memory": 1e9})
    assert ray_serve.applications() == {APP: application}


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
    shown: SimpleNamespace, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={ray_serve.GATEWAY_APP: shown}))
    assert ray_serve.gateway_failure() == failure


def test_a_gateway_that_serve_does_not_know_yet_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={}))
    assert ray_serve.gateway_failure() == ""


def test_to_delete_all_starts_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "status", lambda: pytest.fail("it would start one"))
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
