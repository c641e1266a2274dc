"""The start and the end of `kitserve serve`: edge, Ray and gateway, and no process left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from gateway.cli.admin_client import AdminClient
from gateway.cli.processes import adopt_orphans, descendants, end_all, reap
from gateway.cli.supervision import Supervision, config_in_force
from gateway.config.config import Address, GatewayConfig
from gateway.control.loop.environment import prepare
from gateway.control.state.database import STATE_FILE, State
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Route, RoutingTable
from gateway.errors import ControlError, EdgeError, StoreError
from gateway.wire.server import reserve_port

_START_SECONDS = 60
_STOP_SECONDS = 5.0
_LEFTOVER_SECONDS = 1.0
_LOOPBACK = "127.0.0.1"

Say = Callable[[str], None]


class Stopped(BaseException):
    """SIGINT or SIGTERM came."""


class Kitserve:
    """A Kitserve that runs on this machine; made by `running`."""

    def __init__(self, config: GatewayConfig, home: Path, address: str | None) -> None:
        self.config = config
        self.home = home
        self.address = address
        self.client = AdminClient(str(config.admin))
        self.ended = threading.Event()
        self.edge_error: EdgeError | None = None
        """Why the edge is gone for good."""
        self.supervision: Supervision | None = None
        """Looks after Ray; None on a cluster, whose Ray is another's."""

    def lose_edge(self, error: EdgeError) -> None:
        """Note that the edge is gone for good; this ends `serve`."""
        self.edge_error = error
        self.ended.set()


@contextmanager
def running(config: GatewayConfig, home: Path, address: str | None, say: Say) -> Iterator[Kitserve]:
    """Start edge, Ray and gateway, and stop them at the end of the block.

    Raises:
        StoreError, EdgeError, ControlError: when something cannot be started; the rest is stopped again.
    """
    kitserve = Kitserve(config, home, address)
    with ExitStack() as stack:
        stack.enter_context(_lock(home))
        # Here and not only in the gateway: what is wrong with it is told before Ray starts.
        State(home / STATE_FILE).close()
        _reserve("listen", config.listen).close()
        # Held for good: else another program may get it while no gateway runs.
        stack.enter_context(_reserve("admin", config.admin))
        directory = Path(tempfile.mkdtemp(prefix="kitserve-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        files = EdgeFiles(directory)
        # On a cluster workers listen on their nodes' addresses, and take calls from the edge alone.
        key = "" if address is None else secrets.token_hex(32)
        settings = EdgeSettings(str(config.listen), config.access_log, key, str(config.admin))
        routes = tuple(Route(model.name, reason="is not ready yet: starting") for model in config.models)
        EdgeControl(settings, files).write_first(RoutingTable(routes))
        edge = EdgeProcess(files, kitserve.lose_edge)
        edge.start()
        stack.callback(edge.stop)
        say(f"edge listens on http://{config.listen}")
        stack.callback(_stop_ray, address is None)
        _start_gateway(kitserve, files, settings, say)
        kitserve.client.apply(config)
        if address is None:
            adopt_orphans()

            def start_again() -> None:
                latest = config_in_force(home, config)
                _start_gateway(kitserve, files, settings, say)
                kitserve.client.apply(latest)

            kitserve.supervision = Supervision(start_again, lambda: _stop_ray(True, edge.process_id), say)
        try:
            yield kitserve
        finally:
            say("stopping: calls in flight are answered first")
            edge.stop(_STOP_SECONDS)


def _start_gateway(kitserve: Kitserve, files: EdgeFiles, settings: EdgeSettings, say: Say) -> None:
    address = kitserve.address
    say("starting Ray" if address is None else f"joining Ray at {address}")
    prepare(address)
    # Ray takes seconds to import: only commands that need it wait for it.
    from gateway.control.gateway import Gateway, GatewaySettings
    from gateway.control.loop import ray_serve

    ray_serve.start_ray(address)
    catch_signals()  # Ray has put handlers of its own in their place
    say("starting the gateway")
    admin = kitserve.config.admin
    ray_serve.deploy_gateway(
        Gateway,
        GatewaySettings(
            home=kitserve.home,
            edge_files=files,
            edge=settings,
            admin_host=admin.host,
            admin_port=admin.port,
            worker_host=_LOOPBACK if address is None else "",
            reserve_cpus=address is not None,
            instance=uuid.uuid4().hex,
        ),
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            kitserve.client.status()
            break
        except ControlError:
            if time.monotonic() > deadline:
                raise ControlError(
                    f"the gateway does not answer on {admin} after {_START_SECONDS} s"
                ) from None
            time.sleep(0.1)
    say(f"gateway listens on http://{admin}")


def _stop_ray(is_local: bool, edge: int | None = None) -> None:
    """Delete what was deployed on a cluster; on this machine, end every process that was started.

    Nothing is waited for: all that must last is on disk, and the edge has answered its last call by now, or
    goes on as the process `edge`.
    """
    from gateway.control.loop import ray_serve

    processes = descendants(os.getpid())
    for process in () if edge is None else (edge, *descendants(edge)):
        processes.pop(process, None)
    if not is_local:
        ray_serve.delete_all()
    ray_serve.stop_ray()
    if is_local:
        end_all(processes, _LEFTOVER_SECONDS)
        reap(processes, _LEFTOVER_SECONDS)


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Lock the home directory, so that no second Kitserve writes its state."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "serve.lock").open("a+")
    except OSError as error:
        raise StoreError(f"{home} cannot be used: {error}; name another directory with --home") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StoreError(
                f"a Kitserve (process {file.read().strip() or 'unknown'}) already runs from {home}; "
                "change it with `kitserve apply`, or name another directory with --home"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _reserve(field: str, address: Address) -> socket.socket:
    """Hold an address of the config; raise ControlError when it cannot be listened on."""
    try:
        return reserve_port(address.host, address.port)
    except OSError as error:
        raise ControlError(
            f"cannot listen on {address} ({error.strerror}); "
            f"free it, or set `{field}:` in the config to another address"
        ) from error


def catch_signals() -> None:
    """Have the first SIGINT or SIGTERM raise Stopped in the main thread; later ones change nothing."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
