"""One call of the OpenAI API, from its turn at the engine to the end of its answer.

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
from dataclasses import replace

import orjson

from gateway.codec.openai.answer import Choice, GeneratedAnswer
from gateway.codec.openai.errors import engine_error, error_body
from gateway.codec.openai.events import AnswerEvents
from gateway.codec.openai.request import EngineCall
from gateway.codec.openai.whole import choices_of, whole_answer
from gateway.codec.statuses import explain
from gateway.engine.generation import Turn
from gateway.engine.running_bodies import NOT_RECORDED
from gateway.errors import DeadlineExceeded, Overload, RefusedBody
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tokens import Tokens
from gateway.tracing.call_trace import CallTrace
from gateway.wire.exchange import Exchange
from gateway.wire.sse import DATA, END
from gateway.wire.upstream import Request, UpstreamCall
from gateway.worker.generated_log import HUNG_UP, FinishReasons
from gateway.worker.generated_spans import GeneratedCall, record_generated
from gateway.worker.language import ENDED
from gateway.worker.openai_version import Served, request_id
from gateway.worker.payload_text import EngineAnswer, openai_call

_OK = 200
_REQUEST_HEADERS = ((b"content-type", b"application/json"),)
# A process that is ending closes its connections a moment before it is known to have ended.
_ENDING_SECONDS = 0.1
# What reading an answer raises that is JSON of another form, or none.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
_FAILED = "the worker failed on this call; its log says why"
_BROKEN_OFF = "the engine broke off its answer"

log = logging.getLogger(__name__)


class RelayedCall:
    """One call, see `Turn` and `upstream.Receiver`, by which it gets to the engine and its answer back."""

    __slots__ = (
        "_call",
        "_events",
        "_exchange",
        "_failing",
        "_first_seconds",
        "_is_blameless",
        "_is_events",
        "_is_recorded",
        "_kept",
        "_kept_body",
        "_last",
        "_place",
        "_reasons",
        "_role",
        "_served",
        "_status",
        "_tokens",
        "_trace",
        "_turn",
        "_upstream",
    )

    def __init__(
        self,
        served: Served,
        exchange: Exchange,
        role: str,
        call: EngineCall,
        turn: Turn,
        kept_body: bytes | None,
        is_recorded: bool = False,
        trace: CallTrace | None = None,
    ) -> None:
        self._served = served
        self._exchange = exchange
        self._role = role
        self._call = call
        self._turn = turn
        self._kept_body = kept_body
        """The body as it came, where the answer may be mirrored or recorded."""
        self._is_recorded = is_recorded
        model = call.model or served.version.identity.model
        self._events = AnswerEvents(call, model, served.fingerprint)
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
        self._is_blameless = False
        """Whether it failed by no fault of the version: a deadline of its caller's, or a full queue."""
        self._place = NOT_RECORDED
        """Where it is written down that the engine works on it, see `RunningBodies`."""
        self._trace = trace
        self._reasons = served.log.reasons() if trace is None else FinishReasons()

    def enter(self) -> None:
        """Let the call wait for its turn."""
        self._exchange.on_abandoned = self._abandon
        self._served.language.slots.enter(self._turn, self)

    # What the slots call.

    def begin(self) -> None:
        """Have the engine work on the call."""
        call, language = self._call, self._served.language
        if language.running is not None:
            try:
                self._place = language.running.begin((call.body,))
            except RefusedBody as refusal:
                self._served.tally.dropped("deadly")
                language.slots.leave(self._turn)
                self.fail(refusal, 0)
                return
        headers = _REQUEST_HEADERS if self._trace is None else (*_REQUEST_HEADERS, *self._trace.headers)
        request = Request("POST", call.endpoint.value, call.body, headers)
        self._upstream = language.upstream.send(request, self)

    def fail(self, failure: Overload, retry_after: int) -> None:
        """Answer a call that is too late or one too many; its turn has been left."""
        self._abort()
        self._is_blameless = not isinstance(failure, DeadlineExceeded) or self._turn.timeout < math.inf
        status, text = explain(failure, request_id(self._exchange), self._names())
        self._end_badly(status, error_body(status, text), retry_after, has_left=True)

    # What the connection to the engine calls.

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head of the engine's answer."""
        self._status = status
        self._is_events = status == _OK and headers.get(b"content-type", b"").startswith(b"text/event-stream")
        is_kept = self._kept_body is not None and self._call.endpoint.is_generating
        if not is_kept:
            self._call = replace(self._call, body=b"")  # it may be large, and has been sent
        if is_kept or not (self._is_events and self._call.is_streamed):
            self._kept = []

    def piece(self, data: bytes) -> None:
        """Pass on a piece of the engine's answer."""
        if not self._is_events:
            assert self._kept is not None
            self._kept.append(data)
            return
        try:
            events = self._events.feed(data)
        except _UNREADABLE as error:
            self._break_off(f"{_BROKEN_OFF}: {error!r}")
            return
        if self._events.count:
            self._note_tokens(self._events.count)
        if self._reasons is not None:
            self._reasons.feed(events)
        if self._kept is not None:
            self._kept.append(events)
        if self._call.is_streamed and events:
            exchange = self._exchange
            if not exchange.has_begun:
                if self._events.error is not None:
                    return  # the caller gets it as an answer of its own
                exchange.begin(_OK, self._served.events[self._role])
            exchange.send(events)
            if not exchange.is_writable:
                self._pause()

    def end(self) -> None:
        """Complete the answer."""
        try:
            self._end()
        except Exception:
            log.exception("answer.failed", extra=self._served.names)
            if not self._exchange.has_ended:
                self._end_badly(500, error_body(500, _FAILED))

    def _end(self) -> None:
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
        language = self._served.language
        cause = "" if language.is_alive() else language.failure()
        log.warning("engine.failed", extra={"reason": reason, "cause": cause, **self._served.names})
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
            self._tokens.input = usage.get("prompt_tokens") or usage.get("total_tokens") or 0
            if "model" in document:
                document["model"] = self._call.model or self._served.version.identity.model
                body = orjson.dumps(document)
        self._exchange.respond(_OK, self._served.json[self._role], body)
        self._leave(_OK)

    def _end_with_whole(self) -> None:
        """Make one answer of the events."""
        try:
            answer = whole_answer(self._call.endpoint, self._kept or (), self._events.usage)
        except _UNREADABLE as error:
            self.failed(f"its answer cannot be read: {error!r}")
            return
        self._exchange.respond(_OK, self._served.json[self._role], orjson.dumps(answer))
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
            headers = self._served.json[self._role]
            if retry_after:
                headers += b"retry-after: %d\r\n" % retry_after
            exchange.respond(status, headers, error)
        self._leave(status, has_left)

    def _leave(self, status: int, has_left: bool = False) -> None:
        """Count the call, offer its answer to the mirror, and let the next one have its turn."""
        self._exchange.on_abandoned = self._exchange.on_writable = None
        self._forget()
        try:
            self._account(status)
        finally:
            self._upstream = None
            if not has_left:
                self._served.language.slots.leave(self._turn)

    def _account(self, status: int) -> None:
        turn, tally, role = self._turn, self._served.tally, self._role
        seconds = time.perf_counter() - turn.began
        if self._upstream is None:
            tally.refused(role, status)
        else:
            compute = max(0.0, seconds - turn.queue_seconds)
            tally.answered(role, status, seconds, turn.queue_seconds, compute, infer=compute)
            self._count_tokens()
        if turn.is_placed and not self._is_blameless and role != MIRRORED:
            tally.judged(turn.source, status, seconds, tokens=self._tokens)
        self._log(status, seconds)
        mirror = self._served.language.mirror
        if self._kept_body is None:
            return
        if mirror is not None and turn.is_placed and self._call.endpoint.is_generating:
            with suppress(*_UNREADABLE):
                mirror.offer(self._generated(self._kept_body, status, seconds), self._trace)
        if self._is_recorded:
            self._keep(self._kept_body, status, seconds)

    def _keep(self, request: bytes, status: int, seconds: float) -> None:
        """Have the call recorded."""
        sampler = self._served.version.payloads.sampler
        if sampler is not None:
            endpoint, usage = self._call.endpoint, self._events.usage
            answer = EngineAnswer(endpoint, self._kept or (), usage, self._is_events)
            headers = self._exchange.headers
            sampler.offer(openai_call(headers, self._role, status, seconds, request, answer))

    def _names(self) -> Mapping[str, str]:
        """Return what the log calls the version, and the trace where there is one."""
        names, trace = self._served.names, self._trace
        return names if trace is None else {**names, "trace_id": trace.own.trace_id}

    def _log(self, status: int, seconds: float) -> None:
        """Write the call into the log and into its trace."""
        turn, call = self._turn, {"role": self._role, "path": self._call.endpoint.value}
        if self._trace is not None:
            call["trace_id"] = self._trace.own.trace_id
            self._record(self._trace, status, seconds)
        times = {
            "queue_seconds": turn.queue_seconds,
            "first_token_seconds": self._first_seconds,
            "seconds": seconds,
        }
        self._served.log.write(request_id(self._exchange), call, status, self._tokens, times, self._reasons)

    def _record(self, trace: CallTrace, status: int, seconds: float) -> None:
        turn, reasons = self._turn, () if self._reasons is None else tuple(self._reasons.names())
        ended = GeneratedCall(
            self._call.endpoint,
            self._call.model,
            self._role,
            request_id(self._exchange),
            turn.began,
            turn.queue_seconds,
            seconds,
            self._call.is_streamed,
        )
        model = self._served.version.identity.model
        record_generated(trace, ended, status, self._tokens, self._first_seconds, reasons, model)

    def _generated(self, kept_body: bytes, status: int, seconds: float) -> GeneratedAnswer:
        call = self._call
        usage, first = self._events.usage, self._first_seconds
        choices: tuple[Choice, ...] = ()
        if status == _OK:
            choices = choices_of(call.endpoint, whole_answer(call.endpoint, self._kept or (), usage))
        path, role = call.endpoint.value, self._role
        return GeneratedAnswer(path, role, kept_body, call.body, status, choices, usage, first, seconds)

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
        self._served.tally.generated(self._role, tokens)

    def _pause(self) -> None:
        """Take no more from the engine than the caller takes."""
        if self._upstream is not None:
            self._upstream.pause()
            self._exchange.on_writable = self._upstream.resume

    def _abandon(self) -> None:
        """End a call whose caller hung up."""
        self._abort()
        self._forget()
        self._count_tokens()
        self._log(HUNG_UP, time.perf_counter() - self._turn.began)
        self._served.language.slots.cancel(self._turn)

    def _forget(self) -> None:
        """Erase the call where it was written down, as the engine has survived it."""
        language = self._served.language
        if language.running is not None and language.is_alive():
            language.running.end(self._place)
            self._place = NOT_RECORDED

    def _abort(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        if self._failing is not None:
            self._failing.cancel()
            self._failing = None
