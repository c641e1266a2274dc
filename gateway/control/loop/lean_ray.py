"""A Ray on this machine without the parts that Kitserve does not use; its processes are forked.

Ray's own start takes longer, and more memory (docs/speed.md): it waits for its dashboard and for two agents
of each node. `lean` replaces, while `ray.init` runs, what starts them:

- the dashboard, the monitor of its autoscaler and the monitor of its logs are not started;
- in place of the agents for metrics and for runtime environments, programs run that do nothing, and the ports
  that the raylet waits for are written beforehand;
- the raylet asks a fork server for worker processes (`fork_server.py`).

Without them Ray has no dashboard, no state API (`ray list`), no metrics of its own and no runtime
environments. All of this is private to Ray, and used in this module alone; a test fails where Ray changes it.
Where it is not as expected, Ray starts as it is.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import _raylet
from ray._private import node, services

from gateway.control.loop import fork_request
from gateway.control.loop.fork_server_process import ForkServer

_RAYLET = "raylet"
# The methods of `ray._private.node.Node` that are replaced, and the parameters that they are called with.
_STARTS: Mapping[str, tuple[str, ...]] = {
    "start_monitor": ("self",),
    "start_log_monitor": ("self",),
    "start_api_server": ("self", "include_dashboard", "raise_on_failure"),
}
_START_PROCESS = "start_ray_process"
_PROCESS_PARAMETERS = ("command", "process_type")
# Ports that the raylet waits for: there is none, but of the last it wants a number.
_PORTS: Mapping[str, int] = {
    "METRICS_AGENT_PORT_NAME": -1,
    "METRICS_EXPORT_PORT_NAME": -1,
    "DASHBOARD_AGENT_LISTEN_PORT_NAME": -1,
    "RUNTIME_ENV_AGENT_PORT_NAME": 1,
}
_SESSION, _NODE = "--session_dir=", "--node_id="
_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_WORKER = "--python_worker_command="
# Each agent has a pipe of the raylet's as standard input: it ends with the raylet. Arguments are added to it.
_NO_AGENT = "sh -c cat"

log = logging.getLogger(__name__)


def unexpected() -> str:
    """Return what of Ray is not as this module expects it; "" where all is."""
    for name, parameters in _STARTS.items():
        if _parameters(getattr(node.Node, name, None)) != parameters:
            return f"ray._private.node.Node.{name}"
    if _parameters(getattr(services, _START_PROCESS, None))[:2] != _PROCESS_PARAMETERS:
        return f"ray._private.services.{_START_PROCESS}"
    if not callable(getattr(_raylet, "persist_port", None)):
        return "ray._raylet.persist_port"
    return next((f"ray._raylet.{name}" for name in _PORTS if not hasattr(_raylet, name)), "")


@contextlib.contextmanager
def lean(fork_server: ForkServer) -> Iterator[None]:
    """Have `ray.init` leave out what is not used, and have processes forked, within the block."""
    if name := unexpected():
        log.warning("ray.unexpected", extra={"reason": f"{name} is not as expected, so Ray starts as it is"})
        yield
        return
    with contextlib.ExitStack() as stack:
        for start in ("start_monitor", "start_log_monitor"):
            _replace(stack, node.Node, start, lambda _node: None)
        _replace(stack, node.Node, "start_api_server", _start_no_api_server)
        start_process = getattr(services, _START_PROCESS)

        def start_ray_process(command: list[str], process_type: str, *rest: Any, **options: Any) -> Any:
            if process_type != _RAYLET:
                return start_process(command, process_type, *rest, **options)
            started = start_process(raylet_command(command, fork_server.path), process_type, *rest, **options)
            fork_server.serve(started.process.pid)
            # Ray's core waits for the first processes and lets no thread of Python run meanwhile, so that no
            # signal would be heard.
            fork_server.wait()
            return started

        _replace(stack, services, _START_PROCESS, start_ray_process)
        yield


def raylet_command(command: list[str], fork_server: Path) -> list[str]:
    """Return the raylet's command without its agents, and with processes that are forked.

    Where it is not as expected, it is returned as it is, and Ray starts its agents and processes itself.
    """
    values = {
        prefix: [word.removeprefix(prefix) for word in command if word.startswith(prefix)]
        for prefix in (_SESSION, _NODE, _WORKER, *_AGENTS)
    }
    if missing := [prefix for prefix, words in values.items() if len(words) != 1]:
        log.warning("ray.unexpected", extra={"reason": f"the raylet is not started with {missing[0]}"})
        return command
    (session,), (node_id,), (worker,) = values[_SESSION], values[_NODE], values[_WORKER]
    for name, port in _PORTS.items():
        _raylet.persist_port(session, node_id, getattr(_raylet, name), port)  # type: ignore[attr-defined]
    request = [sys.executable, "-I", "-S", fork_request.__file__, str(fork_server)]
    replaced = {_WORKER: f"{subprocess.list2cmdline(request)} {worker}", **dict.fromkeys(_AGENTS, _NO_AGENT)}
    return [
        next((prefix + value for prefix, value in replaced.items() if word.startswith(prefix)), word)
        for word in command
    ]


def _start_no_api_server(started: Any, **_options: Any) -> None:
    # The raylet is given the dashboard's address.
    started._webui_url = ""


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, replacement)


def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters) if inspect.isfunction(function) else ()
