"""Ray loses a process that it needs: Kitserve notices it, and all models answer again by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gateway.cli.processes import descendants
from tests.support.kitserve import Running, running
from tests.support.waiting import wait

RESTART_SECONDS = 180
"""On a busy machine, Ray may have to be started more than once."""


def process(kitserve: Running, name: str) -> int:
    """Return the id of a process of this Kitserve by its name."""
    assert kitserve.process is not None
    family = descendants(kitserve.process.pid)
    return next(number for number in family if Path(f"/proc/{number}/comm").read_text().strip() == name)


def test_a_dead_raylet_is_noticed_and_every_model_comes_back(tmp_path: Path, layout: Path) -> None:
    with running(tmp_path) as kitserve:
        # Workers of the Ray that comes after speak TLS by the same authority.
        kitserve.settings = {"worker_tls": "always"}
        kitserve.models = {"first": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
        kitserve.start()
        assert "workers are called over TLS" in kitserve.log.read_text()
        kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
        # What was applied last comes back, and not what Kitserve was started with.
        kitserve.models = {"second": {"kit": f"oci-layout:{layout}:samples/iris:v2"}}
        kitserve.apply()
        assert kitserve.process is not None
        before = descendants(kitserve.process.pid)
        raylet = process(kitserve, "raylet")
        os.kill(raylet, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while f"Ray's raylet (process {raylet}) died" not in kitserve.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kitserve.wait(
            lambda status: (
                [model["state"] for model in status["models"]] == ["ready"]
                and "Ray runs again" in kitserve.log.read_text()
            )
        )
        assert kitserve.infer("second").status_code == 200
        assert kitserve.infer("first").status_code == 404
        left = before.keys() & descendants(kitserve.process.pid).keys()
        names = {Path(f"/proc/{number}/comm").read_text().strip() for number in left}
        assert names == {"haproxy"}
        code, _ = kitserve.stop()
        assert code == 0


# A process without a parent, as systemd starts one, whose raylet dies.
ORPHAN = """
import os, sys, time
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
from gateway.cli.control_plane import import_ray
from gateway.control.loop.environment import prepare
prepare(None)
import_ray(is_local=True)
assert "RAY_RAYLET_PID" not in os.environ
import ray
ray.init(address="local", include_dashboard=False, _temp_dir=sys.argv[2], object_store_memory=80_000_000)
(raylet,) = ray._private.worker._global_node.all_processes["raylet"]
raylet.process.kill()
raylet.process.wait()
ray.shutdown()
open(sys.argv[1], "w").close()
"""


def test_it_outlives_its_raylet_also_where_it_has_no_parent(tmp_path: Path) -> None:
    done = tmp_path / "done"
    # Ray's sockets have long names.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ks", ignore_cleanup_errors=True) as directory:
        subprocess.run([sys.executable, "-c", ORPHAN, str(done), directory], check=True)
        wait(done.exists, 60)
