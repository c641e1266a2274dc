"""Text from kits, registries and engines at the edge: it leads no call elsewhere, and no caller reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.control.loop.roles import Role, Roles
from gateway.control.loop.routing import routing_table
from gateway.control.loop.situation import Situation
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import Desired
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import ModelState
from gateway.edge import haproxy
from gateway.edge.haproxy import ask
from gateway.edge.routes import Route, RouteState, RoutingTable
from gateway.errors import EdgeError
from gateway.oci.reference import parse_reference
from tests.support.edge import RunningEdge, Workers, backend

# HAProxy's buffer ends within this, and the rest was read as an entry of its own.
SAID = {
    ModelState.FAILED: {
        "error": "model iris could not be loaded; its operator sees why with kitserve status",
        "code": "model_failed",
    },
    ModelState.PULLING: {"error": "model iris is not ready yet: pulling", "code": "model_not_ready"},
}
LONG = "x" * 65_540 + "wine:stable slot0 "


TEXTS = (LONG, "no such tag\nwine:stable slot0\n", "\x1b[2J/root/.local/xxx", "wine:stable slot0 xxx " * 4000)


def test_the_reason_of_one_model_is_no_entry_of_another(edge: RunningEdge, workers: Workers) -> None:
    attacker, wine = backend("attacker", workers.start("attacker")), backend("wine", workers.start("wine"))
    nothing = Situation(Recorded(Desired(), {}, {}, {}, {}), Observed({}, ()))
    for state, text in [(state, text) for state in (ModelState.FAILED, ModelState.PULLING) for text in TEXTS]:
        roles = {"iris": Roles(Role(parse_reference("oci-layout:here:iris:v1"), None, state, text))}
        (refused,) = routing_table(roles, {"iris": AppRoute()}, (), (), nothing).routes
        edge.control.apply(RoutingTable((Route("attacker", attacker), refused, Route("wine", wine))))
        # As an HAProxy that starts again reads it.
        edge.control._haproxy.reload()
        status, headers, _ = edge.get("/v2/models/wine/infer")
        assert (status, headers["ModelKit-Version"]) == (200, "wine")
        status, _, body = edge.get("/v2/models/iris/infer")
        assert (status, json.loads(body)) == (503, SAID[state])
        live = ask(edge.files.runtime_socket, f"show map {edge.files.routes}")
        for entries in (edge.files.routes.read_text(), live):
            assert "xxx" not in entries
            assert [line for line in entries.splitlines() if "wine:stable" in line and "slot0" in line] == []


@pytest.mark.parametrize("dropped", ["commit map", "add map", "set server"])
@pytest.mark.parametrize(
    "answer", ["\n", "Out of memory error.\n\n"], ids=["without a word", "with a refusal"]
)
def test_what_haproxy_did_not_take_is_brought_to_it_by_a_reload(
    edge: RunningEdge, workers: Workers, monkeypatch: pytest.MonkeyPatch, dropped: str, answer: str
) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))

    def drop(path: Path, command: str) -> str:
        return answer if dropped in command else ask(path, command)

    with monkeypatch.context() as patch:
        patch.setattr(haproxy, "ask", drop)
        edge.control.apply(RoutingTable((Route("iris", backend("v2", workers.start("v2"))),)))
    status, headers, _ = edge.get("/v2/models/iris/infer")
    assert (status, headers["ModelKit-Version"]) == (200, "v2")


def test_a_canary_whose_end_haproxy_drops_is_ended_by_a_reload(
    edge: RunningEdge, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    edge.control.apply(RoutingTable((Route("iris", stable, canary, 100),)))
    assert edge.get("/v2/models/iris/infer")[1]["ModelKit-Version"] == "v2"
    with monkeypatch.context() as patch:
        patch.setattr(
            haproxy, "ask", lambda path, command: "\n" if "set map" in command else ask(path, command)
        )
        edge.control.end_canary("iris")
    assert {edge.get("/v2/models/iris/infer")[1]["ModelKit-Version"] for _ in range(20)} == {"v1"}


def test_an_edge_that_is_as_it_was_told_is_not_reloaded(edge: RunningEdge, workers: Workers) -> None:
    v1, v2 = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    first = ask(edge.files.master_socket, "show proc")
    for table in (
        RoutingTable((Route("iris", v1),)),
        RoutingTable((Route("iris", v1, v2, 30),)),
        RoutingTable((Route("iris", v2), Route("wine", state=RouteState.FAILED)), draining=(v1,)),
        RoutingTable((Route("iris", v2),)),
    ):
        edge.control.apply(table)
    edge.control.end_canary("iris")
    reloads = [
        next(line.split()[2] for line in text.splitlines() if " worker " in line)
        for text in (first, ask(edge.files.master_socket, "show proc"))
    ]
    assert reloads[0] == reloads[1], "no worker of HAProxy's is new"


def test_a_command_that_is_longer_than_the_buffer_is_never_sent(edge: RunningEdge) -> None:
    with pytest.raises(EdgeError, match="has more than 32768 bytes"):
        ask(edge.files.runtime_socket, f"set map {edge.files.routes} iris:state {'x' * 40_000}")
    with pytest.raises(haproxy.ChangeRefused, match="is no word of a command"):
        edge.control._haproxy.edit_routes({"iris:weight": "0; clear map #1"}, ())
