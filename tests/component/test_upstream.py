"""The client of an engine's socket, and what callers get where an engine fails."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.codec.openai.answer import Choice, GeneratedAnswer, Usage
from gateway.metrics.tally import Tally
from gateway.tracing.call_trace import CallTrace
from gateway.wire.headers import PLACED_HEADER
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.language import LanguageCapability
from gateway.worker.version import AppOptions, Identity
from tests.support.engines import DONE, STREAM, USAGE, Behaviour, FaultyEngine, answer, chunk, delta
from tests.support.waiting import wait

CHAT = "/v1/chat/completions"
LAST = b"0\r\n\r\n"


class Serving:
    def __init__(self, engine: FaultyEngine) -> None:
        self.engine = engine
        self.tally = Tally()
        self.app = build_app(Identity("chat", "v1", "sha256:" + "ab" * 32), engine, self.tally, AppOptions())
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()

    def ask(self, **members: Any) -> tuple[int, bytes]:
        connection = self.connect(**members)
        response = connection.getresponse()
        result = response.status, response.read()
        connection.close()
        return result

    def connect(self, **members: Any) -> http.client.HTTPConnection:
        body = json.dumps({"messages": [{"role": "user", "content": "hi"}], **members})
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=20)
        connection.request("POST", CHAT, body, {PLACED_HEADER: "1"})
        return connection


@contextmanager
def serving(behave: Behaviour, slots: int = 2) -> Iterator[Serving]:
    engine = FaultyEngine(behave, slots)
    serving = Serving(engine)
    try:
        yield serving
        wait(lambda: not serving.tally.ongoing)
        assert serving.tally.generating == 0
    finally:
        serving.server.stop()
        serving.app.stop()
        engine.close()


def says(*pieces: bytes, pause: float = 0.0) -> Behaviour:
    def behave(connection: socket.socket, _request: bytes) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return behave


def breaks_off(*pieces: bytes) -> Behaviour:
    def behave(connection: socket.socket, _request: bytes) -> None:
        for piece in pieces:
            connection.sendall(piece)
        time.sleep(0.05)
        raise BrokenPipeError

    return behave


WHOLE = (STREAM, chunk(delta("a")), chunk(delta("b", "stop")), chunk(USAGE), chunk(DONE), LAST)


def message(body: bytes) -> str:
    return str(json.loads(body)["error"]["message"])


class TestGoodAnswers:
    def test_an_answer(self) -> None:
        with serving(says(*WHOLE)) as worker:
            status, body = worker.ask()
            assert status == 200
            assert json.loads(body)["choices"][0]["message"]["content"] == "ab"
            status, body = worker.ask(stream=True)
            assert body.endswith(DONE)
            assert b"usage" not in body
            numbers = worker.tally.numbers()
            assert numbers.tokens.output == 4
            assert numbers.tokens.input == 6

    def test_connections_are_used_again(self) -> None:
        with serving(says(*WHOLE)) as worker:
            for _ in range(5):
                assert worker.ask()[0] == 200
            # the first one asked what the engine serves
            assert worker.engine.connections == 2

    def test_an_answer_in_crumbs(self) -> None:
        stream = b"".join(WHOLE)
        with serving(says(*(stream[i : i + 7] for i in range(0, len(stream), 7)))) as worker:
            assert json.loads(worker.ask()[1])["choices"][0]["message"]["content"] == "ab"

    def test_an_answer_that_ends_with_its_connection(self) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        with serving(breaks_off(head, delta("a", "stop"), DONE)) as worker:
            assert worker.ask()[0] == 200
            assert worker.ask(stream=True)[0] == 200

    def test_an_interim_answer(self) -> None:
        with serving(says(b"HTTP/1.1 100 Continue\r\n\r\n", *WHOLE)) as worker:
            assert worker.ask()[0] == 200

    def test_connections_that_the_engine_closed_meanwhile(self) -> None:
        def behave(connection: socket.socket, _request: bytes) -> None:
            connection.sendall(b"".join(WHOLE))
            connection.shutdown(socket.SHUT_RDWR)

        with serving(behave) as worker:
            for _ in range(20):
                assert worker.ask()[0] == 200


class TestFaults:
    @pytest.mark.parametrize(
        ("behave", "reason"),
        [
            (breaks_off(), "it closed the connection"),
            (breaks_off(b"HTTP/1.1 200 OK\r\ncontent-"), "it closed the connection"),
            (breaks_off(STREAM, chunk(delta("a"))), "it closed the connection"),
            (breaks_off(STREAM, chunk(delta("a"))[:20]), "it closed the connection"),
            (says(b"SSH-2.0-OpenSSH\r\n\r\n"), "is not HTTP/1.1"),
            (says(STREAM, b"xyz\r\n"), "is not HTTP/1.1"),
            (says(STREAM, chunk(delta("a")), LAST), "ended too early"),
            (says(STREAM, LAST), "ended too early"),
            (says(STREAM, chunk(b'data: {"usage":{oops\n\n')), "broke off its answer"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_answers_that_are_broken_off(self, behave: Behaviour, reason: str, stream: bool) -> None:
        with serving(behave) as worker:
            status, body = worker.ask(stream=stream)
            if stream and status == 200:
                body = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2].removeprefix(b"data: ")
            else:
                assert status == 502
            assert reason in message(body)
            wait(lambda: not worker.tally.ongoing)
            assert worker.tally.numbers().requests["", 502] == 1

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (answer(500, {"error": {"message": "oh", "code": 500}}), 500),
            (answer(400, {"error": {"message": "oh", "type": "invalid_request_error"}}), 400),
            (answer(503, {"error": {"message": "oh: loading"}}), 503),
            (answer(500, {"error": {"message": "oh: Failed to load image"}}), 400),
            (b"HTTP/1.1 500 X\r\ncontent-length: 5\r\n\r\n<html", 500),
            (b"HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\n<html", 502),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_its_errors_have_openais_form(self, sent: bytes, status: int, stream: bool) -> None:
        with serving(says(sent)) as worker:
            actual, body = worker.ask(stream=stream)
            assert actual == status
            assert message(body).startswith("oh" if b"oh" in sent else "the engine failed")

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_error_before_the_first_token_has_a_status(self, stream: bool) -> None:
        error = b'data: {"error":{"message":"out of slots","code":503}}\n\n'
        with serving(says(STREAM, chunk(error), LAST)) as worker:
            status, body = worker.ask(stream=stream)
            assert status == 503
            assert message(body) == "out of slots"

    def test_an_engine_that_has_ended(self) -> None:
        with serving(breaks_off()) as worker:
            worker.engine.is_running = False
            status, body = worker.ask()
            assert status == 503
            assert message(body).startswith("the model's engine has ended; the log of its worker")
            assert not worker.app.is_alive()
            assert worker.app.failure() == "the engine has ended: it was ended by the test"
            worker.engine.is_running = True

    def test_an_engine_that_listens_no_more(self) -> None:
        with serving(says(*WHOLE)) as worker:
            worker.engine.close()
            status, body = worker.ask()
            assert status == 502
            assert "takes no connection" in message(body)


class Mirror:
    """Keeps what it is offered."""

    def __init__(self) -> None:
        self.mirroring: Any = None
        self.answers: list[GeneratedAnswer] = []

    def offer(self, answer: GeneratedAnswer, trace: CallTrace | None = None) -> None:
        self.answers.append(answer)

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_offered_to_the_mirror(stream: bool) -> None:
    with serving(says(*WHOLE)) as worker:
        (language,) = worker.app._capabilities
        assert isinstance(language, LanguageCapability)
        worker.ask(stream=stream)
        language.mirror = mirror = Mirror()
        worker.ask(stream=stream, n=1, user="me")
        wait(lambda: bool(mirror.answers))
        (answer,) = mirror.answers
        assert answer.path == CHAT
        assert (answer.role, answer.status) == ("", 200)
        assert json.loads(answer.asked)["user"] == "me"
        assert json.loads(answer.request)["model"] == "engine's own"
        assert answer.choices == (Choice("ab", "stop"),)
        assert answer.usage == Usage(3, 0, 2)
        assert 0 < answer.first_seconds <= answer.seconds
        worker.engine.behave = breaks_off(STREAM, chunk(delta("a")))
        worker.ask(stream=stream)
        wait(lambda: len(mirror.answers) == 2)
        assert (mirror.answers[1].status, mirror.answers[1].choices) == (502, ())


def test_a_caller_who_hangs_up_ends_the_engines_work() -> None:
    def forever(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(STREAM)
        while True:
            connection.sendall(chunk(delta("a")))
            time.sleep(0.01)

    for stream in (False, True):
        with serving(forever) as worker:
            engine = worker.engine
            _has_described(engine)  # the connection that asked what it serves
            connection = worker.connect(stream=stream)
            wait(lambda: worker.tally.generating == 1)
            time.sleep(0.1)
            connection.close()
            _hangs_up(engine)
            assert worker.tally.numbers().tokens.output > 3


def test_a_caller_may_hang_up_before_the_answer_begins() -> None:
    def thinks(connection: socket.socket, _request: bytes) -> None:
        connection.settimeout(10)
        assert connection.recv(1) == b"", "its client has closed the connection"
        raise BrokenPipeError

    for stream in (False, True):
        with serving(thinks) as worker:
            engine = worker.engine
            _has_described(engine)
            connection = worker.connect(stream=stream)
            _comes(engine)
            connection.close()
            _hangs_up(engine)
            assert worker.tally.numbers().dropped["cancelled"] == 1


def test_a_caller_who_does_not_read_stops_the_engine() -> None:
    sent = 0
    text = delta("x" * 60_000)

    def much(connection: socket.socket, _request: bytes) -> None:
        nonlocal sent
        connection.sendall(STREAM)
        for _ in range(1000):
            connection.sendall(chunk(text))
            sent += 1
        connection.sendall(chunk(DONE) + LAST)

    with serving(much) as worker:
        connection = worker.connect(stream=True)
        wait(lambda: worker.tally.generating == 1)
        _settles(lambda: sent)
        assert sent < 500
        response = connection.getresponse()
        size = len(response.read())
        assert sent == 1000
        assert size > 1000 * 60_000
        connection.close()


def _has_described(engine: FaultyEngine) -> None:
    """Wait until the first connection is closed."""
    wait(lambda: engine.closed == 1)


def _comes(engine: FaultyEngine) -> None:
    """Wait until a call has come to the engine."""
    wait(lambda: bool(engine.requests))


def _hangs_up(engine: FaultyEngine) -> None:
    """Wait until one more connection was closed: for at most a second."""
    wait(lambda: engine.closed == 2, 1)


def _settles(number: Callable[[], int]) -> None:
    """Wait until a number has stopped to grow."""
    before = -1
    while before != number():
        before = number()
        time.sleep(0.3)
