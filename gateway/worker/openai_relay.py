"""The calls of one path of the OpenAI API: read, refused, or given to the engine."""

from __future__ import annotations

import asyncio
import math
import time

from gateway.codec.deadlines import request_timeout
from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import read_call
from gateway.codec.statuses import explain
from gateway.engine.generation import Turn
from gateway.wire.codings import decompress
from gateway.wire.exchange import Exchange
from gateway.worker.language import ENDED, LanguageCapability
from gateway.worker.openai_call import RelayedCall, Served, request_id
from gateway.worker.protocol import OpenAIErrors
from gateway.worker.version import ServedVersion

Body = list[bytes | memoryview]

_UNAVAILABLE = 503


class Relay:
    """Answers the calls of one endpoint."""

    def __init__(self, endpoint: Endpoint, version: ServedVersion, language: LanguageCapability) -> None:
        self._endpoint = endpoint
        self._served = Served(version, language)
        self._errors = OpenAIErrors(self._served.headers)

    def __call__(self, exchange: Exchange, role: str) -> None:
        """Have a call answered whose body is here."""
        began = time.perf_counter()
        body = exchange.take()
        coding = exchange.headers.get(b"content-encoding")
        if coding:
            self._decompress(exchange, role, body, coding.decode("latin-1"), began)
        else:
            self._enter(exchange, role, body, began)

    def _enter(self, exchange: Exchange, role: str, body: Body, began: float) -> None:
        """Read a call, and let it wait for its turn."""
        served = self._served
        language = served.language
        try:
            timeout = exchange.headers.get(b"x-request-timeout")
            seconds = math.inf if timeout is None else request_timeout(timeout)
            call = read_call(self._endpoint, body, language.engine, served.version.options.generation)
        except Exception as refusal:
            self._refuse(exchange, role, refusal)
            return
        if not language.is_alive():
            served.tally.refused(role, _UNAVAILABLE)
            self._errors(exchange, role, _UNAVAILABLE, ENDED)
            return
        asked = None if language.mirror is None else b"".join(body)
        turn = Turn(len(call.body), call.places, seconds, began)
        RelayedCall(served, exchange, role, call, turn, asked).enter()

    def _decompress(self, exchange: Exchange, role: str, body: Body, coding: str, began: float) -> None:
        """Decompress a body in another thread, as a large one takes long, then go on with the call."""

        def finish(future: asyncio.Future[list[bytes | memoryview]]) -> None:
            try:
                plain = future.result()
            except Exception as refusal:
                self._refuse(exchange, role, refusal)
                return
            if not exchange.is_abandoned:
                self._enter(exchange, role, plain, began)

        limit = self._served.version.options.max_body
        work = asyncio.get_running_loop().run_in_executor(None, decompress, body, coding, limit)
        work.add_done_callback(finish)

    def _refuse(self, exchange: Exchange, role: str, failure: Exception) -> None:
        """Answer a call that does not get to the engine."""
        status, text = explain(failure, request_id(exchange), self._served.names)
        self._served.tally.refused(role, status)
        if isinstance(failure, RefusedCall):
            self._errors(exchange, role, status, text, code=failure.code, param=failure.param)
        else:
            self._errors(exchange, role, status, text)
