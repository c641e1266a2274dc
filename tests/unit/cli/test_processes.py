from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gateway.cli.processes import descendants, end_all

# Starts a child that starts a child; each ignores what can be ignored, and says its id.
FAMILY = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print(os.getpid(), flush=True)
remaining = int(sys.argv[2])
if remaining:
    subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1], str(remaining - 1)])
time.sleep(60)
"""


@pytest.fixture
def family() -> Iterator[list[int]]:
    """The ids of a process, its child and its grandchild."""
    parent = subprocess.Popen([sys.executable, "-c", FAMILY, FAMILY, "2"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    ids = [int(parent.stdout.readline()) for _ in range(3)]
    yield ids
    for process in descendants(parent.pid):
        os.kill(process, signal.SIGKILL)
    parent.kill()
    parent.wait()
    parent.stdout.close()


def test_descendants_are_children_and_their_children_alone(family: list[int]) -> None:
    parent, child, grandchild = family
    assert set(family) <= set(descendants(os.getpid()))
    assert set(descendants(parent)) == {child, grandchild}
    assert set(descendants(child)) == {grandchild}
    assert descendants(grandchild) == {}
    assert os.getppid() not in descendants(os.getpid())


def test_a_process_that_does_not_end_is_killed_after_the_wait(family: list[int]) -> None:
    parent, child, grandchild = family
    started = time.monotonic()
    assert sorted(end_all(descendants(parent), 0.2)) == sorted([child, grandchild])
    assert 0.2 <= time.monotonic() - started < 2
    assert end_all(descendants(parent), 2) == []


def test_a_process_that_has_ended_is_not_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    processes = {process.pid: descendants(os.getpid())[process.pid]}
    process.communicate(b"\n")
    started = time.monotonic()
    assert end_all(processes, 5) == []
    assert end_all({}, 5) == []
    assert time.monotonic() - started < 1


def test_a_zombie_counts_as_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    processes = {process.pid: descendants(os.getpid())[process.pid]}
    process.kill()
    assert end_all(processes, 5) == []
    process.communicate()


def test_another_process_with_the_same_id_is_spared(family: list[int]) -> None:
    parent = family[0]
    assert end_all({parent: "1"}, 0) == []
    assert parent in descendants(os.getpid())


ENDING = """
import subprocess, sys, time
from gateway.cli.processes import end_descendants
command = [sys.executable, "-c", sys.argv[1], sys.argv[1], "2"]
family = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
print(*[family.stdout.readline().strip() for _ in range(3)], flush=True)
spared = subprocess.Popen([*command[:4], "1"], stdout=subprocess.PIPE, text=True)
print(*[spared.stdout.readline().strip() for _ in range(2)], flush=True)
end_descendants(0.0, spared.pid)
print("ended", flush=True)
time.sleep(60)
"""


def test_all_descendants_end_also_those_whose_parent_went_first() -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDING, FAMILY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    family, spared = ([int(word) for word in process.stdout.readline().split()] for _ in range(2))
    assert (len(family), len(spared)) == (3, 2)
    assert process.stdout.readline() == "ended\n"
    assert sorted(descendants(process.pid)) == sorted(spared), "no zombie is left"
    left = end_all(descendants(process.pid), 0.5)
    assert sorted(left) == sorted(spared)
    process.kill()
    process.wait()
    process.stdout.close()


# Starts a child that starts a sleep and ends, so that the sleep has lost its parent.
ADOPTION = """
import os, subprocess, sys
from gateway.cli.processes import adopt_orphans, descendants, end_all, process_state, reap
adopt_orphans()
CHILD = "import subprocess as s; print(s.Popen(['sleep', '60'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
orphan = int(subprocess.run([sys.executable, "-c", CHILD], capture_output=True).stdout)
family = descendants(os.getpid())
assert list(family) == [orphan], family
assert process_state(orphan, family[orphan]) is not None
assert process_state(orphan, "another start") is None
assert end_all(family, 0.1) == [orphan]
reap([orphan, 1], 10.0)
assert process_state(orphan, family[orphan]) is None
assert descendants(os.getpid()) == {}
"""


def test_what_a_child_leaves_behind_can_be_adopted_and_ended_and_is_no_zombie() -> None:
    done = subprocess.run([sys.executable, "-c", ADOPTION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
