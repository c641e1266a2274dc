"""The home is its user's alone: made so, narrowed where it was not, refused where it cannot be."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import cache
from gateway.errors import StoreError
from gateway.home import make_private
from tests.support.other_user import NOBODY, as_nobody, needs_root, shared_directory


@pytest.fixture
def place() -> Iterator[Path]:
    with shared_directory() as directory:
        yield directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_its_users_alone_whatever_the_umask(place: Path) -> None:
    before = os.umask(0)
    try:
        assert make_private(place / "data" / "home") == ""
    finally:
        os.umask(before)
    assert mode(place / "data" / "home") == 0o700
    assert make_private(place / "data" / "home") == ""


@pytest.mark.parametrize("sign", ["serve.lock", "state.db", "cache/oci-layout"])
def test_an_older_home_is_narrowed_and_that_is_told_once(place: Path, sign: str) -> None:
    home = place / "home"
    (home / sign).parent.mkdir(parents=True)
    (home / sign).touch()
    (home / "other").touch()
    home.chmod(0o755)
    change = make_private(home)
    assert change.startswith(f"{home} could be entered by other users of this machine (mode 755)")
    assert mode(home) == 0o700
    assert make_private(home) == ""


def test_so_is_an_empty_one_as_a_supervisor_or_docker_makes_it(place: Path) -> None:
    for name in (".bashrc", "lost+found"):
        (place / "home" / name).mkdir(parents=True)
    (place / "home").chmod(0o775)
    (place / "tmpfs").mkdir()
    (place / "tmpfs").chmod(0o1777)
    assert "mode 775" in make_private(place / "home")
    assert "mode 1777" in make_private(place / "tmpfs")
    assert mode(place / "home") == mode(place / "tmpfs") == 0o700


@pytest.mark.parametrize("directory_mode", [0o755, 0o1777])
def test_what_holds_other_things_is_not_taken_from_their_users(place: Path, directory_mode: int) -> None:
    (place / "shared").mkdir()
    sign = "somebodys" if directory_mode == 0o755 else "serve.lock"
    (place / "shared" / sign).touch()
    (place / "shared").chmod(directory_mode)
    with pytest.raises(StoreError, match="holds more than a home of Kitserve: name a directory of its own"):
        make_private(place / "shared")
    assert mode(place / "shared") == directory_mode


def test_what_is_no_directory_is_refused(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be used: .*name another directory"):
        make_private(place / "file")


@needs_root
def test_another_users_home_is_refused_by_root_and_by_others(place: Path) -> None:
    for owner, home in ((NOBODY, place / "nobodys"), (0, place / "roots")):
        home.mkdir(mode=0o755)
        os.chown(home, owner, owner)
    # Their owner may be led to it by a link, too.
    (place / "link").symlink_to(place / "nobodys")
    for home in (place / "nobodys", place / "link"):
        with pytest.raises(StoreError, match=rf"belongs to another user \({NOBODY}\)"):
            make_private(home)

    def make_roots() -> str:
        try:
            return make_private(place / "roots")
        except StoreError as error:
            return str(error)

    assert "belongs to another user (0)" in str(as_nobody(make_roots))
    assert "mode 755" in str(as_nobody(lambda: make_private(place / "nobodys")))
    assert mode(place / "nobodys") == 0o700


@needs_root
def test_another_user_locks_nothing_in_it(place: Path) -> None:
    locks = place / "home" / "cache" / "locks"
    locks.mkdir(parents=True)
    (place / "home" / "serve.lock").touch()
    lock = locks / "index.lock"
    lock.touch(mode=0o644)

    def hold() -> str:
        file = os.open(lock, os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_EX)
        return "held"

    assert as_nobody(hold) == "held"
    make_private(place / "home")
    assert isinstance(as_nobody(hold), PermissionError)


def test_a_command_that_uses_the_home_narrows_it_too_and_tells_it_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "home").mkdir(mode=0o755)
    cache.ls(place / "home")
    first = capsys.readouterr()
    cache.ls(place / "home")
    assert "could be entered by other users" in first.err
    assert "could be entered by other users" not in first.out
    assert capsys.readouterr().err == ""
    assert mode(place / "home") == 0o700
