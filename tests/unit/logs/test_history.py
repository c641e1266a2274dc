"""The lines of a log over its older files, each once, also while it is rotated."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from gateway.logs.files import SharedFile, backup
from gateway.logs.follow import Follower
from gateway.logs.history import History
from tests.support.waiting import wait


def test_lines_come_in_their_order_and_go_on_after_the_last(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", bytearray()
    file = SharedFile(path, max_bytes=100)
    lines = [f"line {number:03}\n".encode() for number in range(40)]
    for line in lines:
        file.write(line)
    assert backup(path, 3).exists()
    history = History(path)
    for line in (b"later 1\n", b"later 2\n"):
        file.write(line)
    assert b"".join(history.lines()) == b"".join([*lines, b"later 1\n", b"later 2\n"])
    follower = Follower(path, seen.extend, history.rest)
    added = [f"added {number:03}\n".encode() for number in range(24)]
    for start in (0, 8, 16):
        # A few at a time: a file that is renamed twice before it was looked at is read no more.
        for line in added[start : start + 8]:
            file.write(line)
        wait(partial(seen.endswith, added[start + 7]))
    follower.stop()
    assert seen == b"".join(added)


def test_a_file_that_is_renamed_meanwhile_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    (tmp_path / "log.1").hardlink_to(path)
    history = History(path)
    assert list(history.lines()) == [b"one\n"]
    history.close()


def test_a_line_that_is_being_written_is_left(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", bytearray()
    path.write_bytes(b"one\nha")
    history = History(path)
    assert list(history.lines()) == [b"one\n"]
    follower = Follower(path, seen.extend, history.rest)
    with path.open("ab") as half:
        half.write(b"lf\n")
    follower.stop()
    assert seen == b"half\n"


def test_where_there_is_no_log_there_are_no_lines(tmp_path: Path) -> None:
    history = History(tmp_path / "log")
    assert (list(history.lines()), history.rest) == ([], None)


def test_links_and_pipes_in_the_place_of_logs_are_not_read(tmp_path: Path) -> None:
    path, secret, seen = tmp_path / "log", tmp_path / "secret", bytearray()
    secret.write_bytes(b"secret\n")
    path.symlink_to(secret)
    backup(path, 1).symlink_to(secret)
    os.mkfifo(backup(path, 2))
    backup(path, 3).write_bytes(b"old\n")
    history = History(path)
    assert (list(history.lines()), history.rest) == ([b"old\n"], None)
    follower = Follower(path, seen.extend)
    SharedFile(path).write(b"new\n")
    wait(lambda: seen == b"new\n")
    follower.stop()


def test_a_line_without_end_comes_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 3 * 1024 * 1024 + b"\nlast\n")
    history = History(path)
    lines = list(history.lines())
    assert [len(line) for line in lines[:3]] == [1024 * 1024] * 3
    assert lines[-1] == b"last\n"
    history.close()
