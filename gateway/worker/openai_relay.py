"""The calls of one path of the OpenAI API: read, refused, or given to the engine."""

from __future__ import annotations

import asyncio
import math
import time

from gateway.codec.deadlines import request_timeout
from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import EngineCall, read_call
from gateway.codec.statuses import explain
from gateway.engine.generation import Turn
from gateway.metrics.counts import MIRRORED
from gateway.wire.codings import decompress
from gateway.wire.exchange import Exchange
from gateway.wire.headers import PLACED, SOURCE, sticky_caller
from gateway.worker.language import ENDED, LanguageCapability
from gateway.worker.openai_account import AdmittedCall
from gateway.worker.openai_call import RelayedCall
from gateway.worker.openai_version import RelayedVersion, request_id
from gateway.worker.protocol import OpenAIErrors
from gateway.worker.version import ServedVersion

Body = list[bytes | memoryview]

_UNAVAILABLE = 503
# While a larger body is read, other callers would wait for a moment that they notice.
_LARGE = 256 * 1024


class Relay:
    """Answers the calls of one endpoint."""

    def __init__(self, endpoint: Endpoint, version: ServedVersion, language: LanguageCapability) -> None:
        self._endpoint = endpoint
        self._served = RelayedVersion(version, language)
        self._errors = OpenAIErrors(self._served.headers)

    def __call__(self, exchange: Exchange, role: str) -> None:
        """Have a call answered whose body is here."""
        began = time.perf_counter()
        body = exchange.take()
        coding = exchange.headers.get(b"content-encoding", b"").decode("latin-1")
        if coding or sum(map(len, body)) > _LARGE:
            self._read_aside(exchange, role, body, coding, began)
            return
        try:
            call = self._read(exchange, body, coding)
        except Exception as refusal:
            self._refuse(exchange, role, refusal)
            return
        self._enter(exchange, role, call, began)

    def _read(self, exchange: Exchange, body: Body, coding: str) -> tuple[Body, EngineCall]:
        """Return a call, and its body as plain JSON. Raises what the caller is to be told."""
        options, engine = self._served.version.options, self._served.language.engine
        plain = decompress(body, coding, options.max_body, exchange.reserve) if coding else body
        return plain, read_call(self._endpoint, plain, engine, options.generation)

    def _read_aside(self, exchange: Exchange, role: str, body: Body, coding: str, began: float) -> None:
        """Read a call in another thread, as it takes long, then go on with it."""

        def finish(future: asyncio.Future[tuple[Body, EngineCall]]) -> None:
            try:
                call = future.result()
            except Exception as refusal:
                self._refuse(exchange, role, refusal)
                return
            finally:
                # The error has this frame, and so has the body, until the collector comes.
                del future
            if not exchange.is_abandoned:
                self._enter(exchange, role, call, began)

        work = asyncio.get_running_loop().run_in_executor(None, self._read, exchange, body, coding)
        work.add_done_callback(finish)

    def _enter(self, exchange: Exchange, role: str, read: tuple[Body, EngineCall], began: float) -> None:
        """Let a call wait for its turn."""
        served = self._served
        language = served.language
        body, call = read
        try:
            timeout = exchange.headers.get(b"x-request-timeout")
            seconds = math.inf if timeout is None else request_timeout(timeout)
        except Exception as refusal:
            self._refuse(exchange, role, refusal)
            return
        source, is_placed = exchange.headers.get(SOURCE, b""), PLACED in exchange.headers
        sticky = sticky_caller(exchange.headers.get(PLACED))
        if not language.is_alive():
            served.tally.refused(role, _UNAVAILABLE)
            if is_placed:
                served.tally.judged(source, _UNAVAILABLE, time.perf_counter() - began, sticky=sticky)
            self._errors(exchange, role, _UNAVAILABLE, ENDED)
            return
        sampler = served.version.payloads.sampler
        is_recorded = sampler is not None and role != MIRRORED and sampler.is_picked()
        # Only what chance placed is evidence, see `Tally.judged`.
        is_kept = is_recorded or (language.mirror is not None and is_placed)
        kept_body = b"".join(body) if is_kept else None
        turn = Turn(len(call.body), call.places, seconds, began, source=source)
        turn.is_placed, turn.sticky = is_placed, sticky
        tracer = served.version.options.tracer
        trace = None if tracer is None else tracer.of(exchange.headers, is_mirrored=role == MIRRORED)
        admitted = AdmittedCall(exchange, role, call, turn, kept_body, is_recorded, trace)
        RelayedCall(served, admitted).enter()

    def _refuse(self, exchange: Exchange, role: str, failure: Exception) -> None:
        """Answer a call that does not get to the engine."""
        status, text = explain(failure, request_id(exchange), self._served.names)
        self._served.tally.refused(role, status)
        if isinstance(failure, RefusedCall):
            self._errors(exchange, role, status, text, code=failure.code, param=failure.param)
        else:
            self._errors(exchange, role, status, text)
