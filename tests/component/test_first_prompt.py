"""The call that a language model answers before it is ready: real engines, and one that fails."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UnusableModel
from gateway.serving import NO_GENERATION, Generation
from gateway.worker.first_prompt import answer_first_prompt
from runtimes.base import Resources
from runtimes.engines.base import EngineOptions
from runtimes.engines.task import Task
from runtimes.gguf import GgufRuntime
from tests.support import gguf_files
from tests.support.engines import DONE, STREAM, USAGE, FaultyEngine, answer, chunk, delta, event

PROMPT = {"messages": [{"role": "user", "content": "2 + 2 = ?"}], "temperature": 0, "max_tokens": 512}
PIRATE = Generation(system_prompt="Be a pirate.")
START = Callable[..., FaultyEngine]


@pytest.fixture
def start() -> Iterator[START]:
    started: list[FaultyEngine] = []

    def start_one(*pieces: bytes, head: bytes = STREAM, tasks: frozenset[Task] | None = None) -> FaultyEngine:
        body = b"".join(map(chunk, pieces)) + b"0\r\n\r\n" if head is STREAM else b""
        started.append(FaultyEngine(lambda connection, _: connection.sendall(head + body)))
        started[-1].tasks = tasks or started[-1].tasks
        return started[-1]

    yield start_one
    for engine in started:
        engine.close()


def call(engine: FaultyEngine) -> tuple[str, dict[str, Any]]:
    """The path and the body of the one call that an engine got."""
    (request,) = engine.requests
    head, _, body = request.partition(b"\r\n\r\n")
    return head.split()[1].decode(), json.loads(body)


@pytest.mark.parametrize("what", ["chat", "completion", "embedding", "rerank"])
def test_each_kind_of_engine_answers_a_made_up_call(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if what in ("chat", "completion"):
        gguf_files.tiny_llama(path, template=gguf_files.CHAT_TEMPLATE if what == "chat" else None)
    else:
        gguf_files.tiny_bert(path, pooling=4 if what == "rerank" else 1)
    model = GgufRuntime().start(path, Resources(), EngineOptions(context=64, slots=1))
    try:
        assert answer_first_prompt(model, "tiny", NO_GENERATION) == ""
        assert answer_first_prompt(model, "tiny", PIRATE, PROMPT) == ""
    finally:
        model.close()


def test_a_golden_prompt_is_asked_as_a_caller_would_and_briefly(start: START) -> None:
    engine = start(delta("4"), USAGE, DONE)
    assert answer_first_prompt(engine, "chat", PIRATE, PROMPT) == ""
    path, body = call(engine)
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "Be a pirate."}, *PROMPT["messages"]]  # type: ignore[misc]
    assert body["max_tokens"] < 10


def test_a_model_that_does_not_chat_is_asked_for_what_it_does(start: START) -> None:
    head = answer(200, {"data": []})
    engine = start(head=head, tasks=frozenset({Task.EMBEDDING}))
    assert answer_first_prompt(engine, "embed", NO_GENERATION, PROMPT) == ""
    assert call(engine)[0] == "/v1/embeddings"


@pytest.mark.parametrize(
    ("head", "pieces", "reason"),
    [
        (answer(500, {"error": {"message": "out of memory"}}), [], "out of memory"),
        (STREAM, [event({"error": {"code": 500, "message": "no template"}})], "no template"),
        (STREAM, [delta("4")], "the answer ended too early"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", None, "within 0.3 s"),
    ],
)
def test_a_failure_is_told(start: START, head: bytes, pieces: list[bytes] | None, reason: str) -> None:
    engine = start(*(pieces or ()), head=head)
    assert reason in answer_first_prompt(engine, "chat", NO_GENERATION, seconds=0.3 if pieces is None else 20)


def test_a_call_that_cannot_be_made_of_a_kits_defaults_is_told(start: START) -> None:
    wrong = {"messages": "hello"}
    engine = start(DONE)
    assert "messages" in answer_first_prompt(engine, "chat", NO_GENERATION, wrong)
    assert engine.requests == []


def test_an_engine_that_ends_by_its_first_call_is_none() -> None:
    def end(connection: socket.socket, _: bytes) -> None:
        engine.is_running = False
        connection.shutdown(socket.SHUT_RDWR)

    engine = FaultyEngine(end)
    assert answer_first_prompt(engine, "chat", NO_GENERATION) == "it was ended by the test"
    engine.close()
    with pytest.raises(UnusableModel, match="it was ended by the test"):
        answer_first_prompt(engine, "chat", NO_GENERATION)
