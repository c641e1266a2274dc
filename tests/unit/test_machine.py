"""How much memory a machine has, and how much of it is free."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.metrics.machine import MachineMemory, is_mapped, machine_memory

GIB = 1024**3
MEMINFO = """\
MemTotal:       16777216 kB
MemFree:         1048576 kB
MemAvailable:    8388608 kB
Mapped:          2097152 kB
Shmem:           1048576 kB
HugePages_Total:       0
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 16 GiB with 8 available, of which 1 GiB is of files that are mapped."""
    return written(tmp_path, {"proc/meminfo": MEMINFO})


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def cgroup2(directory: str, maximum: object, current: int, statistics: str = "") -> dict[str, str]:
    return {
        f"{directory}/memory.max": f"{maximum}\n",
        f"{directory}/memory.current": f"{current}\n",
        f"{directory}/memory.stat": statistics,
    }


def test_files_that_are_mapped_are_not_free(root: Path) -> None:
    assert machine_memory(root) == MachineMemory(16 * GIB, 7 * GIB)


def test_a_cgroup_limits_what_is_free_and_its_cache_is_free(root: Path) -> None:
    statistics = f"anon {GIB}\nfile {2 * GIB}\nfile_mapped {GIB}\nshmem 0\n"
    written(
        root, {"proc/self/cgroup": "0::/a/b\n", **cgroup2("sys/fs/cgroup/a/b", 4 * GIB, 3 * GIB, statistics)}
    )
    assert machine_memory(root) == MachineMemory(4 * GIB, 2 * GIB)


def test_the_limit_of_a_cgroup_above_counts_too(root: Path) -> None:
    written(root, {"proc/self/cgroup": "0::/a/b\n"})
    written(root, cgroup2("sys/fs/cgroup/a/b", "max", GIB))
    written(root, cgroup2("sys/fs/cgroup/a", 5 * GIB, 4 * GIB))
    assert machine_memory(root) == MachineMemory(5 * GIB, GIB)


def test_a_container_sees_its_limit_at_the_top(root: Path) -> None:
    written(root, {"proc/self/cgroup": "0::/../elsewhere\n", **cgroup2("sys/fs/cgroup", 2 * GIB, GIB)})
    assert machine_memory(root) == MachineMemory(2 * GIB, GIB)


def test_a_cgroup_of_version_1_limits_too(root: Path) -> None:
    files = {
        "proc/self/cgroup": "3:cpu:/x\n4:memory:/x\n0::/\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/x/memory.stat": f"total_cache {GIB}\ntotal_mapped_file 0\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": "",
    }
    assert machine_memory(written(root, files)) == MachineMemory(3 * GIB, 2 * GIB)


def test_a_cgroup_that_uses_more_than_its_limit_has_nothing_free(root: Path) -> None:
    written(root, {"proc/self/cgroup": "0::/\n", **cgroup2("sys/fs/cgroup", GIB, 2 * GIB)})
    assert machine_memory(root) == MachineMemory(GIB, 0)


def test_this_machine_has_memory() -> None:
    memory = machine_memory()
    assert 0 < memory.free < memory.total


def test_a_file_that_a_process_has_mapped_is_found_under_any_name(tmp_path: Path) -> None:
    path, other_name, alone = tmp_path / "weights", tmp_path / "same", tmp_path / "alone"
    path.write_bytes(b"0" * mmap.PAGESIZE)
    alone.write_bytes(b"0" * mmap.PAGESIZE)
    os.link(path, other_name)
    program = (
        "import mmap, sys; file = open(sys.argv[1], 'rb'); "
        "mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); print(1); input()"
    )
    command = [sys.executable, "-u", "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert is_mapped(path)
        assert is_mapped(other_name)
        assert not is_mapped(alone)
        child.communicate(b"\n")
    assert not is_mapped(path)
