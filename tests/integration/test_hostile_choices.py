"""Callers who would choose their version: what decides is a secret, and dice that nobody can load."""

from __future__ import annotations

from dataclasses import replace

from gateway.edge.control import EdgeControl
from gateway.edge.haproxy import HAProxy
from gateway.edge.routes import Route, RoutingTable, Rules
from tests.support.edge import RunningEdge, Workers, backend

PATH = "/v2/models/iris/infer"
USERS = [f"user-{number}" for number in range(60)]


def test_nobody_can_compute_who_gets_the_canary(edge: RunningEdge, workers: Workers) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    rules = Rules(sticky=("header", "x-user"), watched=(("header", "x-user"),))
    table = RoutingTable((Route("iris", stable, canary, 50, rules=rules),))

    def canary_users(secret: str) -> set[str]:
        EdgeControl(replace(edge.settings, sticky_key=secret), edge.files).apply(table)
        HAProxy(edge.files).reload()
        versions = {user: edge.get(PATH, {"X-User": user})[1]["ModelKit-Version"] for user in USERS}
        assert versions == {user: edge.get(PATH, {"X-User": user})[1]["ModelKit-Version"] for user in USERS}
        return {user for user, version in versions.items() if version == "v2"}

    first, second = canary_users("01" * 32), canary_users("02" * 32)
    assert canary_users("01" * 32) == first
    # Another secret divides them in another way: half of them change, about.
    assert 15 <= len(first ^ second) <= 45
    assert all(15 <= len(users) <= 45 for users in (first, second))
    # A header that is empty, or comes twice, chooses nothing either: dice do, or the first value.
    drawn = {edge.get(PATH, {"X-User": ""})[1]["ModelKit-Version"] for _ in range(30)}
    assert drawn == {"v1", "v2"}
