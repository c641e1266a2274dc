"""How long a test may take, which run side by side, and real parts for all: sample kits, and a registry."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.registry import Registry, run_registry

E2E_SECONDS = 300
"""For a test of a whole Kitserve: Ray starts processes, which takes long on a busy machine."""
SOAK_SECONDS = 3600

LANES = (("tests/e2e/",), ("tests/component/", "tests/integration/"))
"""Where tests start servers and watch the clock: those of a lane run one after the other, when all that share
nothing are done. The lanes run side by side, as they wait more than they compute, the longest one first."""


def lane(nodeid: str) -> int:
    """Return the number of the lane that a test is in; 0 where it shares nothing with others."""
    return next((number for number, places in enumerate(LANES, 1) if nodeid.startswith(places)), 0)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each process a file of tests at a time, or a whole lane."""

    def _split_scope(self, nodeid: str) -> str:
        number = lane(nodeid)
        return f"lane {number}" if number else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Have the processes share the tests as `Scheduler` says."""
    return Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Have reports cross between processes whatever was logged: execnet sends no lone surrogates."""
    return _without_surrogates((yield))


def _without_surrogates(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode(errors="backslashreplace").decode()
    if isinstance(data, dict):
        return {key: _without_surrogates(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(_without_surrogates, data))
    return data


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the lanes last, and set longer timeouts than the one in pyproject.toml."""
    items.sort(key=lambda item: lane(item.nodeid))
    whole_kitserves = Path(__file__).parent / "e2e"
    for item in items:
        if item.get_closest_marker("timeout") is not None:
            continue
        if item.get_closest_marker("soak") is not None:
            item.add_marker(pytest.mark.timeout(SOAK_SECONDS))
        elif item.path.is_relative_to(whole_kitserves):
            item.add_marker(pytest.mark.timeout(E2E_SECONDS))


@pytest.fixture(scope="session")
def layout() -> Path:
    """The OCI layout of sample kits, made by the kit CLI."""
    return Path(__file__).parents[1] / "configs" / "samples"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    """A registry without TLS or passwords that has the sample kits."""
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        running.push_layout(layout)
        yield running
