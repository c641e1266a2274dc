"""`kitserve serve` on hosts that lack something: one sentence, before Ray starts, and nothing left behind."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.edge.bounds import edge_bounds
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.haproxy_program import find_haproxy
from gateway.edge.placement import Placement, Pool
from gateway.edge.render import render
from gateway.edge.routes import RoutingTable, Server
from tests.support.ports import free_port


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "kitserve.yaml"
    file.write_text(f"listen: 127.0.0.1:{free_port()}\nadmin: 127.0.0.1:{free_port()}\nmodels: []\n")
    return file


def serve(config: Path, home: Path, before: str = "true") -> str:
    """Run `kitserve serve` after some shell commands, in namespaces of its own. Return what it said."""
    command = [sys.executable, "-m", "gateway.cli", "serve", str(config), "--home", str(home)]
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", f"set -e; {before}; exec {shlex.join(command)}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    return line


def full(directory: str, size: str = "1m", spare: str = "0") -> str:
    """Return commands that put a full disk at a directory, with so many bytes left."""
    fill = f"{directory}/fill"
    return (
        f"mount -t tmpfs -o size={size},mode=700 none {directory}; "
        f"dd if=/dev/zero of={fill} bs=1k 2>/dev/null || truncate -s -{spare} {fill}"
    )


def can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(not can_mount(), reason="no disks can be mounted here (unshare -rm)")


@needs_mounts
@pytest.mark.parametrize("spare", ["0", "4096", "65536"])
@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_full_disk_at_home(config: Path, tmp_path: Path, spare: str, below: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    line = serve(config, home / below, full(str(home), spare=spare))
    assert line.startswith(f"kitserve: {home / below}")
    assert "No space left on device" in line or "the disk is full" in line
    assert "name another directory with --home" in line


@needs_mounts
def test_full_shared_memory(config: Path, tmp_path: Path) -> None:
    line = serve(config, tmp_path / "home", full("/dev/shm"))
    assert line.startswith("kitserve: /dev/shm is full (0 bytes free")


def test_too_few_open_files(config: Path, tmp_path: Path) -> None:
    line = serve(config, tmp_path / "home", "ulimit -n 1024")
    assert "may have 1024 files open (ulimit -Hn), and Kitserve needs 4096" in line


@pytest.mark.parametrize("models", [0, 33, 130, 500, 1000])
def test_with_as_many_open_files_as_it_needs_haproxy_starts(tmp_path: Path, models: int) -> None:
    files = EdgeFiles(tmp_path)
    settings = EdgeSettings(f"127.0.0.1:{free_port()}", bounds=edge_bounds(4096))
    server = Server("", "127.0.0.1", 9)
    places = Placement({model: {0: server, 1: server} for model in range(models)})
    EdgeControl(settings, files).write_first(RoutingTable())
    pool = Pool().grown_for(places.workers, settings.bounds.max_checks)
    files.config.write_text(render(settings, files, pool, places))
    check = subprocess.run(
        [find_haproxy().path, "-c", "-f", files.config], capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stderr) == (0, "")
    command = shlex.join([str(find_haproxy().path), "-W", "-db", "-f", str(files.config)])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 4096; timeout -s INT 2 {command}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Loading success" in done.stderr, done.stderr
