"""A user who is a mere number, as in a container, has a home and a name for those that ask."""

from __future__ import annotations

import getpass
import pwd
from pathlib import Path

import pytest

from gateway.cli.user import name_user


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(pwd, "getpwuid", refuse)
    for variable in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "")  # so that it is taken back
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("unknown")
def test_a_user_without_an_entry() -> None:
    with pytest.raises(RuntimeError):
        Path.home()
    name_user()
    assert Path.home() == Path("/")
    assert getpass.getuser().isdigit()


@pytest.mark.usefixtures("unknown")
def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv")
    monkeypatch.setenv("LOGNAME", "kit")
    name_user()
    assert (Path.home(), getpass.getuser()) == (Path("/srv"), "kit")


def test_a_user_with_an_entry_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "")
    monkeypatch.delenv("LOGNAME")
    monkeypatch.delenv("HOME", raising=False)
    home = Path.home()
    name_user()
    assert Path.home() == home
