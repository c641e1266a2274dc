from __future__ import annotations

import pytest

from gateway.edge.routes import Backend, Route, RoutingTable
from tests.support.routing import backend, server


def test_every_version_is_in_a_table_once_and_routed_ones_come_first() -> None:
    v1, v2, v3, v4 = (backend(version) for version in ("v1", "v2", "v3", "v4"))
    table = RoutingTable(
        (Route("a", v2, v1), Route("b", v1), Route("c")),
        draining=(v4, Backend("v2", (), (server(9),)), v3),
    )
    assert table.backends() == (v2, v1, v4, v3)
    assert table.routes[0].backends() == (v2, v1)
    assert table.routes[2].backends() == ()


@pytest.mark.parametrize(("weight", "stable_weight"), [(0, 100), (30, 70), (100, 0)])
def test_stable_has_what_the_canary_has_not(weight: int, stable_weight: int) -> None:
    assert Route("iris", backend("v1"), backend("v2"), weight).stable_weight == stable_weight
