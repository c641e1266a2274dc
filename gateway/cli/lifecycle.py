"""The start and the end of `kitserve serve`: edge, Ray and gateway, and no process left behind."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.cli.addresses import Addresses
from gateway.cli.admin_client import AdminClient
from gateway.cli.control_plane import ControlPlane
from gateway.cli.health import health_link
from gateway.cli.host import callers_bounds, check_disks, raise_open_files, run_bytes
from gateway.cli.listening import ListeningCheck
from gateway.cli.prefetch import Prefetch
from gateway.cli.processes import adopt_orphans
from gateway.cli.run_directory import run_directory
from gateway.cli.supervision import Supervision, config_in_force
from gateway.cli.tracing import otlp_settings, shown_endpoint
from gateway.config.config import Address, GatewayConfig
from gateway.control.admin.socket_file import SOCKET_FILE
from gateway.control.admin.tls import server_context
from gateway.control.admin.token import keep_token
from gateway.control.state.database import STATE_FILE, State
from gateway.edge.access import Access
from gateway.edge.access_files import AccessFiles
from gateway.edge.bounds import EdgeBounds
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Route, RouteState, RoutingTable
from gateway.edge.sticky import sticky_key
from gateway.edge.traced_lines import TracedLines, TraceSender
from gateway.edge.tracing import EdgeTracing
from gateway.edge.worker_authority import new_worker_tls
from gateway.errors import ControlError, EdgeError, StoreError
from gateway.home import make_private, unusable
from gateway.loopback import is_loopback_host
from gateway.wire.server import reserve_port
from gateway.worker.containment import remove_directories

_STOP_SECONDS = 5.0

log = logging.getLogger(__name__)

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
        self.addresses: Addresses | None = None
        """Where it listens; None before all parts have started."""

    def is_answering(self) -> bool:
        """Tell whether the gateway answers."""
        try:
            self.client.status()
        except ControlError:
            return False
        return True

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
            edge, control_plane, holder = _start(kitserve, stack, say)
        if address is None:

            def start_again() -> None:
                control_plane.use(config_in_force(home, config))
                control_plane.start(say)
                # Read only now: somebody may have applied another one to the gateway that died.
                kitserve.client.apply(config_in_force(home, config))

            kitserve.supervision = Supervision(start_again, lambda: control_plane.stop(edge.process_id), say)
            kitserve.listening = ListeningCheck(
                filter(None, (config.listen, config.admin, config.health)), say
            )
        kitserve.addresses = stack.enter_context(
            contextlib.closing(Addresses(config, holder, kitserve.listening, say))
        )
        try:
            yield kitserve
        finally:
            say("stopping: calls in flight are answered first")
            edge.stop(_STOP_SECONDS)


def _start(kitserve: Kitserve, stack: ExitStack, say: Say) -> tuple[EdgeProcess, ControlPlane, socket.socket]:
    """Start all parts; returns two of them, and what holds the port of `admin`."""
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
    holder = stack.enter_context(_reserve("admin", config.admin))
    otlp = None if config.tracing is None else otlp_settings(config.tracing, os.environ)
    files = EdgeFiles(stack.enter_context(run_directory(run_bytes(), home)))
    stack.enter_context(health_link(home, files.health_socket))
    access_files = AccessFiles(config, files)
    settings = edge_settings(config, access_files.access, files, bounds, home, is_cluster=address is not None)
    routes = tuple(Route(model.name, state=RouteState.STARTING) for model in config.models)
    EdgeControl(settings, files).write_first(RoutingTable(routes))
    stack.callback((home / SOCKET_FILE).unlink, missing_ok=True)
    stack.callback(remove_directories)
    control_plane = ControlPlane(address, home, config, files, settings, kitserve.is_answering, otlp)
    stack.callback(control_plane.stop)
    traced = None
    if otlp is not None:
        traced = TracedLines(config.access_log, TraceSender(files.trace_socket).send)
        say(f"traces go to {shown_endpoint(otlp)}")
    edge = EdgeProcess(files, kitserve.lose_edge, traced)
    edge.start()
    stack.callback(edge.stop)
    access_files.start()
    stack.callback(access_files.stop)
    say(f"edge listens on {'http' if config.tls is None else 'https'}://{config.listen}, by {edge.version}")
    if config.keys is not None and config.tls is None and not is_loopback_host(settings.listen):
        say("keys go over the network as they are: write `tls:` into the config, or have a proxy do TLS")
    has_worker_tls, is_cluster = settings.worker_tls is not None, address is not None
    log.info("workers.called", extra={"tls": has_worker_tls})
    if about := _about_workers(has_worker_tls, is_cluster):
        say(about)
    say("starting Ray and the gateway" if address is None else _joining(address))
    prefetch = Prefetch(config, home)
    stack.callback(prefetch.stop)
    prefetch.start()
    started = time.monotonic()
    control_plane.start(say)
    scheme = "http" if config.admin_tls is None else "https"
    prefetch.stop()
    say(f"gateway listens on {scheme}://{config.admin}, after {time.monotonic() - started:.1f} s")
    kitserve.client.apply(config)
    return edge, control_plane, holder


def _about_workers(has_tls: bool, is_cluster: bool) -> str:
    """Return what is said of how workers are called; "" where it is as always on one machine."""
    if has_tls:
        return "workers are called over TLS, by a certificate authority of this start's own"
    return "workers are called over the network in clear (`worker_tls: never`)" if is_cluster else ""


def _joining(address: str) -> str:
    """Return what is said of a Ray that is another's, before it is joined."""
    return f"joining Ray at {address}; see to it who may reach its ports (docs/security.md, Ray)"


def edge_settings(
    config: GatewayConfig,
    access: Access,
    files: EdgeFiles,
    bounds: EdgeBounds,
    home: Path,
    is_cluster: bool = False,
) -> EdgeSettings:
    """Return the settings of the edge for one start; on a cluster, workers are on other machines too."""
    has_worker_tls = is_cluster if config.worker_tls == "auto" else config.worker_tls == "always"
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
        new_worker_tls() if has_worker_tls else None,
        None if config.tracing is None else EdgeTracing(config.tracing.sample, config.tracing.caller_rate),
    )


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
