"""Ray, and the gateway on it: started by a thread of their own, ended with all their processes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from gateway.cli.processes import descendants, end_descendants
from gateway.cli.signals import catch_signals
from gateway.cli.supervision import RayProcesses
from gateway.config.config import GatewayConfig
from gateway.control.loop.environment import prepare
from gateway.control.loop.fork_server_process import ForkServer, is_wanted
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.errors import ControlError
from gateway.tracing.settings import OtlpSettings

_HANDLERS_SECONDS = 0.05
_LOOK_SECONDS = 1.0
_LEFTOVER_SECONDS = 1.0
_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.02
_LOOPBACK = "127.0.0.1"
_GATEWAY = "gateway.control.gateway"
# Read when Ray is imported (ray_internal_flag_def.h).
_RAYLET_PID = "RAY_RAYLET_PID"
_RAY, _SERVE = "gateway.control.loop.ray_start", "gateway.control.loop.ray_serve"


class ControlPlane:
    """The control plane on this machine, or on the cluster at `address`; may be started again once stopped.

    A signal that comes while Ray starts is raised in the main thread, which only waits. Ray's processes end
    with the thread that started them (prctl(2), PR_SET_PDEATHSIG): so that lasts as long as they do.
    """

    def __init__(
        self,
        address: str | None,
        home: Path,
        config: GatewayConfig,
        files: EdgeFiles,
        settings: EdgeSettings,
        is_answering: Callable[[], bool],
        otlp: OtlpSettings | None = None,
    ) -> None:
        """`is_answering` tells whether the gateway answers at its socket."""
        self._address = address
        self._home = home
        self._config = config
        self._files = files
        self._settings = settings
        self._is_answering = is_answering
        self._otlp = otlp
        self._started: Future[None] = Future()
        self._ended = threading.Event()
        self._has_ray = threading.Event()
        self._hang = ""
        """Why a start did not end; "" where all did."""

    def use(self, config: GatewayConfig) -> None:
        """Have the next start listen, and log, as a config says that was applied since the last one."""
        self._config = config
        self._settings = replace(self._settings, listen=str(config.listen), access_log=config.access_log)

    def start(self, say: Callable[[str], None]) -> None:
        """Start Ray and the gateway, and say when Ray runs; returns once the gateway answers.

        Raises:
            ControlError: when they cannot be started; also when Ray hangs, as a process that it needs died.
        """
        if self._hang:
            # A thread of this process waits in Ray for ever, and nobody can start Ray beside it.
            raise ControlError(self._hang)
        prepare(self._address)
        earlier = descendants(os.getpid())
        started: Future[None] = Future()
        ended = threading.Event()
        self._started, self._ended = started, ended
        self._has_ray.clear()
        began, has_said = time.monotonic(), False
        threading.Thread(target=self._run, args=(started, ended), name="control-plane", daemon=True).start()
        ray, looked = RayProcesses(earlier=earlier), time.monotonic()
        while not wait([started], _HANDLERS_SECONDS).done:
            # Ray's core puts a handler of its own in their place, which prints the stack of every thread.
            catch_signals()
            if not has_said and self._has_ray.is_set():
                has_said = True
                say(f"Ray runs, after {time.monotonic() - began:.1f} s")
            if time.monotonic() - looked >= _LOOK_SECONDS:
                if failure := ray.failure():
                    self._hang = f"{failure} while Ray was being started; start Kitserve again"
                    raise ControlError(self._hang)
                ray, looked = RayProcesses(earlier=earlier), time.monotonic()
        catch_signals()
        started.result()

    def stop(self, spared: int | None = None) -> None:
        """Delete what was deployed on a cluster; on this machine, end every descendant.

        The process `spared` and its descendants are left alone. Nothing is waited for: the edge has
        answered its last call by now, and all that must last is on disk.
        """
        is_local = self._address is None
        has_started = self._started.done()
        if has_started:
            self._leave_ray(is_local)
        elif not is_local:
            # Some of it may be deployed by now. On this machine, a Ray that still starts is only ended.
            with contextlib.suppress(Exception):
                self._leave_ray(is_local)
        if is_local:
            end_descendants(_LEFTOVER_SECONDS if has_started else 0.0, spared)
        self._ended.set()

    def _leave_ray(self, is_local: bool) -> None:
        # Where the imports have not ended, there is nothing to leave.
        ray_start, ray_serve = sys.modules.get(_RAY), sys.modules.get(_SERVE)
        if not is_local and ray_serve is not None and hasattr(ray_serve, "delete_all"):
            ray_serve.delete_all()
        if ray_start is not None and hasattr(ray_start, "stop_ray"):
            ray_start.stop_ray()

    def _run(self, started: Future[None], ended: threading.Event) -> None:
        try:
            self._start()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)
        ended.wait()

    def _start(self) -> None:
        is_forked = self._address is None and is_wanted()
        # Before all else: it imports meanwhile what the first processes of Ray need.
        fork_server = ForkServer(self._files.directory) if is_forked else None
        try:
            start_ray = import_ray(is_local=self._address is None)
            # While Ray's programs start.
            threading.Thread(target=import_module, args=(_GATEWAY,), name="import", daemon=True).start()
            start_ray(self._address, self._files.directory, fork_server)
        finally:
            if fork_server is not None:
                fork_server.close()
        self._has_ray.set()
        from gateway.control.gateway import Gateway, GatewaySettings
        from gateway.control.loop import ray_serve

        ray_serve.start_serve()
        ray_serve.deploy_gateway(
            Gateway,
            GatewaySettings(
                home=self._home,
                edge_files=self._files,
                edge=self._settings,
                admin_host=self._config.admin.host,
                admin_port=self._config.admin.port,
                admin_tls=self._config.admin_tls,
                worker_host=_LOOPBACK if self._address is None else "",
                reserve_cpus=self._address is not None,
                # Those of another machine of a cluster have other numbers.
                visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES") if self._address is None else None,
                instance=uuid.uuid4().hex,
                otlp=self._otlp,
            ),
            is_awaited=self._address is not None,
        )
        self._wait_for_answer(ray_serve.gateway_failure)

    def _wait_for_answer(self, failure_of_gateway: Callable[[], str]) -> None:
        """Wait until the gateway answers: it does before Serve says that it runs."""
        started = looked = time.monotonic()
        while not self._is_answering():
            now = time.monotonic()
            if now - looked >= _LOOK_SECONDS:
                looked = now
                if failure := failure_of_gateway():
                    raise ControlError(f"the gateway could not be started: {failure}")
            if now - started > _ANSWER_SECONDS:
                raise ControlError(
                    f"the gateway does not answer on {self._config.admin} after {_ANSWER_SECONDS:g} s"
                )
            time.sleep(_POLL_SECONDS)


def import_ray(is_local: bool) -> Callable[..., None]:
    """Import Ray, and return `start_ray`; it takes so long that only commands which need it wait for it.

    Where its raylet is gone, Ray ends the process that calls it if the parent of that is process 1: so it
    would end one that systemd started, which is to start Ray again. On this machine it is told to look at
    this very process in place of the raylet.
    """
    if is_local:
        os.environ[_RAYLET_PID] = str(os.getpid())
    try:
        from gateway.control.loop.ray_start import start_ray
    finally:
        if is_local:
            del os.environ[_RAYLET_PID]
    return start_ray
