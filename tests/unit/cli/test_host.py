"""What is checked of the host before anything starts: open files, room on disk, shared memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.cli import host
from gateway.cli.disk import shortage
from gateway.config.callers import Callers
from gateway.control.loop.environment import OBJECT_STORE_BYTES
from gateway.errors import ControlError, EdgeError, StoreError

MEGABYTE = 1_000_000


class Limits:
    """The limits of open files, as `resource` has them."""

    def __init__(self, soft: int, hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = (soft, hard)
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.now)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: setattr(self, "now", limits))


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (1024, 524288, 65536, 8192),
        (1024, 20000, 20000, 8192),
        (1024, 4096, 4096, 1536),
        (4096, 4096, 4096, 1536),
        (1024, resource.RLIM_INFINITY, 65536, 8192),
        (1048576, 1048576, 1048576, 8192),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 8192),
    ],
)
def test_the_soft_limit_of_open_files_is_raised(
    soft: int, hard: int, raised: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(soft, hard, monkeypatch)
    bounds = host.callers_bounds(Callers(), host.raise_open_files(), print)
    assert bounds.connections == connections
    assert limits.now == (raised, hard)


def test_where_few_files_may_be_open_smaller_bounds_are_said_once() -> None:
    said: list[str] = []
    host.callers_bounds(Callers(), 65536, said.append)
    assert said == []
    bounds = host.callers_bounds(Callers(), 4096, said.append)
    (line,) = said
    assert f"the edge takes {bounds.connections} connections at a time and not 8192" in line
    assert "4096 files open (ulimit -Hn)" in line


def test_what_the_config_wants_must_be_possible() -> None:
    host.callers_bounds(Callers(max_connections=1536), 4096, print)
    with pytest.raises(EdgeError, match=r"max_connections is 1537, for which 4098 open files are needed"):
        host.callers_bounds(Callers(max_connections=1537), 4096, print)
    with pytest.raises(EdgeError, match=r"max_connections_each is 2000, and the edge takes 1536 of all"):
        host.callers_bounds(Callers(max_connections_each=2000), 4096, print)


@pytest.mark.parametrize("hard", [256, 1024, 4095])
def test_a_hard_limit_that_is_too_low_is_told(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Limits(hard, hard, monkeypatch)
    text = rf"{hard} files open \(ulimit -Hn\), and Kitserve needs 4096: raise the limit"
    with pytest.raises(ControlError, match=text):
        host.raise_open_files()


def test_this_process_can_raise_its_own() -> None:
    code = (
        "import resource; from gateway.cli.host import raise_open_files;"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        "raise_open_files(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 4096


def disks(monkeypatch: pytest.MonkeyPatch, **free: int) -> None:
    """Let each named directory have so many bytes free, and all others plenty."""

    def statvfs(path: Path) -> SimpleNamespace:
        blocks = free.get(path.name, 10**12)
        return SimpleNamespace(
            f_bavail=blocks, f_bfree=blocks, f_frsize=1, f_files=10**6, f_ffree=10**6, f_favail=10**6
        )

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_a_home_on_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.check_disks(tmp_path)
    disks(monkeypatch, home=15 * MEGABYTE)
    text = r"/home: the disk is full \(15\.0 MB free, 16\.0 MB needed\); free some"
    with pytest.raises(StoreError, match=text):
        host.check_disks(tmp_path / "home")


def test_full_shared_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks(monkeypatch, shm=0)
    with pytest.raises(StoreError, match=r"^/dev/shm is full \(0 bytes free, 1\.0 MB needed\)"):
        host.check_disks(tmp_path)
    monkeypatch.setattr(host, "_SHARED_MEMORY", tmp_path / "shm")
    host.check_disks(tmp_path)


def test_where_shared_memory_is_small_the_run_directory_has_room_for_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disks(monkeypatch)
    assert host.run_bytes() < OBJECT_STORE_BYTES
    disks(monkeypatch, shm=64 * MEGABYTE)
    assert host.run_bytes() > OBJECT_STORE_BYTES


def test_a_disk_may_lack_files_instead_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortage(tmp_path / "missing", 1) == "No such file or directory"
    figures = SimpleNamespace(f_bavail=100, f_bfree=200, f_frsize=1, f_files=10, f_ffree=3, f_favail=2)
    monkeypatch.setattr(os, "statvfs", lambda _: figures)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert shortage(tmp_path, 150) == "100 bytes free, 150 bytes needed"
    assert shortage(tmp_path, 50) == "its disk has room for 2 more files, 200 needed"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert shortage(tmp_path, 250) == "200 bytes free, 250 bytes needed"
    figures.f_files = 0
    assert shortage(tmp_path, 150) == ""
