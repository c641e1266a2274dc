"""The life of `kitserve serve`: edge, Ray, gateway; then whatever happens; then nothing left behind."""

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

from gateway.cli.client import AdminClient
from gateway.cli.processes import descendants, end_all
from gateway.config.config import Address, GatewayConfig
from gateway.control.loop.environment import prepare
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Route, RoutingTable
from gateway.errors import ControlError, EdgeError, StoreError

_START_SECONDS = 60
_DRAIN_SECONDS = 5.0
_LEFTOVER_SECONDS = 1.0
_LOOPBACK = "127.0.0.1"

Say = Callable[[str], None]


class Stopped(BaseException):
    """Someone asked for the end, by SIGINT or SIGTERM."""


class Kitserve:
    """All of Kitserve on this machine: made by `running`, asked to end by a signal."""

    def __init__(self, config: GatewayConfig, home: Path, address: str | None) -> None:
        self.config = config
        self.home = home
        self.address = address
        self.client = AdminClient(str(config.admin))
        self.ended = threading.Event()
        self.lost: EdgeError | None = None

    def edge_lost(self, error: EdgeError) -> None:
        """Note that the edge is gone for good; this ends `serve`."""
        self.lost = error
        self.ended.set()


@contextmanager
def running(config: GatewayConfig, home: Path, address: str | None, say: Say) -> Iterator[Kitserve]:
    """Start everything, and stop everything at the end of the block.

    Raises:
        StoreError, EdgeError, ControlError: when something cannot be started; what was is stopped again.
    """
    kitserve = Kitserve(config, home, address)
    with ExitStack() as stack:
        stack.enter_context(_only_one(home))
        for name, listen in (("listen", config.listen), ("admin", config.admin)):
            _check_free(name, listen)
        directory = Path(tempfile.mkdtemp(prefix="kitserve-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        files = EdgeFiles(directory)
        # On a cluster workers listen on their nodes' addresses, and must know the edge from others.
        key = "" if address is None else secrets.token_hex(32)
        settings = EdgeSettings(str(config.listen), config.access_log, key, str(config.admin))
        routes = tuple(Route(model.name, reason="is not ready yet: starting") for model in config.models)
        EdgeControl(settings, files).write_first(RoutingTable(routes))
        edge = EdgeProcess(files, kitserve.edge_lost)
        edge.start()
        stack.callback(edge.stop)
        say(f"edge listens on http://{config.listen}")
        stack.callback(_stop_ray, address is None)
        _start_gateway(kitserve, files, settings, say)
        kitserve.client.apply(config)
        try:
            yield kitserve
        finally:
            say("stopping: calls in flight are answered first")
            edge.stop(_DRAIN_SECONDS)


def _start_gateway(kitserve: Kitserve, files: EdgeFiles, settings: EdgeSettings, say: Say) -> None:
    address = kitserve.address
    say("starting Ray" if address is None else f"joining Ray at {address}")
    prepare(address)
    # Ray takes seconds to import: only those commands wait for it that need it.
    from gateway.control.gateway import Gateway, GatewaySettings
    from gateway.control.loop import serving

    serving.start_ray(address)
    catch_signals()  # Ray puts handlers of its own in their place
    say("starting the gateway")
    admin = kitserve.config.admin
    serving.deploy_gateway(
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


def _stop_ray(local: bool) -> None:
    """Leave a cluster as it was found; on this machine, end everything that was started.

    The edge has answered its last call by now, and all that must last is on disk: nothing is waited for.
    """
    from gateway.control.loop import serving

    left = descendants(os.getpid())
    if not local:
        serving.delete_all()
    serving.stop_ray()
    if local:
        end_all(left, _LEFTOVER_SECONDS)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home directory, so that no second Kitserve writes its state."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "serve.lock").open("a+")
    except OSError as error:
        raise StoreError(f"{home} cannot be used: {error}; name another directory with --home") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise StoreError(
                f"a Kitserve (process {lock.read().strip() or 'unknown'}) already runs from {home}; "
                "change it with `kitserve apply`, or name another directory with --home"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _check_free(name: str, listen: Address) -> None:
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        socket.create_server((listen.host, listen.port), family=family).close()
    except OSError as error:
        raise ControlError(
            f"cannot listen on {listen} ({error.strerror}); "
            f"free it, or set `{name}:` in the config to another address"
        ) from error


def catch_signals() -> None:
    """Raise Stopped in the main thread at the first SIGINT or SIGTERM; later ones change nothing."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
