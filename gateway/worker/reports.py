"""What a worker tells the gateway: at each change, else each second, or seldom while nobody calls it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from gateway.contract import Announcement, Description, Instructions, WorkerState
from gateway.metrics.tally import Tally
from gateway.tracing.call_trace import Tracer
from gateway.worker.delivery import Delivery
from gateway.worker.resting import News, Rest

REPORT_SECONDS = 1.0
_GATEWAY_SECONDS = 5.0


class Reports:
    """The reports of one worker; all of it is for one event loop, but `note`.

    Args:
        first: what is known of the worker at its start.
        names: the fields of what is logged.
        tally: what it counts.
        send: gives a report to the gateway, and returns its answer.
        present: returns a report with what is the case now.
        follow: does what the gateway answers to a report.
        rest: when a report may be left out.
    """

    def __init__(
        self,
        first: Announcement,
        names: Mapping[str, object],
        tally: Tally,
        send: Callable[[Announcement], Awaitable[Instructions]],
        present: Callable[[Announcement], Announcement],
        follow: Callable[[Announcement, Instructions], None],
        rest: Rest | None = None,
    ) -> None:
        self.announcement = first
        """What is told next, but for what is the case then."""
        self.description: Description | None = None
        """What the model takes and gives, once it is loaded."""
        self.tracer: Tracer | None = None
        """What has the spans of traced calls."""
        self._changing = threading.Lock()
        self._tally = tally
        self._send = send
        self._present = present
        self._follow = follow
        self._rest = Rest() if rest is None else rest
        self._delivery = Delivery(names)
        self._numbers = itertools.count(1)
        self._told_until = 0
        self._must_describe = False

    @property
    def state(self) -> WorkerState:
        """The state that is told next."""
        return self.announcement.state

    def note(self, **changes: Any) -> None:
        """Change what is told next; from any thread."""
        with self._changing:
            self.announcement = replace(self.announcement, **changes)

    async def run(self) -> None:
        """Tell each second what there is, or seldom, without end."""
        while True:
            await self.tell()
            await asyncio.sleep(REPORT_SECONDS)
            while self._rest.goes_on(self._news()):
                await asyncio.sleep(REPORT_SECONDS)

    async def change(self, state: WorkerState, detail: str = "") -> None:
        """Change the worker's state, and tell it at once."""
        self.note(state=state, detail=detail)
        await self.tell()

    async def tell(self) -> None:
        """Tell the gateway what there is now, and do what it answers."""
        report = replace(
            self._present(self.announcement),
            evidence=self._tally.told_windows(self._told_until),
            description=self.description if self._must_describe else None,
            number=next(self._numbers),
            rest_seconds=self._rest.begin(self._news()),
        )
        if self.tracer is not None:
            recorder = self.tracer.recorder
            report = replace(report, spans=recorder.take(), dropped_spans=recorder.dropped)
        try:
            instructions = await asyncio.wait_for(self._send(report), _GATEWAY_SECONDS)
        except Exception as error:
            # A gateway that is being started again gets the next report.
            self._delivery.failed(error)
            self._rest.allow(False)
            if self.tracer is not None:
                self.tracer.recorder.drop(len(report.spans))
            return
        self._delivery.succeeded()
        self._must_describe = instructions.describe
        self._told_until = instructions.told_until
        # Of a long call, such as a stream of tokens, nothing else changes until it ends.
        is_idle = self.state is WorkerState.READY and not self._tally.ongoing
        self._rest.allow(instructions.may_rest and is_idle and not instructions.describe)
        self._follow(report, instructions)

    def _news(self) -> News:
        """Return what changes with each thing that the gateway is to hear of within a second."""
        return self.announcement, self._tally.ongoing, self._tally.last_call
