"""Conversations with a version that has several workers: each goes on where it began, unless that is full."""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.edge.haproxy import ask
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from tests.support.chat_worker import ChatWorker, chat_worker
from tests.support.edge import RunningEdge
from tests.support.waiting import wait

CHAT = "/v1/chat/completions"
APP = "chat.v1"


@dataclass
class Version:
    """A model `chat` with one version, whose workers say who they are."""

    edge: RunningEdge
    workers: tuple[ChatWorker, ...]
    servers: tuple[Server, ...]

    def apply(self, *numbers: int) -> None:
        """Have these of the workers take calls."""
        servers = tuple(self.servers[number] for number in numbers)
        self.edge.control.apply(RoutingTable((Route("chat", Backend(APP, ("v1",), servers)),)))
        wait(lambda: self.up() == len(numbers))

    def up(self) -> int:
        """Return how many of the workers take calls."""
        shown = ask(self.edge.files.runtime_socket, "show stat").splitlines()
        return sum(line.startswith("slot0.prefix,w") and ",UP," in line for line in shown)

    def is_idle(self) -> bool:
        """Whether HAProxy has ended all calls: one of a moment before counts among those of its worker."""
        shown = ask(self.edge.files.runtime_socket, "show stat slot0.prefix 2 -1").splitlines()
        return all(line.split(",")[4] == "0" for line in shown if line.startswith("slot0.prefix,"))

    def call(self, body: object, path: str = CHAT, headers: Mapping[str, str] | None = None) -> str:
        """Return which worker answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=20)
        document = {"model": "chat", **body} if isinstance(body, dict) else body
        connection.request("POST", path, json.dumps(document), dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        connection.close()
        wait(self.is_idle)
        return answer.headers["modelkit-version"]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Version]:
    with ExitStack() as stack:
        edge = RunningEdge(tmp_path_factory.mktemp("edge"))
        stack.callback(edge.stop)
        workers, servers = zip(*(stack.enter_context(chat_worker(f"w{n}")) for n in range(3)), strict=True)
        version = Version(edge, workers, servers)
        version.apply(0, 1, 2)
        yield version


def conversation(number: int, turns: int, system: str = "") -> dict[str, object]:
    """Return a call that has so many turns before its question."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"question {turn} of {number}"})
        messages.append({"role": "assistant", "content": f"answer {turn}"})
    return {"messages": [*messages, {"role": "user", "content": f"question {turns} of {number}"}]}


@pytest.mark.parametrize(
    "system", ["", "You are a patient teacher. " * 20], ids=["bare", "with a system prompt"]
)
def test_a_conversation_stays_and_others_spread(version: Version, system: str) -> None:
    places: Counter[str] = Counter()
    for number in range(30):
        turns = {version.call(conversation(number, turn, system)) for turn in (0, 1, 2, 5)}
        assert len(turns) == 1, "each turn goes where the ones before it went"
        places.update(turns)
    assert set(places) == {"w0", "w1", "w2"}
    assert max(places.values()) <= 20


@pytest.mark.parametrize(
    ("path", "bodies"),
    [
        ("/v1/completions", [{"prompt": "p{}"}]),
        ("/v1/responses", [{"input": "p{}"}, {"input": [{"role": "user", "content": "p{}"}]}]),
        (CHAT, [{"messages": [{"role": "user", "content": [{"type": "text", "text": "p{}"}]}]}]),
        (CHAT, [{"prompt_cache_key": "k{}", "messages": [{"content": "a"}]}, {"prompt_cache_key": "k{}"}]),
        ("/models/chat" + CHAT, [{"messages": [{"role": "user", "content": "p{}"}]}]),
    ],
)
def test_each_kind_of_call_has_a_beginning(version: Version, path: str, bodies: list[object]) -> None:
    places = set()
    for number in range(12):
        filled = [json.loads(json.dumps(body).replace("{}", str(number), 1)) for body in bodies]
        answering = {version.call(body, path) for body in filled for _ in range(2)}
        assert len(answering) == 1
        places |= answering
    assert len(places) > 1


def test_a_header_names_a_session(version: Version) -> None:
    for session in ("a", "b", "c", "d"):
        headers = {"X-Session-Id": session}
        assert len({version.call(conversation(number, 0), CHAT, headers) for number in range(5)}) == 1


def test_a_full_worker_gets_no_more_than_half_again_of_the_mean(version: Version) -> None:
    connections = []
    body = json.dumps({"model": "chat", **conversation(0, 0)})
    for inside in range(1, 13):
        connection = http.client.HTTPConnection("127.0.0.1", version.edge.port, timeout=20)
        connection.request("POST", CHAT + "?hold", body)
        connections.append(connection)
        wait(lambda inside=inside: sum(worker.inside for worker in version.workers) == inside)  # type: ignore[misc]
    loads = sorted(worker.inside for worker in version.workers)
    assert max(loads) == 6
    for connection in connections:
        connection.close()
    wait(lambda: not any(worker.inside for worker in version.workers))


def test_what_has_no_beginning_is_spread_by_load(version: Version) -> None:
    for path in ("/v2/models/chat/infer", "/models/chat/v1/embeddings"):
        with ThreadPoolExecutor(6) as callers:
            answers = list(callers.map(lambda _, path=path: version.call({"input": "x"}, path), range(60)))
        assert set(answers) == {"w0", "w1", "w2"}


def test_fewer_and_more_workers_move_only_what_they_must(version: Version) -> None:
    generation = _generation(version.edge)
    before = [version.call(conversation(number, 0)) for number in range(40)]
    version.apply(0, 2)
    fewer = [version.call(conversation(number, 0)) for number in range(40)]
    assert set(fewer) == {"w0", "w2"}
    assert all(new == old for old, new in zip(before, fewer, strict=True) if old != "w1")
    version.apply(0)
    assert version.call(conversation(1, 0)) == "w0"
    version.apply(0, 1, 2)
    assert [version.call(conversation(number, 0)) for number in range(40)] == before
    assert _generation(version.edge) == generation, "without a reload"
    counted = version.edge.control.statistics().versions[APP].responses
    assert counted["worker", "2xx"] > 120, "both ways to a worker are counted"


def _generation(edge: RunningEdge) -> str:
    shown = ask(edge.files.runtime_socket, "show info").splitlines()
    return next(line for line in shown if line.startswith("Pid:"))


def test_a_worker_that_dies_costs_no_call(tmp_path: Path) -> None:
    edge = RunningEdge(tmp_path)
    try:
        with chat_worker("w0") as (first, one), ExitStack() as stack:
            second, two = stack.enter_context(chat_worker("w1"))
            version = Version(edge, (first, second), (one, two))
            version.apply(0, 1)
            bodies = [conversation(number, 0) for number in range(10)]
            assert {version.call(body) for body in bodies} == {"w0", "w1"}
            stack.close()
            assert {version.call(body) for body in bodies} == {"w0"}
    finally:
        edge.stop()


def test_another_haproxy_chooses_as_the_one_before(version: Version) -> None:
    before = [version.call(conversation(number, 0)) for number in range(20)]
    others = [
        Route(f"m{number}", Backend(f"m{number}", ("v1",), version.servers[:1])) for number in range(40)
    ]
    backend = Backend(APP, ("v1",), version.servers)
    version.edge.control.apply(RoutingTable((Route("chat", backend), *others)))
    wait(lambda: version.up() == 3)
    assert [version.call(conversation(number, 0)) for number in range(20)] == before


def test_the_way_through_the_socket_is_no_way_around(version: Version) -> None:
    """The header by which a call's client is told comes from the body router alone."""
    with socket.create_connection(("127.0.0.1", version.edge.port), timeout=10) as connection:
        connection.sendall(
            b"GET /models/chat/v1/models HTTP/1.1\r\nHost: localhost\r\nKitserve-Client: 1.2.3.4\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert all("1.2.3.4" not in json.dumps(worker.calls) for worker in version.workers)
