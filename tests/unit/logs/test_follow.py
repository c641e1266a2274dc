"""The lines of a log as they come, also while other processes rotate it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gateway.logs.files import SharedFile
from gateway.logs.follow import Follower
from tests.support.waiting import wait
from tests.unit.logs.test_files import WRITER


def test_what_is_added_is_handed_on_and_nothing_of_before(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", bytearray()
    file = SharedFile(path)
    file.write(b"before\n")
    follower = Follower(path, seen.extend)
    file.write(b"one\n")
    wait(lambda: seen == b"one\n")
    with path.open("ab") as half:
        half.write(b"ha")
        half.flush()
        file.write(b"lf\n")
    follower.stop()
    assert seen == b"one\nhalf\n"


def test_a_log_that_is_not_there_yet_is_followed_from_its_first_line(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", bytearray()
    follower = Follower(path, seen.extend)
    SharedFile(path).write(b"first\n")
    wait(lambda: seen == b"first\n")
    follower.stop()


def test_no_line_is_missed_over_a_rotation(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", bytearray()
    file = SharedFile(path, max_bytes=1000)
    follower = Follower(path, seen.extend)
    for number in range(5):
        for line in range(15):
            file.write(f"{number} {line} {'x' * 50}\n".encode())
        last = f"{number} 14 ".encode()
        wait(lambda last=last: last in seen)  # type: ignore[misc]
    follower.stop()
    assert seen.count(b"\n") == 75
    assert len(list(tmp_path.iterdir())) > 3


def test_other_processes_write_and_rotate(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", bytearray()
    follower = Follower(path, seen.extend)
    subprocess.run([sys.executable, "-c", WRITER, str(path), "a", "200"], check=True, timeout=60)
    wait(lambda: seen.count(b"\n") == 200)
    follower.stop()


def test_a_line_without_end_comes_in_parts(tmp_path: Path) -> None:
    path, parts = tmp_path / "log", list[int]()
    SharedFile(path).write(b"first\n")
    follower = Follower(path, lambda lines: parts.append(len(lines)))
    with path.open("ab") as log:
        for _ in range(40):
            log.write(b"x" * 256 * 1024)
    wait(lambda: sum(parts) > 9 * 1024 * 1024)
    follower.stop()
    assert max(parts) < 2 * 1024 * 1024
