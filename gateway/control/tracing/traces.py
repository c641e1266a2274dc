"""All spans of this Kitserve: the edge's and the workers' get their version's names here, and go on.

The gateway sends them, as it runs no code of kits, and is the one process that knows what a version is called
and how far its rollout is. Workers may open no connections once they are contained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.contract import Announcement, AppName
from gateway.control.state.status import Status
from gateway.control.state.versions import Version
from gateway.control.tracing.edge_spans import edge_span
from gateway.control.tracing.export import Exporter, SpanQueue
from gateway.control.tracing.receiver import LineReceiver
from gateway.metrics.system import SpanNumbers
from gateway.tracing.span import InvalidSpan, Span, Value

_REMEMBERED = 1024


class Traces:
    """Takes spans from workers' reports, and the edge's lines from a socket at `path`; queues them."""

    def __init__(
        self,
        exporter: Exporter,
        path: Path,
        version_of: Callable[[AppName], Version | None],
        status: Callable[[], Status],
    ) -> None:
        self._queue = SpanQueue(exporter)
        self._receiver = LineReceiver(path, self._take_lines)
        self._version_of = version_of
        self._status = status
        self._dropped: OrderedDict[str, int] = OrderedDict()
        # A call that went through the body router has a line of each of its two frontends, for one span.
        self._ended: OrderedDict[str, None] = OrderedDict()

    def start(self) -> None:
        """Start to take and to send."""
        self._queue.start()
        self._receiver.start()

    def hear(self, announcement: Announcement) -> Announcement:
        """Take the spans out of a worker's report; returns the rest of it."""
        lost = announcement.dropped_spans - self._dropped.get(announcement.worker, 0)
        if lost > 0:
            self._queue.drop(lost)
            self._dropped[announcement.worker] = announcement.dropped_spans
            _trim(self._dropped)
        if not announcement.spans:
            return announcement
        process = [("service.instance.id", announcement.worker)]
        rollout: dict[str, Value] = {}
        version = self._version_of(announcement.app)
        if version is not None:
            process += [
                ("kitserve.model", version.model),
                ("kitserve.version", version.label),
                ("kitserve.digest", str(version.digest)),
            ]
            rollout = self._rollout(version.model)
        of_process = tuple(process)
        self._queue.add(
            span._replace(attributes={**span.attributes, **rollout}, process=of_process)
            for span in announcement.spans
        )
        return replace(announcement, spans=())

    def numbers(self) -> SpanNumbers:
        """Return what became of all spans so far."""
        return self._queue.numbers()

    def stop(self) -> None:
        """Take no more, and send what waits."""
        self._receiver.stop()
        self._queue.stop()

    def _take_lines(self, lines: list[bytes], lost: int) -> None:
        self._queue.drop(lost)
        self._queue.add(self._edge_spans(lines))

    def _edge_spans(self, lines: Iterable[bytes]) -> Iterable[Span]:
        for line in lines:
            with suppress(InvalidSpan):
                span = edge_span(line)
                if span.own.span_id in self._ended:
                    continue
                self._ended[span.own.span_id] = None
                _trim(self._ended)
                rollout = self._rollout(str(span.attributes.get("kitserve.model", "")))
                yield span._replace(attributes={**span.attributes, **rollout}) if rollout else span

    def _rollout(self, model: str) -> dict[str, Value]:
        """Return how far a model's rollout is; nothing where it has none at a step."""
        status = next((status for status in self._status().models if status.name == model), None)
        if status is None or status.rollout is None or not status.rollout.step:
            return {}
        rollout = status.rollout
        return {"kitserve.rollout.step": rollout.step, "kitserve.rollout.weight": rollout.weight}


def _trim(entries: OrderedDict[str, Any]) -> None:
    while len(entries) > _REMEMBERED:
        entries.popitem(last=False)
