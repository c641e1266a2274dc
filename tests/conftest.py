"""How long a test may take, and real parts for all: the sample kits, and a registry that has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.registry import Registry, run_registry

E2E_SECONDS = 300
"""For a test of a whole Kitserve: Ray starts processes, which takes long on a busy machine."""
SOAK_SECONDS = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set longer timeouts than the one in pyproject.toml where they are needed."""
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
