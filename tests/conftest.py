"""Real parts for every test: the sample kits, and a registry that has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.registry import Registry, run_registry


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
