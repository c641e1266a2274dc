"""The start and the end of `kitserve serve`: edge, Ray and gateway, and no process left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.cli.admin_client import AdminClient
from gateway.cli.control_plane import ControlPlane
from gateway.cli.health import health_link
from gateway.cli.host import callers_bounds, check_disks, raise_open_files, run_bytes
from gateway.cli.listening import ListeningCheck
from gateway.cli.processes import adopt_orphans
from gateway.cli.run_directory import run_directory
from gateway.cli.supervision import Supervision, config_in_force
from gateway.config.config import Address, GatewayConfig
from gateway.control.admin.socket_file import SOCKET_FILE
from gateway.control.admin.tls import server_context
from gateway.control.admin.token import keep_token
from gateway.control.state.database import STATE_FILE, State
from gateway.edge.access import Access, is_loopback
from gateway.edge.access_files import AccessFiles
from gateway.edge.bounds import EdgeBounds
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Route, RouteState, RoutingTable
from gateway.edge.sticky import sticky_key
from gateway.errors import ControlError, EdgeError, StoreError
from gateway.home import make_private, unusable
from gateway.wire.server import reserve_port
from gateway.worker.containment import remove_directories

_START_SECONDS = 60
_STOP_SECONDS = 5.0

Say = Callable[[str], None]


class Kitserve:
    """A Kitserve that runs on this machine; made by `running`."""

    def __init__(self, config: GatewayConfig, home: Path, address: str | None) -> None:
        self.config = config
        self.home = home
        self.address = address
        self.client = AdminClient(str(home / SOCKET_FILE))
        self.ended = threading.Event()
        self.edge_error: EdgeError | None = None
        """Why the edge is gone for good."""
        self.supervision: Supervision | None = None
        """Looks after Ray; None on a cluster, whose Ray is another's."""
        self.listening: ListeningCheck | None = None
        """Looks at the sockets of all processes; None on a cluster, whose nodes call each other."""

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
        with _naming_full_disks(home):
            edge, control_plane = _start(kitserve, stack, say)
        if address is None:

            def start_again() -> None:
                control_plane.start()
                _wait_for_gateway(kitserve)
                # Read only now: somebody may have applied another one to the gateway that died.
                kitserve.client.apply(config_in_force(home, config))

            kitserve.supervision = Supervision(start_again, lambda: control_plane.stop(edge.process_id), say)
            kitserve.listening = ListeningCheck(
                filter(None, (config.listen, config.admin, config.health)), say
            )
        try:
            yield kitserve
        finally:
            say("stopping: calls in flight are answered first")
            edge.stop(_STOP_SECONDS)


def _start(kitserve: Kitserve, stack: ExitStack, say: Say) -> tuple[EdgeProcess, ControlPlane]:
    config, home, address = kitserve.config, kitserve.home, kitserve.address
    # First: no worker may get away when a raylet dies.
    adopt_orphans()
    bounds = callers_bounds(config.callers, raise_open_files(), say)
    stack.enter_context(_lock(home))
    check_disks(home)
    # Here and not only in the gateway: what is wrong with it is told before Ray starts.
    State(home / STATE_FILE).close()
    keep_token(home)
    if config.admin_tls is not None:
        server_context(config.admin_tls)
    _reserve("listen", config.listen).close()
    if config.health is not None:
        _reserve("health", config.health).close()
    # Held for good: else another program may get it while no gateway runs.
    stack.enter_context(_reserve("admin", config.admin))
    files = EdgeFiles(stack.enter_context(run_directory(run_bytes(), home)))
    stack.enter_context(health_link(home, files.health_socket))
    access_files = AccessFiles(config, files)
    settings = edge_settings(config, access_files.access, files, bounds, home)
    routes = tuple(Route(model.name, state=RouteState.STARTING) for model in config.models)
    EdgeControl(settings, files).write_first(RoutingTable(routes))
    stack.callback((home / SOCKET_FILE).unlink, missing_ok=True)
    stack.callback(remove_directories)
    control_plane = ControlPlane(address, home, config, files, settings)
    stack.callback(control_plane.stop)
    edge = EdgeProcess(files, kitserve.lose_edge)
    edge.start()
    stack.callback(edge.stop)
    access_files.start()
    stack.callback(access_files.stop)
    say(f"edge listens on {'http' if config.tls is None else 'https'}://{config.listen}, by {edge.version}")
    if config.keys is not None and config.tls is None and not is_loopback(settings.listen):
        say("keys go over the network as they are: write `tls:` into the config, or have a proxy do TLS")
    say("starting Ray and the gateway" if address is None else _joining(address))
    control_plane.start()
    _wait_for_gateway(kitserve)
    scheme = "http" if config.admin_tls is None else "https"
    say(f"gateway listens on {scheme}://{config.admin}")
    kitserve.client.apply(config)
    return edge, control_plane


def _joining(address: str) -> str:
    """Return what is said of a Ray that is another's, before it is joined."""
    return f"joining Ray at {address}; see to it who may reach its ports (docs/security.md, Ray)"


def edge_settings(
    config: GatewayConfig, access: Access, files: EdgeFiles, bounds: EdgeBounds, home: Path
) -> EdgeSettings:
    """Return the settings of the edge for one start."""
    return EdgeSettings(
        str(config.listen),
        config.access_log,
        # Workers take calls from the edge alone, whoever else reaches their ports.
        secrets.token_hex(32),
        f"unix@{files.front_socket}",
        bounds,
        config.callers.trusted_proxies,
        "" if config.health is None else str(config.health),
        access,
        sticky_key(home),
    )


def _wait_for_gateway(kitserve: Kitserve) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            kitserve.client.status()
            break
        except ControlError:
            if time.monotonic() > deadline:
                raise ControlError(
                    f"the gateway does not answer on {kitserve.config.admin} after {_START_SECONDS} s"
                ) from None
            time.sleep(0.1)


@contextmanager
def _naming_full_disks(home: Path) -> Iterator[None]:
    """Raise an OSError that nobody expected, such as that of a full disk, as StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or home}: {error.strerror or error}") from error


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Lock the home directory, so that no second Kitserve writes its state."""
    make_private(home)
    try:
        file = (home / "serve.lock").open("ab+", buffering=0)
    except OSError as error:
        raise unusable(home, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StoreError(
                f"a Kitserve (process {file.read().decode().strip() or 'unknown'}) already runs from {home}; "
                "change it with `kitserve apply`, or name another directory with --home"
            ) from None
        try:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        except OSError as error:
            raise unusable(home, error) from error
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
