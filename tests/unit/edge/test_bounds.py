"""What the edge takes at a time never needs more files than it may have open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.bounds import HEALTH_CONNECTIONS, MIN_FILES, CallerLimits, edge_bounds


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
