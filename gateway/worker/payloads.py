"""A version's half of the payload log: a share of its calls, chosen at random, becomes records.

A call that is picked is only noted on the server's loop, once its caller has the answer. Each second, when
the worker brings records to the gateway (see `payload_delivery`), another thread reads the bodies, takes out
what is never to be recorded, and makes a line of the rest. All of it is bounded, in memory and in calls per
second, and what does not fit is dropped and counted: no call waits for its record.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

import orjson

from gateway.payloads.record import SCHEMA, Protocol
from gateway.payloads.redaction import CannotRedact, redact_fields, redact_tensors
from gateway.payloads.rules import Keep, PayloadRules, Redaction, Side
from gateway.wire.headers import CALLER
from gateway.worker.payload_bodies import Body, Omitted, TensorBody

MAX_PER_SECOND = 100
"""A worker records at most so many calls a second: to read bodies takes time from the calls."""
_MAX_WAITING = 2 * MAX_PER_SECOND
_MAX_WAITING_BYTES = 8 * 1024 * 1024
_MAX_LINES_BYTES = 8 * 1024 * 1024
_YIELD_SECONDS = 0.0002
_TEXT_LENGTH = 128
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_OK = 200
_FAILED = "the call failed, and an error may quote its request"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampledCall:
    """A call that was answered. Its bodies are read later, and not at all where they are not recorded."""

    headers: Mapping[bytes, bytes]
    protocol: Protocol
    role: str
    status: int
    seconds: float
    request_size: int
    """How many bytes it had; one that is too large is not kept until it is read, nor is such an answer."""
    answer_size: int
    request: Callable[[], Body]
    """Reads the request. Raises Omitted, or whatever reading it raises."""
    answer: Callable[[], Body]
    path: str = ""
    """Of the OpenAI API, where a model generates text."""
    events_size: int = 0
    """How many bytes of events the answer is made of."""

    @property
    def size(self) -> int:
        """How many bytes of bodies are kept until they are read."""
        return self.request_size + self.answer_size + self.events_size


class PayloadSampler:
    """Picks calls and makes records of them by rules that do not change; `queue` is where they wait."""

    def __init__(self, rules: PayloadRules, queue: PayloadQueue) -> None:
        self.rules = rules
        self._share = rules.sample
        self._redactions = {side: rules.redactions(side) for side in Side}
        self._queue = queue
        self._second = 0
        self._in_second = 0

    def is_picked(self) -> bool:
        """Tell whether chance picks a call."""
        return random.random() < self._share  # noqa: S311  a sample is no secret

    def offer(self, call: SampledCall) -> None:
        """Have a call recorded, if there is room; for the server's loop."""
        limit = self.rules.max_body
        if call.request_size > limit:
            call = replace(call, request=partial(_refuse_large, call.request_size, limit), request_size=0)
        if call.answer_size > limit:
            call = replace(call, answer=partial(_refuse_large, call.answer_size, limit), answer_size=0)
        if self._is_in_pace():
            self._queue.enter(call)
        else:
            self._queue.drop(1)

    def _is_in_pace(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        return self._in_second <= MAX_PER_SECOND

    def line(self, call: SampledCall, moment: float) -> bytes:
        """Return the record of a call that was answered at `moment`, in seconds since 1970."""
        headers, omitted, redacted = call.headers, {}, []
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "time": datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds"),
            "request_id": _text(headers.get(b"x-request-id", b"")),
            "protocol": call.protocol,
            "status": call.status,
            "seconds": round(call.seconds, 6),
            "role": call.role,
        }
        if trace := _trace_id(headers.get(b"traceparent", b"")):
            record["trace_id"] = trace
        if key := headers.get(CALLER):
            record["key"] = _text(key)
        if call.path:
            record["path"] = call.path
        reads = {Side.REQUEST: call.request, Side.ANSWER: call.answer}
        if self.rules.keep is Keep.REQUEST:
            del reads[Side.ANSWER]
        for side, read in reads.items():
            try:
                if side is Side.ANSWER and call.status != _OK:
                    raise Omitted(_FAILED)  # noqa: TRY301
                body, rules = self._read(read, self._redactions[side])
            except Omitted as reason:
                omitted[side.value] = str(reason)
            else:
                record[side.value] = body
                redacted += rules
        if redacted:
            record["redacted"] = redacted
        if omitted:
            record["omitted"] = omitted
        return orjson.dumps(record)

    def _read(
        self, read: Callable[[], Body], rules: tuple[Redaction, ...]
    ) -> tuple[orjson.Fragment, list[str]]:
        """Return a body as JSON, without what is not to be in it, and the rules that took something.

        Raises:
            Omitted: when it is left out.
        """
        if any(rule.is_whole for rule in rules):
            raise Omitted("redacted")
        try:
            body = read()
            if isinstance(body, TensorBody):
                redacted = redact_tensors(body.tensors, rules)
                text = orjson.dumps(body.document())
            else:
                redacted = redact_fields(body, rules)
                text = orjson.dumps(body)
        except Omitted:
            raise
        except CannotRedact as error:
            raise Omitted(str(error)) from None
        except Exception as error:
            raise Omitted(f"it cannot be read ({type(error).__name__})") from None
        if len(text) > self.rules.max_body:
            _refuse_large(len(text), self.rules.max_body)
        return orjson.Fragment(text), redacted


class PayloadQueue:
    """The calls that wait to be recorded; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[SampledCall, float]] = []
        self._bytes = 0
        self._dropped = 0

    def enter(self, call: SampledCall) -> None:
        """Have a call wait, if there is room."""
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING or self._bytes + call.size > _MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._waiting.append((call, time.time()))
            self._bytes += call.size

    def drop(self, count: int) -> None:
        """Count calls whose records are lost."""
        with self._lock:
            self._dropped += count

    def take(self) -> tuple[list[tuple[SampledCall, float]], int]:
        """Take the calls out, and how many were lost since the last time."""
        with self._lock:
            waiting, dropped = self._waiting, self._dropped
            self._waiting, self._bytes, self._dropped = [], 0, 0
        return waiting, dropped


class Payloads:
    """What all protocols of a version have together of the payload log."""

    def __init__(self) -> None:
        self.sampler: PayloadSampler | None = None
        """Picks calls to be recorded; None where none are."""
        self._queue = PayloadQueue()

    def set_rules(self, rules: PayloadRules | None) -> None:
        """Record calls by these rules from now on, or none; may be called from any thread."""
        if rules != (None if self.sampler is None else self.sampler.rules):
            self.sampler = None if rules is None else PayloadSampler(rules, self._queue)

    def take(self) -> tuple[list[bytes], int]:
        """Return the records of the calls that wait, and how many calls were lost.

        It takes its time, as the loop is to have the interpreter in between: call it in a thread.
        """
        waiting, dropped = self._queue.take()
        sampler = self.sampler
        if sampler is None:
            return [], 0
        lines: list[bytes] = []
        room = _MAX_LINES_BYTES
        for call, moment in waiting:
            try:
                line = sampler.line(call, moment)
            except Exception as error:
                # The others are to be recorded all the same. The text of an error may quote a body.
                log.warning("payload.failed", extra={"reason": type(error).__name__})
                line = b""
            room -= len(line)
            if line and room >= 0:
                lines.append(line)
            else:
                dropped += 1
            time.sleep(_YIELD_SECONDS)
        return lines, dropped

    def drop(self, count: int) -> None:
        """Count records that did not reach the gateway."""
        self._queue.drop(count)


def _refuse_large(size: int, limit: int) -> NoReturn:
    raise Omitted(f"too large: {size:,} bytes, and max_body is {limit:,}")


def _text(value: bytes) -> str:
    return value.decode("latin-1")[:_TEXT_LENGTH]


def _trace_id(traceparent: bytes) -> str:
    """Return the trace's id in a header `traceparent` (W3C Trace Context), "" where there is none."""
    match = _TRACE.fullmatch(traceparent)
    return match[1].decode() if match else ""
