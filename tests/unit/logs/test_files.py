"""A file that several processes write to, and that is rotated meanwhile."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway.logs.files import SharedFile, backup

WRITER = """
import sys
from pathlib import Path
from gateway.logs.files import SharedFile
path, name, lines = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
file = SharedFile(path, max_bytes=20_000, backups=200)
for number in range(lines):
    file.write(f"{name} {number} {'x' * (number % 70)}\\n".encode())
"""


def lines_of(path: Path) -> list[str]:
    """The lines of all files, the oldest first."""
    files = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return [line for file in [*files, path] if file.exists() for line in file.read_text().splitlines()]


def test_a_full_file_is_renamed_and_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = SharedFile(path, max_bytes=100, backups=2)
    for number in range(20):
        file.write(b"line %06d of 20 characters\n" % number)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(entry.stat().st_size <= 100 for entry in tmp_path.iterdir())
    numbers = [int(line.split()[1]) for line in lines_of(path)]
    assert numbers == list(range(20 - len(numbers), 20))


def test_a_line_larger_than_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = SharedFile(path, max_bytes=100)
    for line in (b"a" * 500 + b"\n", b"b\n"):
        file.write(line)
    assert (backup(path, 1).stat().st_size, path.read_bytes()) == (501, b"b\n")


def test_no_line_is_lost_or_torn_while_processes_rotate_under_each_other(tmp_path: Path) -> None:
    path, lines = tmp_path / "log", 3000
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(lines)]) for name in "abcd"
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    written = [line.split(" ") for line in lines_of(path)]
    assert Counter(name for name, *_ in written) == dict.fromkeys("abcd", lines)
    for name in "abcd":
        numbers = [int(number) for writer, number, _ in written if writer == name]
        assert numbers == list(range(lines)), "each process's lines stay in order"
    assert all(text == "x" * (int(number) % 70) for _, number, text in written)
    assert len(list(tmp_path.iterdir())) > 10, "it was rotated"


def test_threads_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = SharedFile(path, max_bytes=2000, backups=100)

    def write(name: str) -> None:
        for number in range(500):
            file.write(f"{name} {number}\n".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(line.split()[0] for line in lines_of(path)) == dict.fromkeys("abc", 500)


def test_a_file_that_someone_else_moves_or_removes_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = SharedFile(path)
    file.write(b"one\n")
    path.rename(tmp_path / "log.moved")
    file.write(b"two\n")
    path.unlink()
    file.write(b"three\n")
    file.close()
    file.write(b"four\n")
    assert (tmp_path / "log.moved").read_text() == "one\n"
    assert path.read_text() == "three\nfour\n"


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_process_that_stopped_with_the_lock_stops_nobody(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "log"
    file = SharedFile(path, max_bytes=10)
    stopped = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(stopped, kind)
    started = time.monotonic()
    for line in (b"first line\n", b"second line\n"):
        file.write(line)
    assert time.monotonic() - started < 2
    assert path.read_text() == "first line\nsecond line\n", "not renamed under one who may write"
    os.close(stopped)
    file.write(b"third line\n")
    assert path.read_text() == "third line\n"


@pytest.mark.parametrize("trap", ["link", "dangling link", "pipe"])
def test_what_a_kit_put_in_the_place_of_the_log_is_removed_and_not_followed(
    tmp_path: Path, trap: str
) -> None:
    path, other = tmp_path / "log", tmp_path / "other"
    file = SharedFile(path)
    file.write(b"before\n")
    path.unlink()
    if trap == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
        if trap == "link":
            other.write_bytes(b"of its owner\n")
    file.write(b"after\n")
    assert not path.is_symlink()
    assert path.read_bytes() == b"after\n"
    assert other.exists() == (trap == "link")
    assert trap != "link" or other.read_bytes() == b"of its owner\n"
