"""How errors are written in the family of each protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable

from gateway.wire.budget import BodyBudget
from gateway.wire.exchange import Exchange
from gateway.worker.protocol import ErrorFamily, OpenAIErrors

HEADERS = {"": b"modelkit-version: v1\r\n", "canary": b"modelkit-version: v1\r\nmodelkit-role: canary\r\n"}


class _Channel:
    is_writable = True
    budget = BodyBudget(0)

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes | memoryview) -> None:
        self.sent += bytes(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.sent += b"".join(pieces)

    def answered(self, exchange: Exchange) -> None:
        pass

    def hold(self, is_held: bool) -> None:
        pass


def _call() -> tuple[_Channel, Exchange]:
    channel = _Channel()
    exchange = Exchange(channel, "POST", "/v1/chat/completions", {}, keep_alive=True, may_chunk=True)
    exchange.is_complete = True
    return channel, exchange


def test_an_error_of_the_openai_api_says_its_kind_and_the_member_at_fault() -> None:
    channel, exchange = _call()
    OpenAIErrors(HEADERS)(exchange, "canary", 400, "no", b"retry-after: 1\r\n", code="bad", param="tools")
    head, _, body = channel.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"modelkit-role: canary\r\nretry-after: 1\r\n" in head
    error = {"message": "no", "type": "invalid_request_error", "param": "tools", "code": "bad"}
    assert json.loads(body) == {"error": error}


def test_an_error_of_the_openai_api_needs_no_more_than_others() -> None:
    channel, exchange = _call()
    family: ErrorFamily = OpenAIErrors(HEADERS)
    family(exchange, "", 503, "busy")
    error = {"message": "busy", "type": "service_unavailable", "param": None, "code": None}
    assert json.loads(channel.sent.partition(b"\r\n\r\n")[2]) == {"error": error}
