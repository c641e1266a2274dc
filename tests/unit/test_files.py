from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.files import (
    create_private,
    lock_directory,
    open_regular,
    read_regular,
    remove_leftovers,
    replace_private,
)


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("key.pem")
    assert read_regular(tmp_path / "key.pem") == b"abc"
    assert read_regular(tmp_path / "link", 3) == b"abc"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a directory"),
    ):
        with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
            read_regular(path)


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    os.close(open_regular(tmp_path / "link"))
    with pytest.raises(OSError, match="it is a symbolic link, which is not followed"):
        open_regular(tmp_path / "link", follows_link=False)


def test_only_directories_that_nobody_has_locked_are_removed(tmp_path: Path) -> None:
    for name in ("run-left", "run-used", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "run-file").touch()
    (tmp_path / "run-link").symlink_to("other")
    lock = lock_directory(tmp_path / "run-used")
    assert lock is not None
    assert lock_directory(tmp_path / "run-used") is lock_directory(tmp_path / "none") is None
    remove_leftovers(tmp_path, "run-", min_age=60)
    assert (tmp_path / "run-left").is_dir()
    remove_leftovers(tmp_path, "run-")
    assert {path.name for path in tmp_path.iterdir()} == {"run-used", "other", "run-file", "run-link"}
    os.close(lock)
    remove_leftovers(tmp_path, "run-")
    assert not (tmp_path / "run-used").exists()


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="it is larger than 1048576 bytes"):
        read_regular(tmp_path / "large")


def test_a_private_file_is_its_owners_alone_whatever_was_there(tmp_path: Path) -> None:
    path, other = tmp_path / "keys.map", tmp_path / "other"
    other.write_text("of another")
    for mode in (None, 0o644, "link"):
        if mode == "link":
            path.unlink()
            path.symlink_to(other)
        elif isinstance(mode, int):
            path.chmod(mode)
        replace_private(path, "a secret")
        assert path.read_text() == "a secret"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert other.read_text() == "of another"
    assert {each.name for each in tmp_path.iterdir()} == {"keys.map", "other"}


def test_a_private_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(OSError, match="token"):
        replace_private(tmp_path / "token", "a secret")
    assert [each.name for each in tmp_path.iterdir()] == ["token"]


def test_a_new_private_file_takes_the_place_of_none(tmp_path: Path) -> None:
    create_private(tmp_path / "sticky.key", "a secret")
    assert stat.S_IMODE((tmp_path / "sticky.key").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for name in ("sticky.key", "link"):
        with pytest.raises(FileExistsError):
            create_private(tmp_path / name, "another")
    assert (tmp_path / "sticky.key").read_text() == "a secret"
    assert not (tmp_path / "none").exists()
