"""One call of the OpenAI API, from its caller to the engine and back.

The engine always streams what it generates, whatever the caller wants: it notices at the next token that
nobody waits for a stream any more, and else only at the answer's end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict

import orjson

from gateway.codec.deadlines import request_timeout
from gateway.codec.openai.answer import Choice, GeneratedAnswer
from gateway.codec.openai.errors import RefusedCall, engine_error, error_body
from gateway.codec.openai.events import AnswerEvents
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import EngineCall, read_call
from gateway.codec.openai.whole import choices_of, whole_answer
from gateway.codec.statuses import explain
from gateway.engine.generation import Turn
from gateway.errors import Overload
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tokens import Tokens
from gateway.wire.codings import decompress
from gateway.wire.exchange import Exchange, lines
from gateway.wire.sse import DATA, END
from gateway.wire.upstream import Request, UpstreamCall
from gateway.worker.language import LanguageCapability
from gateway.worker.protocol import JSON, OpenAIErrors
from gateway.worker.version import ServedVersion

Body = list[bytes | memoryview]

_OK = 200
_EVENTS = lines([(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")])
_REQUEST_HEADERS = ((b"content-type", b"application/json"),)
# A process that is ending closes its connections a moment before it is known to have ended.
_ENDING_SECONDS = 0.1
_BROKEN_OFF = "the engine broke off its answer"

log = logging.getLogger(__name__)


class Relay:
    """Answers the calls of one endpoint."""

    def __init__(self, endpoint: Endpoint, version: ServedVersion, language: LanguageCapability) -> None:
        self.endpoint = endpoint
        self.version = version
        self.language = language
        self.tally = version.tally
        headers = {**version.headers, MIRRORED: version.headers[""]}
        self.errors = OpenAIErrors(headers)
        self.json = {role: JSON + names for role, names in headers.items()}
        self.events = {role: _EVENTS + names for role, names in headers.items()}
        self.fingerprint = version.identity.digest.partition(":")[2][:12]
        self.names = asdict(version.identity)

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
        try:
            timeout = exchange.headers.get(b"x-request-timeout")
            seconds = math.inf if timeout is None else request_timeout(timeout)
            call = read_call(self.endpoint, body, self.language.engine, self.version.options.generation)
        except Exception as refusal:
            self.refuse(exchange, role, refusal)
            return
        if self.language.is_alive():
            asked = None if self.language.mirror is None else b"".join(body)
            RelayedCall(
                self, exchange, role, call, Turn(len(call.body), call.places, seconds, began), asked
            ).enter()
        else:
            self.tally.refused(role, 503)
            self.errors(exchange, role, 503, f"the engine has ended: {self.language.model.failure()}")

    def _decompress(self, exchange: Exchange, role: str, body: Body, coding: str, began: float) -> None:
        """Decompress a body in another thread, as a large one takes long, then go on with the call."""

        def finish(future: asyncio.Future[list[bytes | memoryview]]) -> None:
            try:
                plain = future.result()
            except Exception as refusal:
                self.refuse(exchange, role, refusal)
                return
            if not exchange.is_abandoned:
                self._enter(exchange, role, plain, began)

        limit = self.version.options.max_body
        work = asyncio.get_running_loop().run_in_executor(None, decompress, body, coding, limit)
        work.add_done_callback(finish)

    def refuse(self, exchange: Exchange, role: str, failure: Exception) -> None:
        """Answer a call that does not get to the engine."""
        status, text = explain(failure, _request_id(exchange), self.names)
        self.tally.refused(role, status)
        if isinstance(failure, RefusedCall):
            self.errors(exchange, role, status, text, code=failure.code, param=failure.param)
        else:
            self.errors(exchange, role, status, text)


class RelayedCall:
    """One call, see `Turn` and `upstream.Receiver`, by which it gets to the engine and its answer back."""

    __slots__ = (
        "_asked",
        "_call",
        "_events",
        "_exchange",
        "_failing",
        "_first_seconds",
        "_is_events",
        "_kept",
        "_last",
        "_relay",
        "_role",
        "_status",
        "_tokens",
        "_turn",
        "_upstream",
    )

    def __init__(
        self,
        relay: Relay,
        exchange: Exchange,
        role: str,
        call: EngineCall,
        turn: Turn,
        asked: bytes | None,
    ) -> None:
        self._relay = relay
        self._exchange = exchange
        self._role = role
        self._call = call
        self._turn = turn
        self._asked = asked
        """The body as it came, where the answer may be mirrored."""
        model = call.model or relay.version.identity.model
        self._events = AnswerEvents(call, model, relay.fingerprint)
        self._upstream: UpstreamCall | None = None
        self._failing: asyncio.TimerHandle | None = None
        self._status = 0
        """The engine's."""
        self._is_events = False
        self._kept: list[bytes] | None = None
        """The answer so far, where it is needed as a whole."""
        self._tokens = Tokens()
        self._first_seconds = 0.0
        self._last = 0.0
        """When the last tokens came."""

    def enter(self) -> None:
        """Let the call wait for its turn."""
        self._exchange.on_abandoned = self._abandon
        self._relay.language.slots.enter(self._turn, self)

    # What the slots call.

    def begin(self) -> None:
        """Have the engine work on the call."""
        call = self._call
        request = Request("POST", call.endpoint.value, call.body, _REQUEST_HEADERS)
        self._upstream = self._relay.language.upstream.send(request, self)

    def fail(self, failure: Overload, retry_after: int) -> None:
        """Answer a call that is too late or one too many; its turn has been left."""
        self._abort()
        status, text = explain(failure, _request_id(self._exchange), self._relay.names)
        self._end_badly(status, error_body(status, text), retry_after, has_left=True)

    # What the connection to the engine calls.

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head of the engine's answer."""
        self._status = status
        self._is_events = status == _OK and headers.get(b"content-type", b"").startswith(b"text/event-stream")
        is_mirrored = self._asked is not None and self._call.endpoint.is_generating
        if is_mirrored or not (self._is_events and self._call.is_streamed):
            self._kept = []

    def piece(self, data: bytes) -> None:
        """Pass on a piece of the engine's answer."""
        if not self._is_events:
            assert self._kept is not None
            self._kept.append(data)
            return
        try:
            events = self._events.feed(data)
        except ValueError as error:
            self._break_off(f"{_BROKEN_OFF}: {error}")
            return
        if self._events.count:
            self._note_tokens(self._events.count)
        if self._kept is not None:
            self._kept.append(events)
        if self._call.is_streamed and events:
            exchange = self._exchange
            if not exchange.has_begun:
                if self._events.error is not None:
                    return  # the caller gets it as an answer of its own
                exchange.begin(_OK, self._relay.events[self._role])
            exchange.send(events)
            if not exchange.is_writable:
                self._pause()

    def end(self) -> None:
        """Complete the answer."""
        if not self._is_events:
            self._end_with_document()
        elif self._events.error is not None:
            self._end_badly(*self._events.error)
        elif not self._events.is_complete:
            self.failed("its stream ended too early")
        elif self._call.is_streamed:
            self._exchange.end()
            self._leave(_OK)
        else:
            self._end_with_whole()

    def failed(self, reason: str) -> None:
        """Answer for an engine that has not, once it is known whether it has ended."""
        self._failing = asyncio.get_running_loop().call_later(_ENDING_SECONDS, self._end_failed, reason)

    # Ends.

    def _end_failed(self, reason: str) -> None:
        self._failing = None
        language = self._relay.language
        cause = language.model.failure() if not language.is_alive() else ""
        log.warning("engine.failed", extra={"reason": reason, "cause": cause, **self._relay.names})
        text = f"the engine has ended: {cause}" if cause else f"{_BROKEN_OFF}: {reason}"
        self._end_badly(502, error_body(502, text))

    def _end_with_document(self) -> None:
        """Pass on an answer that is no stream: embeddings, a ranking, or an error."""
        body = b"".join(self._kept or ())
        try:
            document = orjson.loads(body)
        except ValueError:
            document = None
        if self._status != _OK or document is None:
            status, error = engine_error(self._status if self._status != _OK else 502, document)
            self._end_badly(status, error)
            return
        if isinstance(document, dict):
            usage = document.get("usage") or {}
            self._tokens.input = usage.get("prompt_tokens") or usage.get("total_tokens") or 0
            if "model" in document:
                document["model"] = self._call.model or self._relay.version.identity.model
                body = orjson.dumps(document)
        self._exchange.respond(_OK, self._relay.json[self._role], body)
        self._leave(_OK)

    def _end_with_whole(self) -> None:
        """Make one answer of the events."""
        try:
            answer = whole_answer(self._call.endpoint, self._kept or (), self._events.usage)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self.failed(f"its answer cannot be read: {error!r}")
            return
        self._exchange.respond(_OK, self._relay.json[self._role], orjson.dumps(answer))
        self._leave(_OK)

    def _break_off(self, reason: str) -> None:
        self._abort()
        self._end_badly(502, error_body(502, reason))

    def _end_badly(self, status: int, error: bytes, retry_after: int = 0, has_left: bool = False) -> None:
        """Answer with an error: as the last event, where the answer has begun."""
        exchange = self._exchange
        if exchange.has_begun:
            if self._events.error is None:
                exchange.send(DATA + error + END)
            exchange.end()
        else:
            headers = self._relay.json[self._role]
            if retry_after:
                headers += b"retry-after: %d\r\n" % retry_after
            exchange.respond(status, headers, error)
        self._leave(status, has_left)

    def _leave(self, status: int, has_left: bool = False) -> None:
        """Count the call, offer its answer to the mirror, and let the next one have its turn."""
        turn, tally, role = self._turn, self._relay.tally, self._role
        self._exchange.on_abandoned = self._exchange.on_writable = None
        now = time.perf_counter()
        seconds = now - turn.began
        if self._upstream is None:
            tally.refused(role, status)
        else:
            compute = max(0.0, seconds - turn.queue_seconds)
            tally.answered(role, status, seconds, turn.queue_seconds, compute, infer=compute)
            self._count_tokens()
        mirror = self._relay.language.mirror
        if mirror is not None and self._asked is not None and self._call.endpoint.is_generating:
            with suppress(ValueError, LookupError, TypeError, AttributeError):
                mirror.offer(self._generated(self._asked, status, seconds))
        self._upstream = None
        if not has_left:
            self._relay.language.slots.leave(turn)

    def _generated(self, asked: bytes, status: int, seconds: float) -> GeneratedAnswer:
        call = self._call
        usage, first = self._events.usage, self._first_seconds
        choices: tuple[Choice, ...] = ()
        if status == _OK:
            choices = choices_of(call.endpoint, whole_answer(call.endpoint, self._kept or (), usage))
        path, role = call.endpoint.value, self._role
        return GeneratedAnswer(path, role, asked, call.body, status, choices, usage, first, seconds)

    # On the way.

    def _note_tokens(self, count: int) -> None:
        """Note when tokens came; of those that came together, each took its share of the time."""
        now, tokens = time.perf_counter(), self._tokens
        if not self._last:
            self._first_seconds = now - self._turn.began
            tokens.first.observe(self._first_seconds)
        elif self._events.is_complete:
            return  # the last events tell of the answer's end
        else:
            share = (now - self._last) / count
            for _ in range(count):
                tokens.between.observe(share)
        tokens.output += count
        self._last = now

    def _count_tokens(self) -> None:
        usage, tokens = self._events.usage, self._tokens
        if usage.output:
            tokens.input, tokens.cached, tokens.output = usage.input, usage.cached, usage.output
        self._relay.tally.generated(self._role, tokens)

    def _pause(self) -> None:
        """Take no more from the engine than the caller takes."""
        if self._upstream is not None:
            self._upstream.pause()
            self._exchange.on_writable = self._upstream.resume

    def _abandon(self) -> None:
        """End a call whose caller hung up."""
        self._abort()
        self._count_tokens()
        self._relay.language.slots.cancel(self._turn)

    def _abort(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        if self._failing is not None:
            self._failing.cancel()
            self._failing = None


def _request_id(exchange: Exchange) -> str:
    return exchange.headers.get(b"x-request-id", b"").decode("latin-1")
