from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.files import read_regular


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


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="it is larger than 1048576 bytes"):
        read_regular(tmp_path / "large")
