"""Where a run runs: free ports, one home for each, and a cache that all share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.cli import run_place as places
from gateway.cli.run_place import run_place
from gateway.errors import ControlError
from gateway.kits.library import cache_directory
from tests.support.ports import free_port


@pytest.fixture
def first_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port that runs prefer, one that no other test has."""
    port = free_port()
    monkeypatch.setattr(places, "FIRST_PORT", port)
    return port


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(stack: ExitStack, port: int) -> None:
    stack.enter_context(socket.create_server(("127.0.0.1", port)))


def test_runs_beside_each_other_have_ports_and_homes_of_their_own(
    tmp_path: Path, first_port: int, stack: ExitStack
) -> None:
    first, second = (stack.enter_context(run_place(tmp_path, None)) for _ in range(2))
    assert first.port == first_port
    assert len({first.port, first.admin_port, second.port, second.admin_port}) == 4
    assert first.home != second.home
    assert first.home == tmp_path / "runs" / str(first.port)
    for place in (first, second):
        assert cache_directory(place.home).resolve() == tmp_path / "cache"
        assert place.home.stat().st_mode & 0o777 == 0o700


def test_a_port_that_somebody_listens_at_is_passed_over(
    tmp_path: Path, first_port: int, stack: ExitStack
) -> None:
    listen(stack, first_port)
    place = stack.enter_context(run_place(tmp_path, None))
    assert place.port > first_port
    assert place.admin_port > place.port


def test_a_port_that_is_asked_for_is_taken_or_refused(tmp_path: Path, stack: ExitStack) -> None:
    port = free_port()
    with run_place(tmp_path, port) as place:
        assert place.port == port
        with (
            pytest.raises(ControlError, match=f"port {port} of 127.0.0.1 is taken"),
            run_place(tmp_path, port),
        ):
            pass
    listen(stack, port)
    with pytest.raises(ControlError, match="choose another with --port"), run_place(tmp_path, port):
        pass


def test_a_run_remembers_nothing_of_an_earlier_one_but_its_log(tmp_path: Path, first_port: int) -> None:
    with run_place(tmp_path, None) as place:
        for name in ("logs/kitserve.log", "memory/worker", "state.db", "cache/kept"):
            (place.home / name).parent.mkdir(exist_ok=True)
            (place.home / name).touch()
    with run_place(tmp_path, None) as again:
        assert again == place
        assert sorted(path.name for path in again.home.iterdir()) == ["cache", "logs"]
        assert (again.home / "logs" / "kitserve.log").exists()
        assert (again.home / "cache" / "kept").exists(), "the cache is the home's"
