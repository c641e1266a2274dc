"""What the edge takes at a time never needs more files than it may have open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.bounds import FIRST_CHECKS, HEALTH_CONNECTIONS, MIN_FILES, CallerLimits, edge_bounds
from gateway.edge.placement import Pool
from gateway.errors import EdgeError


@given(st.integers(MIN_FILES, 2**20), st.integers(1, 1000), st.none() | st.integers(16, 1500))
def test_the_sum_is_within_the_open_files(files: int, streams: int, connections: int | None) -> None:
    bounds = edge_bounds(files, CallerLimits(connections, max_streams_per_connection=streams))
    clients = bounds.connections + bounds.routed + HEALTH_CONNECTIONS
    to_workers = bounds.requests + bounds.routed + bounds.kept * bounds.keeping
    assert clients + to_workers <= 2 * bounds.all_connections
    assert clients <= bounds.all_connections
    assert 2 * bounds.all_connections < bounds.files == files
    assert 1 <= bounds.kept <= streams
    assert bounds.caller_connections <= bounds.connections
    assert bounds.caller_requests <= bounds.requests


@pytest.mark.parametrize("files", [MIN_FILES, 16384, 20000, 65536])
@pytest.mark.parametrize("clients", [64, 256])
def test_a_load_test_from_one_address_meets_no_bound(files: int, clients: int) -> None:
    bounds = edge_bounds(files)
    assert clients <= min(bounds.caller_crowded, bounds.caller_requests, bounds.keeping)


@given(st.integers(MIN_FILES, 2**20), st.integers(1, 1000), st.none() | st.integers(16, 700), st.data())
def test_the_files_of_health_checks_are_taken_from_the_callers(
    files: int, streams: int, connections: int | None, data: st.DataObject
) -> None:
    limits = CallerLimits(connections, connections, connections, streams)
    checks = data.draw(st.integers(0, files - 2048))
    bounds = edge_bounds(files, limits).beside(checks)
    clients = bounds.connections + bounds.routed + HEALTH_CONNECTIONS
    to_workers = bounds.requests + bounds.routed + bounds.kept * bounds.keeping
    assert clients + to_workers <= 2 * bounds.all_connections
    assert clients <= bounds.all_connections
    assert 2 * bounds.all_connections + checks < bounds.files == files
    assert bounds.caller_connections <= bounds.connections
    assert bounds.caller_requests <= bounds.requests


def test_what_is_set_aside_for_health_checks_takes_nothing_from_callers() -> None:
    bounds = edge_bounds(MIN_FILES)
    assert Pool().size == FIRST_CHECKS
    assert bounds.beside(FIRST_CHECKS) == bounds == bounds.beside(0)
    assert bounds.beside(FIRST_CHECKS + 2).connections == bounds.connections - 1


def test_too_many_models_for_the_open_files_are_refused_in_words() -> None:
    with pytest.raises(EdgeError, match=r"needs 5792 open files, and it may have 4096 .*raise the limit"):
        edge_bounds(MIN_FILES).beside(4000)
    assert edge_bounds(5792).beside(4000).connections == 512
