"""How calls are split between versions: by weights, sticky callers, and headers that name a version."""

from __future__ import annotations

import http.client
import math
import re
import socket
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.edge.haproxy import ask
from gateway.edge.routes import Route, RoutingTable, Rules, Server
from tests.support.edge import RunningEdge, Workers, backend

PATH = "/v2/models/iris/infer"
CHANCE = Rules()
WEIGHTS = (0, 1, 5, 20, 50, 100)
CALLS, CLIENTS, PIPELINED = 20_000, 4, 100
MINIMUM_P_VALUE = 0.01


class Split:
    """A model with two versions behind the edge, and the rules of a test."""

    def __init__(self, edge: RunningEdge, workers: Workers) -> None:
        self.edge = edge
        self.stable, self.canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))

    def apply(self, weight: int, rules: Rules = CHANCE) -> None:
        self.edge.control.apply(
            RoutingTable((Route("iris", self.stable, self.canary, weight, rules=rules), Route("other")))
        )

    def versions(self, calls: list[Mapping[str, str]]) -> list[str]:
        """Return which version answers each call; a call is its headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=10)
        versions = []
        for headers in calls:
            connection.request("GET", PATH, headers=dict(headers))
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            versions.append(answer.headers["modelkit-version"])
        connection.close()
        return versions

    def count(self, calls: int) -> Counter[str]:
        """Count the calls that each version answers; they are sent in pipelines on a few connections."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            return sum(clients.map(self._stream, [calls // CLIENTS] * CLIENTS), Counter())

    def _stream(self, calls: int) -> Counter[str]:
        versions: Counter[str] = Counter()
        with socket.create_connection(("127.0.0.1", self.edge.port), timeout=30) as connection:
            for _ in range(calls // PIPELINED):
                connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * PIPELINED)
                answers = b""
                while answers.count(b"HTTP/1.1 200") < PIPELINED or not answers.endswith(
                    (b"stable", b"canary")
                ):
                    part = connection.recv(1 << 16)
                    assert part, answers[-500:]
                    answers += part
                versions.update(
                    name.decode() for name in re.findall(rb"(?i)modelkit-version: (v\d)", answers)
                )
        return versions


@pytest.fixture
def split(edge: RunningEdge, workers: Workers) -> Split:
    return Split(edge, workers)


def callers(kind: str, count: int = 400) -> list[Mapping[str, str]]:
    return [
        {"x-user": f"user-{number}"} if kind == "header" else {"cookie": f"a=b; user=u{number}; c=d"}
        for number in range(count)
    ]


@pytest.mark.parametrize(("kind", "name"), [("header", "x-user"), ("cookie", "user")])
def test_a_caller_stays_while_weights_only_grow(split: Split, kind: str, name: str) -> None:
    rules = Rules((kind, name), watched=((kind, name),))
    split.apply(0, rules)
    generation = _generation(split.edge)
    calls, before = callers(kind), ["v1"] * 400
    for weight in WEIGHTS:
        split.apply(weight, rules)
        now = split.versions(calls)
        assert split.versions(calls) == now, "the same caller gets the same version"
        assert all(new == "v2" for old, new in zip(before, now, strict=True) if old == "v2")
        assert abs(now.count("v2") - 4 * weight) <= 40
        before = now
    assert _generation(split.edge) == generation


def test_a_caller_without_the_header_is_left_to_chance(split: Split) -> None:
    split.apply(50, Rules(("header", "x-user"), watched=(("header", "x-user"),)))
    assert set(split.versions([{}] * 60)) == {"v1", "v2"}


def test_headers_lead_to_the_canary_at_any_weight(split: Split) -> None:
    watched = (("match", "x-staff"), ("match", "x-team"))
    split.apply(0, Rules(match=(("x-staff", ""), ("x-team", "red blue")), watched=watched))
    calls: list[Mapping[str, str]] = [
        {"x-staff": "anyone"},
        {"x-team": "red blue"},
        {"x-team": "red"},
        {"x-other": "1"},
        {},
    ]
    assert split.versions(calls) == ["v2", "v2", "v1", "v1", "v1"]
    split.apply(0, Rules(watched=watched))
    assert split.versions(calls) == ["v1"] * 5
    split.apply(100, Rules(watched=watched))
    assert split.versions(calls) == ["v2"] * 5


def test_a_canary_is_ended_without_the_rest_of_the_table(split: Split) -> None:
    rules = Rules(match=(("x-staff", ""),), watched=(("match", "x-staff"),))
    split.apply(100, rules)
    calls: list[Mapping[str, str]] = [{"x-staff": "anyone"}, {}]
    assert split.versions(calls) == ["v2", "v2"]
    split.edge.control.end_canary("iris")
    assert split.versions(calls) == ["v1", "v1"]
    written = split.edge.files.routes.read_text().splitlines()
    assert "iris:weight 0" in written
    assert not any(line.startswith("iris:match:") for line in written)
    assert "other:state loading" in written, "an edge that starts again has all the rest"
    split.edge.control.end_canary("other")
    split.apply(100, rules)
    assert split.versions(calls) == ["v2", "v2"]


def test_a_header_names_the_version(split: Split) -> None:
    split.apply(0)
    names = ["v2", "sha256:v2", "v1"]
    assert split.versions([{"modelkit-version": name} for name in names]) == ["v2", "v2", "v1"]
    status, _, body = split.edge.get(PATH, {"modelkit-version": "v9"})
    assert (status, b"v9" in body) == (404, True)
    status, headers, _ = split.edge.get("/v2/models/iris/versions/v1/infer", {"modelkit-version": "v2"})
    assert (status, headers["modelkit-version"]) == (200, "v1"), "the path comes before the header"


def test_weights_are_kept_and_cost_no_reload(split: Split) -> None:
    split.apply(0)
    before = _generation(split.edge)
    for weight in WEIGHTS[1:]:
        split.apply(weight)
        # A correct split misses the bound once in a hundred times, twice in a row once in ten thousand.
        p_values = [_p_value(split.count(CALLS), weight)]
        if p_values[0] <= MINIMUM_P_VALUE:
            p_values.append(_p_value(split.count(CALLS), weight))
        print(f"weight {weight}: p = {p_values}")
        assert p_values[-1] > MINIMUM_P_VALUE
    assert _generation(split.edge) == before


def test_the_same_table_changes_nothing_and_repairs_what_someone_else_changed(
    split: Split,
) -> None:

    def command(text: str) -> list[str]:
        return ask(split.edge.files.runtime_socket, text).split("\n")

    path = split.edge.files.routes
    split.apply(20)
    first = command(f"show map {path}")
    split.apply(20)
    assert command(f"show map {path}") == first, "the same entries at the same addresses"
    command(f"set map {path} iris:weight 90")
    command(f"del map {path} iris:canary")
    split.apply(20)
    assert [line.partition(" ")[2] for line in command(f"show map {path}")] == [
        line.partition(" ")[2] for line in first
    ]


def test_hundreds_of_models_and_workers_reach_the_edge(split: Split) -> None:
    def route(number: int) -> Route:
        server = Server(f"w{number}", "127.0.0.1", 20000 + number)
        return Route(f"{number}-{'m' * 150}", backend(f"{number}", server))

    routes = [route(number) for number in range(200)]
    # The first makes the pool grow, by a reload; the second is brought to HAProxy while it runs.
    for weight, others in ((30, routes), (70, [*reversed(routes), Route("late")])):
        split.edge.control.apply(RoutingTable((Route("iris", split.stable, split.canary, weight), *others)))
    generation = _generation(split.edge)
    split.edge.control.apply(RoutingTable((Route("iris", split.stable), *routes[:10])))
    split.edge.control.apply(RoutingTable((Route("iris", split.stable), *routes, Route("late"))))
    assert _generation(split.edge) == generation
    shown = ask(split.edge.files.runtime_socket, f"show map {split.edge.files.routes}")
    assert "late:state loading" in shown
    assert shown.count("m:stable slot") == 200
    assert split.versions([{}]) == ["v1"]


def test_rules_of_a_step_need_no_reload_and_new_names_do(split: Split) -> None:
    watched = (("match", "x-staff"),)
    split.apply(5, Rules(watched=watched))
    before = _generation(split.edge)
    split.apply(25, Rules(match=(("x-staff", ""),), watched=watched))
    assert _generation(split.edge) == before
    split.apply(25, Rules(("cookie", "user"), watched=(("cookie", "user"), *watched)))
    assert _generation(split.edge) != before
    assert set(split.versions(callers("cookie", 50))) == {"v1", "v2"}


def _p_value(answered: Counter[str], weight: int) -> float:
    """Return the p-value of a split under its weight: chi-square with one degree of freedom."""
    expected = {"v1": CALLS * (100 - weight) / 100, "v2": CALLS * weight / 100}
    assert answered.total() == CALLS
    if not all(expected.values()):
        return float(answered["v2"] == CALLS)
    chi = sum((answered[name] - calls) ** 2 / calls for name, calls in expected.items())
    return math.erfc(math.sqrt(chi / 2))


def _generation(edge: RunningEdge) -> str:
    """Return the process that takes new calls; a reload changes it."""
    return next(
        line.split(":", 1)[1].strip()
        for line in ask(edge.files.runtime_socket, "show info").splitlines()
        if line.startswith("Pid:")
    )
