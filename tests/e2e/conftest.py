"""One Kitserve for all tests that need no other. Each test applies models of its own and removes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kitserve import Running, running
from tests.support.otlp import Collector
from tests.support.registry import Registry


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="session")
def shared(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, collector: Collector
) -> Iterator[Running]:
    registries = {registry.host: {"plain_http": True}}
    # Only calls that ask for it are traced.
    tracing = {"endpoint": collector.url, "sample": 0}
    with running(tmp_path_factory.mktemp("kitserve"), registries, tracing) as kitserve:
        kitserve.start()
        yield kitserve


@pytest.fixture
def kitserve(shared: Running) -> Iterator[Running]:
    shared.models = {}
    yield shared
    shared.models = {}
    shared.settings = {}
    shared.apply()
