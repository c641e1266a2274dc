"""Ray Serve, driven from here alone: start, deploy, wake, delete, list.

What of Ray is used that is not public and stable is here too (but for `ray_start`, `ray_token` and
`lean_ray`), and a test fails when it changes:

- `serve.run_many` and `RunTarget`, which return before an application runs (developer API);
- `serve.delete(_blocking=False)`, which returns before an application is gone;
- a `DeploymentHandle` made by its constructor, as `serve.get_app_handle` keeps each that it gives out, and
  its `shutdown_async`;
- `list_serve_statuses` and `get_serve_status` of Serve's own client: `serve.status` makes all details of all
  applications, for which Serve's controller and this process compute longer with each application;
- the names of replicas' actors, `SERVE_REPLICA::<application>#<deployment>#<id>`;
- `ray.util.get_node_ip_address`;
- what Serve says of a replica that cannot be scheduled, or takes long to start: it is put into our own words;
- `Deployment.options(version=…, _internal=True)`, so that an application that is run again keeps its workers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.api import RunTarget
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from gateway.contract import AppName, WorkerSpec
from gateway.control.loop.capacity import waiting_message
from gateway.control.state.versions import Version, is_version
from gateway.errors import ControlError
from gateway.foreign_text import foreign_text
from gateway.serving import Scaling
from gateway.worker.deployment import Worker
from gateway.worker.scaling import LOOK_BACK_SECONDS, ByOngoingCalls
from runtimes.base import Resources

GATEWAY_APP = "kitserve"
_GATEWAY_ROUTE = "/kitserve"
_WORKER = "worker"
_MAX_ONGOING = 1024
_HEALTH_PERIOD_SECONDS = 5
_HEALTH_TIMEOUT_SECONDS = 15
_STATS_SECONDS = 1.0
# Serve's configs cannot be made in two threads at once (2.60: they share a registration of cloudpickle's).
_CONFIGS = threading.Lock()
# States of an application (Ray Serve, ApplicationStatus).
_RUNS = "RUNNING"
_GAVE_UP = "DEPLOY_FAILED"
_WAS_READY = ("RUNNING", "UNHEALTHY")
_HAS_TROUBLE = ("DEPLOYING", "UNHEALTHY")
# State of a deployment that has all its replicas (Ray Serve, DeploymentStatus).
_HAS_ALL = "HEALTHY"
# What the message of a deployment says (Ray Serve, DeploymentState).
_STARTS_SLOWLY = "s to initialize."
_LOST = "replica's health check failed"
_UNSCHEDULED = re.compile(
    r"s to be scheduled\. .*Resources required for each replica: (\{.*?\}), "
    r"total resources available: (\{.*?\})\."
)
# Serve logs each report of a worker as a call, in files that it rotates at 512 MiB.
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}
# How the names of replicas' actors begin (Ray Serve, ReplicaID).
_REPLICAS = "SERVE_REPLICA::"


def start_serve() -> None:
    """Start Serve on the Ray that this process has started or joined.

    Raises:
        ControlError: when it cannot be started.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        # Calls come from the edge: Serve's own proxies would take a port on each node for nothing.
        serve.start(proxy_location="Disabled", logging_config=_LOGGING)
    except Exception as error:
        raise ControlError(f"Ray Serve could not be started: {foreign_text(error)}") from error


def node_resource() -> str:
    """Return Ray's resource name of the node that this process is on."""
    return f"node:{ray.util.get_node_ip_address()}"  # type: ignore[no-untyped-call]


def parallel_starts() -> int:
    """Return how many versions may start at a time: one more than Ray has cores, as each waits at times."""
    return int(_resources().get("CPU", 1)) + 1


def deploy_gateway(deployment: Any, settings: Any, is_awaited: bool) -> None:
    """Have Serve run the gateway as one replica on this node, and start it again when it dies.

    Args:
        deployment: the class.
        settings: what it is made with.
        is_awaited: whether to wait until it runs, as another one may still answer. Where it is not awaited,
            `gateway_failure` tells when it never will.

    Raises:
        ControlError: when it cannot be started.
    """
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
        if is_awaited:
            serve.run(application, name=GATEWAY_APP, route_prefix=_GATEWAY_ROUTE)
        else:
            _run(application, GATEWAY_APP, _GATEWAY_ROUTE)
    except Exception as error:
        reason = gateway_failure() or foreign_text(error)
        raise ControlError(f"the gateway could not be started: {reason}") from error


def gateway_failure() -> str:
    """Return why Serve starts the gateway no more; "" while it does."""
    client: Any = _get_global_client(raise_if_no_controller_running=False)
    overview = None if client is None else client.get_serve_status(GATEWAY_APP)
    if overview is None or overview.app_status.status != _GAVE_UP:
        return ""
    messages = [deployment.message.strip() for deployment in overview.deployment_statuses]
    # The last line of a traceback.
    reason = next((message.splitlines()[-1] for message in messages if message), overview.app_status.message)
    return foreign_text(reason) or "it could not be started"


def deploy(version: Version, spec: WorkerSpec, reserve_cpus: bool, is_running: bool) -> None:
    """Have Serve run a version's workers, or scale those that run; returns before they are ready.

    On a machine of its own, Kitserve reserves no CPUs: a laptop with two cores serves three models. On
    a cluster it does, so that Ray can place workers well.
    """
    resources, scaling = version.serving.resources, version.serving.scaling
    with _CONFIGS:
        deployment = _deployment(
            Worker,
            name=_WORKER,
            max_ongoing_requests=_MAX_ONGOING,
            health_check_period_s=_HEALTH_PERIOD_SECONDS,
            health_check_timeout_s=_HEALTH_TIMEOUT_SECONDS,
            graceful_shutdown_timeout_s=spec.node.drain_seconds + 5,
            graceful_shutdown_wait_loop_s=0.1,
            ray_actor_options=actor_options(resources, reserve_cpus),
            # For a fixed number too: a worker that starts without this never reports its calls to Serve.
            autoscaling_config=autoscaling(scaling, is_running),
        )
        # Serve starts other workers for another version alone; without one, it takes each call for a new one.
        application = deployment.options(version=str(version.kind), _internal=True).bind(spec)
    _run(application, version.app, f"/{version.app}")


def actor_options(resources: Resources, reserve_cpus: bool) -> dict[str, Any]:
    """Return what Ray reserves for a worker; one that is placed by memory finds its GPU itself."""
    options: dict[str, Any] = {
        "num_cpus": resources.cpus if reserve_cpus else 0,
        "num_gpus": resources.reserved_gpus,
    }
    if resources.accelerator is not None:
        options["accelerator_type"] = resources.accelerator
    return options


def autoscaling(scaling: Scaling, is_running: bool = False) -> dict[str, Any]:
    """Return how Serve is to scale a version.

    One worker at least starts, which proves that the version loads; one that is running keeps its workers,
    as far as they are within the bounds.
    """
    return {
        "min_replicas": scaling.min,
        "initial_replicas": None if is_running else scaling.first,
        "max_replicas": scaling.max,
        "target_ongoing_requests": scaling.target_ongoing_requests,
        "policy": {
            "policy_function": f"{ByOngoingCalls.__module__}:{ByOngoingCalls.__name__}",
            "policy_kwargs": {"idle_seconds": scaling.downscale_to_zero_delay},
        },
        # A worker keeps those that it started with, so they are the same for a fixed number.
        "metrics_interval_s": _STATS_SECONDS,
        "look_back_period_s": LOOK_BACK_SECONDS,
        "upscale_delay_s": scaling.upscale_delay,
        "downscale_delay_s": scaling.downscale_delay,
        # The policy has waited for this by then: it knows when each worker was last called.
        "downscale_to_zero_delay_s": 0,
    }


async def wake(app: AppName) -> None:
    """Have Serve start a worker of a version that has none; returns when one takes calls.

    Serve scales up from zero while a call waits in a handle, and no more once that call is cancelled. To be
    awaited on the event loop of the gateway's replica.
    """
    handle: Any = DeploymentHandle(_WORKER, app)
    response = handle.options(method_name=Worker.is_awake.__name__).remote()
    try:
        await response
    finally:
        response.cancel()
        # Else it reports to Serve's controller every second for as long as the gateway lives.
        await handle.shutdown_async()


def delete(app: AppName) -> None:
    """Have Serve end an application; returns before its workers are gone."""
    serve.delete(app, _blocking=False)


def kill_starting(app: AppName, started: Set[str]) -> None:
    """Kill an application's workers but those that have `started`, by the ids of their replicas.

    One that still loads hears nothing of Serve, and may load for ever.
    """
    for actor in _replicas():
        name = actor["name"]
        if _app_of(name) == app and name.rpartition("#")[2] not in started:
            # It may be gone since.
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(name, namespace=actor["namespace"]))


def _replicas() -> Iterable[dict[str, str]]:
    """Return the name and the namespace of each replica's actor, those that start included."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor for actor in actors if actor["name"].startswith(_REPLICAS)]


def _app_of(name: str) -> str:
    """Return the application of a replica, by the name of its actor."""
    return name.removeprefix(_REPLICAS).partition("#")[0]


@dataclass(frozen=True, slots=True)
class Application:
    """What Serve says of a version that it runs."""

    trouble: str = ""
    """What is wrong; "" when all is well."""
    was_ready: bool = False
    """Whether a worker was ready since the version was deployed."""
    gave_up: bool = False
    """Whether Serve starts no more workers, because they die while they start."""
    running: int = 0
    """How many workers run, once Serve has all it wants; whether they take calls, they report themselves."""


def applications() -> Mapping[AppName, Application]:
    """Return the versions that Serve runs, by app."""
    client: Any = _get_global_client()
    overviews = [overview for overview in client.list_serve_statuses() if is_version(overview.name)]
    workers = Counter(_app_of(actor["name"]) for actor in _replicas())
    return {AppName(overview.name): _application(overview, workers[overview.name]) for overview in overviews}


def _application(overview: Any, workers: int) -> Application:
    """Return what Serve says of an application that has so many workers."""
    status = overview.app_status.status
    # It is said to run, too, while workers that its calls ask for wait for room, or start.
    has_all = all(deployment.status == _HAS_ALL for deployment in overview.deployment_statuses)
    return Application(
        trouble=_trouble(overview),
        was_ready=status in _WAS_READY,
        gave_up=status == _GAVE_UP,
        running=workers if status == _RUNS and has_all else 0,
    )


def gpus() -> float:
    """Return how many GPUs this machine has, as Ray counts them; of a cluster, how many all nodes have."""
    return float(_resources().get("GPU", 0.0))


def delete_all() -> None:
    """Have Serve end the gateway and everything it deployed."""
    if not ray.is_initialized():
        # Serve would start a Ray for each of these calls.
        return
    with contextlib.suppress(Exception):
        for name in (GATEWAY_APP, *applications()):
            serve.delete(name, _blocking=False)


def _resources() -> dict[str, float]:
    """Return what all nodes have together, used or free, by Ray's names."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _deployment(target: Any, **options: Any) -> Any:
    """Return what `serve.deployment` makes; its own types allow only its use as a decorator."""
    return serve.deployment(target, logging_config=_LOGGING, **options)


def _run(application: Any, name: str, route_prefix: str) -> None:
    """Have Serve run an application; returns before it runs."""
    target = RunTarget(target=application, name=name, route_prefix=route_prefix)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _trouble(overview: Any) -> str:
    """Return what is wrong with an application, of which Serve gave this overview; "" for nothing."""
    status = overview.app_status.status
    messages = [deployment.message for deployment in overview.deployment_statuses if deployment.message]
    text = " ".join((messages[0] if messages else overview.app_status.message).split())
    if status == _GAVE_UP:
        return f"its workers die while they start: {foreign_text(text)}"
    if status not in _HAS_TROUBLE or _STARTS_SLOWLY in text:
        return ""
    if _LOST in text:
        return "a worker died or does not answer; another one is started"
    unscheduled = _UNSCHEDULED.search(text)
    if unscheduled is None:
        return foreign_text(text)
    requested, free = (json.loads(amounts) for amounts in unscheduled.groups())
    if not requested:  # It waits for nothing but its turn, as many start at once.
        return ""
    return waiting_message(requested, free, _resources())
