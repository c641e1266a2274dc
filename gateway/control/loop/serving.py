"""Ray and Ray Serve, driven from here alone: start, deploy, delete, look, stop.

What of Ray is used that is not public and stable is here too: `serve.run_many` (developer API), and a
`DeploymentHandle` made by its constructor, as `serve.get_app_handle` keeps each that it gives out.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.api import RunTarget
from ray.serve.handle import DeploymentHandle

from gateway.contract import WorkerSpec
from gateway.control.state.versions import Version, is_version
from gateway.errors import ControlError
from gateway.worker.replica import Worker
from gateway.worker.scaling import LOOK_BACK_SECONDS, ByOngoingCalls

GATEWAY_APP = "kitserve"
_WORKER = "worker"
_OBJECT_STORE_BYTES = 100 * 1024 * 1024
_MAX_ONGOING = 1024
_HEALTH_PERIOD_SECONDS = 5
_HEALTH_TIMEOUT_SECONDS = 15
_STATS_SECONDS = 1.0
_GAVE_UP = "DEPLOY_FAILED"


def start_ray(address: str | None) -> None:
    """Start Ray on this machine, or join the cluster at `address`; then start Serve.

    Raises:
        ControlError: when Ray cannot be started or joined.
    """
    options: dict[str, Any] = {
        "namespace": GATEWAY_APP,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="HeadOnly" if address is None else "EveryNode",
            http_options={"host": "127.0.0.1", "port": _free_port()},
        )
    except Exception as error:
        where = "on this machine" if address is None else f"at {address}"
        raise ControlError(f"Ray could not be started {where}: {error}") from error


def node_resource() -> str:
    """Ray's name for the node that this process is on."""
    return f"node:{ray.util.get_node_ip_address()}"  # type: ignore[no-untyped-call]


def deploy_gateway(deployment: Any, settings: Any) -> None:
    """Run the gateway as one replica on this node, started again by Serve when it dies."""
    application = _deployment(
        deployment,
        name="gateway",
        num_replicas=1,
        max_ongoing_requests=_MAX_ONGOING,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0, "resources": {node_resource(): 0.001}},
    ).bind(settings)
    try:
        serve.run(application, name=GATEWAY_APP, route_prefix="/kitserve")
    except Exception as error:
        raise ControlError(f"the gateway could not be started: {error}") from error


def deploy(version: Version, spec: WorkerSpec, reserve_cpus: bool) -> None:
    """Have Serve run a version's workers; returns before they are ready.

    On a machine of its own, Kitserve reserves no CPUs: a laptop with two cores serves three models. On
    a cluster it does, so that Ray can place workers well.
    """
    fixed = version.min_replicas == version.max_replicas
    replicas: dict[str, Any] = (
        {"num_replicas": version.min_replicas} if fixed else {"autoscaling_config": autoscaling(version)}
    )
    application = _deployment(
        Worker,
        name=_WORKER,
        max_ongoing_requests=_MAX_ONGOING,
        health_check_period_s=_HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=spec.drain_seconds + 5,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": version.cpus if reserve_cpus else 0, "num_gpus": version.gpus},
        **replicas,
    ).bind(spec)
    target = RunTarget(target=application, name=version.app, route_prefix=f"/{version.app}")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def autoscaling(version: Version) -> dict[str, Any]:
    """How Serve is to scale a version. It starts with one worker at least, which proves that it loads."""
    return {
        "min_replicas": version.min_replicas,
        "initial_replicas": version.first_replicas,
        "max_replicas": version.max_replicas,
        "target_ongoing_requests": version.target_ongoing_requests,
        "policy": {
            "policy_function": f"{ByOngoingCalls.__module__}:{ByOngoingCalls.__name__}",
            "policy_kwargs": {"idle_seconds": version.downscale_to_zero_delay},
        },
        "metrics_interval_s": _STATS_SECONDS,
        "look_back_period_s": LOOK_BACK_SECONDS,
        "upscale_delay_s": version.upscale_delay,
        "downscale_delay_s": version.downscale_delay,
        # The policy has waited for this by then: it knows when each worker was last called.
        "downscale_to_zero_delay_s": 0,
    }


async def wake(app: str) -> None:
    """Have Serve start a worker of a version that has none; returns when one takes calls.

    A call that waits in a handle is what Serve scales up from zero by, and a call that is cancelled is
    no reason any more. To be awaited on the event loop of the gateway's replica.
    """
    handle: Any = DeploymentHandle(_WORKER, app)
    response = handle.options(method_name=Worker.is_awake.__name__).remote()
    try:
        await response
    finally:
        response.cancel()
        # Else it reports to Serve's controller every second for as long as the gateway lives.
        await handle.shutdown_async()


def delete(app: str) -> None:
    """Have Serve end an application; returns before its workers are gone."""
    serve.delete(app, _blocking=False)


@dataclass(frozen=True, slots=True)
class Application:
    """What Serve says of a version that it runs."""

    trouble: str = ""
    """What is wrong; "" when all is well."""
    was_ready: bool = False
    """Whether a worker was ready since the version was deployed."""
    gave_up: bool = False
    """Whether Serve starts no more workers, because they die while they start."""


def applications() -> Mapping[str, Application]:
    """The versions that Serve runs."""
    return {
        name: Application(
            trouble=_trouble(overview),
            was_ready=overview.status in ("RUNNING", "UNHEALTHY"),
            gave_up=overview.status == _GAVE_UP,
        )
        for name, overview in serve.status().applications.items()
        if is_version(name)
    }


def delete_all() -> None:
    """Have Serve end the gateway and everything it deployed."""
    with contextlib.suppress(Exception):
        for name in (GATEWAY_APP, *applications()):
            serve.delete(name, _blocking=False)


def stop_ray() -> None:
    """Leave Ray; it ends with this process's own."""
    ray.shutdown()


def _deployment(target: Any, **options: Any) -> Any:
    """`serve.deployment`, whose own types say that it only decorates."""
    return serve.deployment(target, **options)


def _trouble(overview: Any) -> str:
    messages = [deployment.message for deployment in overview.deployments.values() if deployment.message]
    text = " ".join((messages[0] if messages else overview.message).split())
    if overview.status == _GAVE_UP:
        return f"its workers die while they start: {text}"
    return text if overview.status in ("DEPLOYING", "UNHEALTHY") else ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
