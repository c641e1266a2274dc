"""A version's half of the payload log: a share of its calls, chosen at random, becomes records.

A call that is picked is noted on the server's loop, once its caller has the answer. In another thread its
bodies are read, what is never to be recorded is taken out, and a line is made of the rest. Lines wait here
until the worker brings them to the gateway (see `payload_delivery`). All of it is bounded, in memory and in
calls per second, and what does not fit is dropped and counted: no call waits for its record.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections import deque
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
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 8 * 1024 * 1024
_MAX_LINES_BYTES = 4 * 1024 * 1024
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
    """Picks calls and makes records of them by rules that do not change; `store` gets the lines."""

    def __init__(self, rules: PayloadRules, store: PayloadStore) -> None:
        self.rules = rules
        self._share = rules.sample
        self._redactions = {side: rules.redactions(side) for side in Side}
        self._store = store
        self._lock = threading.Lock()
        self._waiting: deque[tuple[SampledCall, float]] = deque()
        self._waiting_bytes = 0
        self._is_busy = False
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
        if not self._is_in_pace() or not self._has_entered(call):
            self._store.drop()
            return
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().run_in_executor(None, self._write_waiting)

    def _is_in_pace(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        return self._in_second <= MAX_PER_SECOND

    def _has_entered(self, call: SampledCall) -> bool:
        with self._lock:
            is_full = self._waiting_bytes + call.size > _MAX_WAITING_BYTES
            if len(self._waiting) >= _MAX_WAITING or is_full:
                return False
            self._waiting.append((call, time.time()))
            self._waiting_bytes += call.size
        return True

    def _write_waiting(self) -> None:
        """Make lines of all calls that wait; in a thread of its own."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_busy = False
                    return
                call, moment = self._waiting.popleft()
                self._waiting_bytes -= call.size
            try:
                self._store.add(self._line(call, moment))
            except Exception as error:
                # It must not end the thread: others wait. The text of an error may quote a body.
                log.warning("payload.failed", extra={"reason": type(error).__name__})
                self._store.drop()

    def _line(self, call: SampledCall, moment: float) -> bytes:
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


class PayloadStore:
    """The lines that wait for the gateway; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._dropped = 0

    def add(self, line: bytes) -> None:
        """Keep a line, if there is room."""
        with self._lock:
            if self._bytes + len(line) > _MAX_LINES_BYTES and self._lines:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)

    def drop(self, count: int = 1) -> None:
        """Count calls whose records are lost."""
        with self._lock:
            self._dropped += count

    def take(self) -> tuple[tuple[bytes, ...], int]:
        """Take the lines out, and how many calls were lost since the last time."""
        with self._lock:
            lines, dropped = tuple(self._lines), self._dropped
            self._lines, self._bytes, self._dropped = [], 0, 0
        return lines, dropped


class Payloads:
    """What all protocols of a version have together of the payload log."""

    def __init__(self) -> None:
        self.sampler: PayloadSampler | None = None
        """Picks calls to be recorded; None where none are."""
        self._store = PayloadStore()

    def set_rules(self, rules: PayloadRules | None) -> None:
        """Record calls by these rules from now on, or none; may be called from any thread."""
        if rules != (None if self.sampler is None else self.sampler.rules):
            self.sampler = None if rules is None else PayloadSampler(rules, self._store)

    def take(self) -> tuple[tuple[bytes, ...], int]:
        """Take the lines that wait, and how many calls were lost; from any thread."""
        return self._store.take()

    def drop(self, count: int) -> None:
        """Count records that did not reach the gateway."""
        self._store.drop(count)


def _refuse_large(size: int, limit: int) -> NoReturn:
    raise Omitted(f"too large: {size:,} bytes, and max_body is {limit:,}")


def _text(value: bytes) -> str:
    return value.decode("latin-1")[:_TEXT_LENGTH]


def _trace_id(traceparent: bytes) -> str:
    """Return the trace's id in a header `traceparent` (W3C Trace Context), "" where there is none."""
    match = _TRACE.fullmatch(traceparent)
    return match[1].decode() if match else ""
