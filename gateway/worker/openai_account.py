"""What is noted of a call of the OpenAI API: tokens as they come, and at its end counts, log and records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.codec.openai.answer import Choice, GeneratedAnswer, Usage
from gateway.codec.openai.request import EngineCall
from gateway.codec.openai.whole import choices_of, whole_answer
from gateway.engine.generation import Turn
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tokens import Tokens
from gateway.tracing.call_trace import CallTrace
from gateway.wire.exchange import Exchange
from gateway.worker.generated_log import HUNG_UP, FinishReasons
from gateway.worker.generated_spans import GeneratedCall, record_generated
from gateway.worker.openai_version import RelayedVersion, request_id
from gateway.worker.payload_text import EngineAnswer, openai_call

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""What reading an answer raises that is JSON of another form, or none."""
_OK = 200


@dataclass(slots=True)
class AdmittedCall:
    """A call that has been read and may have its turn at the engine."""

    exchange: Exchange
    role: str
    engine_call: EngineCall
    turn: Turn
    kept_body: bytes | None
    """The body as it came, where the answer may be mirrored or recorded."""
    is_recorded: bool = False
    trace: CallTrace | None = None

    def forget_body(self) -> None:
        """Free what the engine was sent, which may be large."""
        self.engine_call = replace(self.engine_call, body=b"")


class CallAccount:
    """The account of one call; it is closed once, by `end` or by `hung_up`."""

    __slots__ = ("_call", "_first_seconds", "_last", "_reasons", "_version", "tokens")

    def __init__(self, version: RelayedVersion, call: AdmittedCall) -> None:
        self._version = version
        self._call = call
        self.tokens = Tokens()
        self._first_seconds = 0.0
        self._last = 0.0
        """When the last tokens came."""
        self._reasons = version.log.reasons() if call.trace is None else FinishReasons()

    def note_tokens(self, count: int, *, is_complete: bool) -> None:
        """Note when tokens came; of those that came together, each took its share of the time."""
        now, tokens = time.perf_counter(), self.tokens
        if not self._last:
            self._first_seconds = now - self._call.turn.began
            tokens.first.observe(self._first_seconds)
        elif is_complete:
            return  # the last events tell of the answer's end
        else:
            share = (now - self._last) / count
            for _ in range(count):
                tokens.between.observe(share)
        tokens.output += count
        self._last = now

    def note_reasons(self, events: bytes) -> None:
        """Note why the answer ends, where these events say it."""
        if self._reasons is not None:
            self._reasons.feed(events)

    def names(self) -> Mapping[str, str]:
        """Return what the log calls the version, and the trace where there is one."""
        names, trace = self._version.names, self._call.trace
        return names if trace is None else {**names, "trace_id": trace.own.trace_id}

    def end(self, status: int, answer: EngineAnswer, *, was_sent: bool, is_blameless: bool) -> None:
        """Count a call that was answered with `status`, and offer its answer to the mirror.

        Args:
            status: what the caller got.
            answer: what the engine answered.
            was_sent: whether the engine got the call.
            is_blameless: whether it failed by no fault of the version.
        """
        call, turn, tally, role = self._call, self._call.turn, self._version.tally, self._call.role
        seconds = time.perf_counter() - turn.began
        if was_sent:
            compute = max(0.0, seconds - turn.queue_seconds)
            tally.answered(role, status, seconds, turn.queue_seconds, compute, infer=compute)
            self._count_tokens(answer.usage)
        else:
            tally.refused(role, status)
        if turn.is_placed and not is_blameless and role != MIRRORED:
            tally.judged(turn.source, status, seconds, tokens=self.tokens, sticky=turn.sticky)
        self._log(status, seconds)
        mirror = self._version.language.mirror
        if call.kept_body is None:
            return
        if mirror is not None and turn.is_placed and answer.endpoint.is_generating:
            with suppress(*UNREADABLE):
                mirror.offer(self._generated(call.kept_body, status, seconds, answer), call.trace)
        if call.is_recorded:
            self._record(call.kept_body, status, seconds, answer)

    def hung_up(self, usage: Usage) -> None:
        """Count a call whose caller hung up."""
        self._count_tokens(usage)
        self._log(HUNG_UP, time.perf_counter() - self._call.turn.began)

    def _count_tokens(self, usage: Usage) -> None:
        tokens = self.tokens
        if usage.output:
            tokens.input, tokens.cached, tokens.output = usage.input, usage.cached, usage.output
        self._version.tally.generated(self._call.role, tokens)

    def _log(self, status: int, seconds: float) -> None:
        """Write the call into the log and into its trace."""
        call, trace = self._call, self._call.trace
        fields = {"role": call.role, "path": call.engine_call.endpoint.value}
        if trace is not None:
            fields["trace_id"] = trace.own.trace_id
            self._trace(trace, status, seconds)
        times = {
            "queue_seconds": call.turn.queue_seconds,
            "first_token_seconds": self._first_seconds,
            "seconds": seconds,
        }
        log = self._version.log
        log.write(request_id(call.exchange), fields, status, self.tokens, times, self._reasons)

    def _trace(self, trace: CallTrace, status: int, seconds: float) -> None:
        call, turn = self._call, self._call.turn
        reasons = () if self._reasons is None else tuple(self._reasons.names())
        ended = GeneratedCall(
            call.engine_call.endpoint,
            call.engine_call.model,
            call.role,
            request_id(call.exchange),
            turn.began,
            turn.queue_seconds,
            seconds,
            call.engine_call.is_streamed,
        )
        model = self._version.version.identity.model
        record_generated(trace, ended, status, self.tokens, self._first_seconds, reasons, model)

    def _generated(
        self, kept_body: bytes, status: int, seconds: float, answer: EngineAnswer
    ) -> GeneratedAnswer:
        """Return the answer as the mirror compares it."""
        call, usage, first = self._call, answer.usage, self._first_seconds
        choices: tuple[Choice, ...] = ()
        if status == _OK:
            choices = choices_of(answer.endpoint, whole_answer(answer.endpoint, answer.pieces, usage))
        path, sent = answer.endpoint.value, call.engine_call.body
        return GeneratedAnswer(path, call.role, kept_body, sent, status, choices, usage, first, seconds)

    def _record(self, request: bytes, status: int, seconds: float, answer: EngineAnswer) -> None:
        """Have the call in the payload log."""
        sampler = self._version.version.payloads.sampler
        if sampler is not None:
            headers = self._call.exchange.headers
            sampler.offer(openai_call(headers, self._call.role, status, seconds, request, answer))
