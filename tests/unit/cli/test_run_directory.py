"""The directory for sockets: short, private, in the first place that will do, and never left for long."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cli import run_directory as module
from gateway.cli.run_directory import run_directory
from gateway.errors import StoreError
from gateway.files import lock_directory
from tests.support.other_user import NOBODY, as_nobody, needs_root

PREFIX = f"kitserve-{os.getuid()}-"
HOME = Path("/nowhere/home")
"""A home that will not do."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short place of its own, which stands for /tmp; no variable names another."""
    for variable in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    place = Path(f"/tmp/rd{os.getpid()}")
    place.mkdir()
    monkeypatch.setattr(module, "_PLACES", (str(place),))
    yield place
    for directory in place.glob("*"):
        directory.rmdir()
    place.rmdir()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    file = os.open(directory, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
    os.close(file)


def test_it_is_private_and_gone_at_the_end(place: Path) -> None:
    with run_directory(1, HOME) as directory:
        assert directory.parent == place
        assert directory.name.startswith(PREFIX)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (directory / "ray").mkdir()
        (directory / "ray" / "log").write_text("x")
    assert not directory.exists()


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_it_is_where_a_variable_says(place: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "own").mkdir()
    monkeypatch.setenv(variable, str(place / "own"))
    with run_directory(1, HOME) as directory:
        assert directory.parent == place / "own"


@pytest.mark.parametrize(
    "name",
    ["with space", "quote'", 'double"', "hash#", "dollar$x", "back\\slash", "x" * 66, "é", "line\nbreak"],
)
def test_a_place_that_sockets_or_haproxy_refuse_is_passed_over(
    place: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    with run_directory(1, HOME) as directory:
        assert directory.parent == place


@pytest.mark.parametrize("kind", ["missing", "file", "relative", "full", "empty"])
def test_so_is_one_that_cannot_be_used(place: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").touch()
    (place / "full").mkdir()
    monkeypatch.setenv("TMPDIR", {"relative": "tmp", "empty": ""}.get(kind, str(place / kind)))
    monkeypatch.setattr(module, "shortage", lambda at, _bytes: "full" if at.name == "full" else "")
    with run_directory(1, HOME) as directory:
        assert directory.parent == place
    (place / "file").unlink()


def test_where_none_will_do_each_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / ("x" * 80)).mkdir()
    for variable in ("RAY_TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a b"))
    monkeypatch.setattr(module, "_PLACES", (str(tmp_path / ("x" * 80)), "/nowhere", "/tmp"))
    monkeypatch.setattr(module, "shortage", lambda *_: "0 bytes free, 16.0 MB needed")
    with pytest.raises(StoreError) as raised, run_directory(16_000_000, HOME):
        pass
    text = str(raised.value)
    assert "a b (its path must begin with /, and have only letters, digits and ._+- in it)" in text
    assert "bytes too long for Unix sockets in it" in text
    assert "/nowhere (no such directory)" in text
    assert "/tmp (0 bytes free, 16.0 MB needed)" in text
    assert "set TMPDIR to a directory with a short path" in text


def test_the_longest_place_holds_the_longest_socket_of_ray(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surplus = module._MAX_BYTES - len(f"{place}/{PREFIX}") - len("01234567") - 1
    longest = place / ("x" * surplus)
    longest.mkdir()
    monkeypatch.setenv("TMPDIR", str(longest))
    with run_directory(1, HOME) as directory:
        assert directory.parent == longest
        path = Path(f"{directory}{module._RAY_SOCKET}")
        assert len(str(path)) == 107
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))


def test_the_next_start_removes_what_killed_ones_left_and_nothing_else(place: Path) -> None:
    killed, running, others = (place / f"{PREFIX}{name}" for name in ("killed", "running", "x"))
    other_user, older = place / f"kitserve-{os.getuid() + 1}-x", place / "kitserve-abcdefgh"
    for directory in (killed, running, other_user, older):
        directory.mkdir()
    (killed / "haproxy.cfg").write_text("x")
    others.symlink_to("/etc")
    with locked(running), run_directory(1, HOME):
        assert not killed.exists()
        assert running.is_dir()
        assert other_user.is_dir()
        assert older.is_dir()
        with run_directory(1, HOME) as second:
            assert second.is_dir()
    others.unlink()


def test_it_is_in_a_home_with_a_short_path_whatever_a_variable_says(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place / "home"
    (home / "run-dead").mkdir(parents=True)
    (home / "logs").mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with run_directory(1, home) as directory:
        assert directory.parent == home
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert len(f"/var/lib/kitserve/{directory.name}{module._RAY_SOCKET}") <= 107
        assert list(directory.iterdir()) == []
        assert not (home / "run-dead").exists(), "a killed start left it"
        path = Path(f"{directory}{module._RAY_SOCKET}")
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    assert [path.name for path in home.iterdir()] == ["logs"]
    (home / "logs").rmdir()


@pytest.mark.parametrize("kind", ["long", "without sockets", "without locks"])
def test_where_the_home_will_not_do_it_is_elsewhere(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place / ("x" * 30 if kind == "long" else "home")
    home.mkdir()

    def refused(directory: Path) -> None:
        if directory.parent == home:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if kind == "without sockets":
        monkeypatch.setattr(module, "_try_socket", refused)
    elif kind == "without locks":
        lock = lock_directory

        def try_lock(directory: Path) -> int | None:
            refused(directory)
            return lock(directory)

        monkeypatch.setattr(module, "lock_directory", try_lock)
    with run_directory(1, home) as directory:
        assert directory.parent == place
        assert list(home.iterdir()) == []


@pytest.mark.parametrize("kind", ["group", "others", "above", "theirs"])
def test_a_place_where_others_could_replace_it_is_passed_over(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = place / "s"
    (shared / "o").mkdir(parents=True)
    shared.chmod({"group": 0o775, "others": 0o777, "above": 0o777}.get(kind, 0o755))
    if kind == "theirs":
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(shared, NOBODY, NOBODY)
    monkeypatch.setenv("TMPDIR", str(shared / "o" if kind == "above" else shared))
    with run_directory(1, HOME) as directory:
        assert directory.parent == place
    shared.chmod(0o1777)
    os.chown(shared, os.geteuid(), -1)
    with run_directory(1, HOME) as directory:
        assert directory.is_relative_to(shared), "with the sticky bit, as /tmp has it"
    (shared / "o").rmdir()


@needs_root
def test_nobody_else_enters_it_or_takes_its_name(place: Path) -> None:
    place.chmod(0o1777)
    with run_directory(1, HOME) as directory:
        (directory / "master.sock").touch()
        assert isinstance(as_nobody(lambda: list(directory.iterdir())), PermissionError)
        assert isinstance(as_nobody(lambda: directory.rename(place / "mine")), PermissionError)
        # What they have put there is not ours to remove, and not taken for a run directory.
        assert as_nobody(lambda: (place / f"{PREFIX}theirs").mkdir()) is None
        assert as_nobody(lambda: (place / f"{PREFIX}link").symlink_to("/etc")) is None
        with run_directory(1, HOME) as second:
            assert second.stat().st_uid == 0
        assert (place / f"{PREFIX}theirs").is_dir()
    (place / f"{PREFIX}link").unlink()
