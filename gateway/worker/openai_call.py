"""One call of the OpenAI API, from its turn at the engine to the end of its answer.

The engine always streams what it generates, whatever the caller wants: it notices at the next token that
nobody waits for a stream any more, and else only at the answer's end.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

import orjson

from gateway.codec.openai.errors import engine_error, error_body
from gateway.codec.openai.events import AnswerEvents
from gateway.codec.openai.whole import whole_answer
from gateway.codec.statuses import explain
from gateway.engine.running_bodies import NOT_RECORDED
from gateway.errors import DeadlineExceeded, Overload, RefusedBody
from gateway.wire.sse import DATA, END
from gateway.wire.upstream import Request, UpstreamCall
from gateway.worker.language import ENDED
from gateway.worker.openai_account import UNREADABLE, AdmittedCall, CallAccount
from gateway.worker.openai_version import RelayedVersion, request_id
from gateway.worker.payload_text import EngineAnswer

_OK = 200
_REQUEST_HEADERS = ((b"content-type", b"application/json"),)
# A process that is ending closes its connections a moment before it is known to have ended.
_ENDING_SECONDS = 0.1
_FAILED = "the worker failed on this call; its log says why"
_BROKEN_OFF = "the engine broke off its answer"

log = logging.getLogger(__name__)


class RelayedCall:
    """One call, see `Turn` and `upstream.Receiver`, by which it gets to the engine and its answer back."""

    __slots__ = (
        "_account",
        "_call",
        "_events",
        "_exchange",
        "_failing",
        "_is_blameless",
        "_is_events",
        "_kept",
        "_place",
        "_status",
        "_upstream",
        "_version",
    )

    def __init__(self, version: RelayedVersion, call: AdmittedCall) -> None:
        self._version = version
        self._exchange = call.exchange
        self._call = call
        self._account = CallAccount(version, call)
        model = call.engine_call.model or version.version.identity.model
        self._events = AnswerEvents(call.engine_call, model, version.fingerprint)
        self._upstream: UpstreamCall | None = None
        self._failing: asyncio.TimerHandle | None = None
        self._status = 0
        """The engine's."""
        self._is_events = False
        self._kept: list[bytes] | None = None
        """The answer so far, where it is needed as a whole."""
        self._is_blameless = False
        """Whether it failed by no fault of the version: a deadline of its caller's, or a full queue."""
        self._place = NOT_RECORDED
        """Where it is written down that the engine works on it, see `RunningBodies`."""

    def enter(self) -> None:
        """Let the call wait for its turn."""
        self._exchange.on_abandoned = self._abandon
        self._version.language.slots.enter(self._call.turn, self)

    # What the slots call.

    def begin(self) -> None:
        """Have the engine work on the call."""
        call, language, trace = self._call.engine_call, self._version.language, self._call.trace
        if language.running is not None:
            try:
                self._place = language.running.begin((call.body,))
            except RefusedBody as refusal:
                self._version.tally.dropped("deadly")
                language.slots.leave(self._call.turn)
                self.fail(refusal, 0)
                return
        headers = _REQUEST_HEADERS if trace is None else (*_REQUEST_HEADERS, *trace.headers)
        request = Request("POST", call.endpoint.value, call.body, headers)
        self._upstream = language.upstream.send(request, self)

    def fail(self, failure: Overload, retry_after: int) -> None:
        """Answer a call that is too late or one too many; its turn has been left."""
        self._abort()
        self._is_blameless = not isinstance(failure, DeadlineExceeded) or self._call.turn.timeout < math.inf
        status, text = explain(failure, request_id(self._exchange), self._account.names())
        self._end_badly(status, error_body(status, text), retry_after, has_left=True)

    # What the connection to the engine calls.

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head of the engine's answer."""
        self._status = status
        self._is_events = status == _OK and headers.get(b"content-type", b"").startswith(b"text/event-stream")
        call = self._call
        is_kept = call.kept_body is not None and call.engine_call.endpoint.is_generating
        if not is_kept:
            call.forget_body()
        if is_kept or not (self._is_events and call.engine_call.is_streamed):
            self._kept = []

    def piece(self, data: bytes) -> None:
        """Pass on a piece of the engine's answer."""
        if not self._is_events:
            assert self._kept is not None
            self._kept.append(data)
            return
        try:
            events = self._events.feed(data)
        except UNREADABLE as error:
            self._break_off(f"{_BROKEN_OFF}: {error!r}")
            return
        if self._events.count:
            self._account.note_tokens(self._events.count, is_complete=self._events.is_complete)
        self._account.note_reasons(events)
        if self._kept is not None:
            self._kept.append(events)
        if self._call.engine_call.is_streamed and events:
            exchange = self._exchange
            if not exchange.has_begun:
                if self._events.error is not None:
                    return  # the caller gets it as an answer of its own
                exchange.begin(_OK, self._version.events[self._call.role])
            exchange.send(events)
            if not exchange.is_writable:
                self._pause()

    def end(self) -> None:
        """Complete the answer."""
        try:
            self._end()
        except Exception:
            log.exception("answer.failed", extra=self._version.names)
            if not self._exchange.has_ended:
                self._end_badly(500, error_body(500, _FAILED))

    def _end(self) -> None:
        if not self._is_events:
            self._end_with_document()
        elif self._events.error is not None:
            self._end_badly(*self._events.error)
        elif not self._events.is_complete:
            self.failed("its stream ended too early")
        elif self._call.engine_call.is_streamed:
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
        language = self._version.language
        cause = "" if language.is_alive() else language.failure()
        log.warning("engine.failed", extra={"reason": reason, "cause": cause, **self._version.names})
        text = ENDED if cause else f"{_BROKEN_OFF}: {reason}"
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
            self._account.tokens.input = usage.get("prompt_tokens") or usage.get("total_tokens") or 0
            if "model" in document:
                document["model"] = self._call.engine_call.model or self._version.version.identity.model
                body = orjson.dumps(document)
        self._exchange.respond(_OK, self._version.json[self._call.role], body)
        self._leave(_OK)

    def _end_with_whole(self) -> None:
        """Make one answer of the events."""
        try:
            answer = whole_answer(self._call.engine_call.endpoint, self._kept or (), self._events.usage)
        except UNREADABLE as error:
            self.failed(f"its answer cannot be read: {error!r}")
            return
        self._exchange.respond(_OK, self._version.json[self._call.role], orjson.dumps(answer))
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
            headers = self._version.json[self._call.role]
            if retry_after:
                headers += b"retry-after: %d\r\n" % retry_after
            exchange.respond(status, headers, error)
        self._leave(status, has_left)

    def _leave(self, status: int, has_left: bool = False) -> None:
        """Count the call, offer its answer to the mirror, and let the next one have its turn."""
        self._exchange.on_abandoned = self._exchange.on_writable = None
        self._forget()
        endpoint, usage = self._call.engine_call.endpoint, self._events.usage
        answer = EngineAnswer(endpoint, self._kept or (), usage, self._is_events)
        was_sent = self._upstream is not None
        try:
            self._account.end(status, answer, was_sent=was_sent, is_blameless=self._is_blameless)
        finally:
            self._upstream = None
            if not has_left:
                self._version.language.slots.leave(self._call.turn)

    # On the way.

    def _pause(self) -> None:
        """Take no more from the engine than the caller takes."""
        if self._upstream is not None:
            self._upstream.pause()
            self._exchange.on_writable = self._upstream.resume

    def _abandon(self) -> None:
        """End a call whose caller hung up."""
        self._abort()
        self._forget()
        self._account.hung_up(self._events.usage)
        self._version.language.slots.cancel(self._call.turn)

    def _forget(self) -> None:
        """Erase the call where it was written down, as the engine has survived it."""
        language = self._version.language
        if language.running is not None and language.is_alive():
            language.running.end(self._place)
            self._place = NOT_RECORDED

    def _abort(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        if self._failing is not None:
            self._failing.cancel()
            self._failing = None
