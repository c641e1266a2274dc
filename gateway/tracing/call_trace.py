"""A call that is traced, in a worker: its place in the trace, and the spans of its way through the worker.

Which calls are traced, the edge has decided: it writes the `traceparent` of each, see `edge/tracing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from gateway.tracing.recorder import SpanRecorder
from gateway.tracing.span import NO_ATTRIBUTES, Span, SpanName, Value, new_span_id
from gateway.wire.headers import TRACED, TRACEPARENT, TRACESTATE

ROLE = "kitserve.role"
"""The attribute that each span of a call has."""
_LENGTH = 55
_SAMPLED = b"-01"
_NANOSECONDS = 1_000_000_000
_NO_STATE = b""


class CallTrace:
    """One traced call. Times are of `time.perf_counter`, in seconds."""

    __slots__ = (
        "_edge_began",
        "_is_mirrored",
        "_recorder",
        "_shift",
        "_state",
        "attributes",
        "batch",
        "own",
        "parent_id",
    )

    def __init__(
        self,
        recorder: SpanRecorder,
        trace_id: str,
        parent_id: str,
        edge_began: int,
        state: bytes,
        is_mirrored: bool,
    ) -> None:
        self._recorder = recorder
        self._edge_began = edge_began
        self._state = state
        self._is_mirrored = is_mirrored
        self._shift = time.time_ns() - time.perf_counter_ns()
        self.own = SpanName(trace_id, new_span_id())
        """The span of the worker's whole work on the call."""
        self.parent_id = parent_id
        self.attributes: dict[str, Value] = {}
        """What is known of the call before it ends, for its own span."""
        self.batch: SpanName | None = None
        """The span of the batch that it was in."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What tells others that they work for this call."""
        parent = f"00-{self.own.trace_id}-{self.own.span_id}-01".encode()
        state = [(TRACESTATE, self._state)] if self._state else []
        return [(TRACEPARENT, parent), *state]

    def part(
        self,
        name: str,
        start: float,
        end: float,
        attributes: Mapping[str, Value] = NO_ATTRIBUTES,
        links: Sequence[SpanName] = (),
    ) -> Span:
        """Return the span of a part of the work on the call."""
        own = SpanName(self.own.trace_id, new_span_id())
        begin = self._nanoseconds(start)
        return Span(
            name, own, self.own.span_id, begin, max(begin, self._nanoseconds(end)), attributes, tuple(links)
        )

    def end(
        self,
        name: str,
        began: float,
        attributes: Mapping[str, Value],
        parts: Sequence[Span] = (),
        error: str = "",
    ) -> None:
        """Record the call, which ends now: its own span, its wait at the edge, and its parts."""
        start = self._nanoseconds(began)
        mirrored = {"kitserve.mirrored": True} if self._is_mirrored else {}
        whole = Span(
            name,
            self.own,
            self.parent_id,
            start,
            max(start, self._nanoseconds(time.perf_counter())),
            {**mirrored, **self.attributes, **attributes},
            error=error,
        )
        waited = []
        if self._edge_began:
            # Clocks of two nodes differ.
            own = SpanName(self.own.trace_id, new_span_id())
            role = {name: attributes[name] for name in (ROLE,) if name in attributes}
            waited = [Span("edge wait", own, self.parent_id, min(self._edge_began, start), start, role)]
        self._recorder.add([whole, *waited, *parts])

    def record(self, span: Span) -> None:
        """Record a span besides, such as a batch's."""
        self._recorder.add([span])

    def _nanoseconds(self, moment: float) -> int:
        """Return a moment of `time.perf_counter` as nanoseconds since 1970."""
        return int(moment * _NANOSECONDS) + self._shift

    def forget_edge(self) -> None:
        """Leave out the wait at the edge: another call of the same stream has it."""
        self._edge_began = 0


class Tracer:
    """Finds the traced ones among a worker's calls, and keeps their spans until they are reported."""

    def __init__(self) -> None:
        self.recorder = SpanRecorder()

    def of(self, headers: Mapping[bytes, bytes], *, is_mirrored: bool = False) -> CallTrace | None:
        """Return the trace of a call by its headers; None where it is not traced."""
        parent = headers.get(TRACEPARENT)
        if parent is None or not parent.endswith(_SAMPLED) or len(parent) != _LENGTH:
            return None
        _, trace_id, parent_id, _ = parent.decode("latin-1").split("-")
        began = headers.get(TRACED, b"").partition(b"-")[0]
        state = headers.get(TRACESTATE, _NO_STATE)
        edge_began = int(began) * 1000 if began.isdigit() else 0
        return CallTrace(self.recorder, trace_id, parent_id, edge_began, state, is_mirrored)
