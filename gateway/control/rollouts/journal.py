"""Rollouts as they are kept: each state is saved with what happened to it, before anything acts by it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from gateway.control.state.database import State
from gateway.control.state.rollout_status import RolloutEvent, event_from_json, event_to_json
from gateway.rollout.documents import rollout_from_json, rollout_to_json
from gateway.rollout.events import Changed
from gateway.rollout.state import LIVE, Rollout

_SAVE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Journal:
    """The rollouts and their history in the gateway's database.

    `announce` is called with each event, once it is saved.
    """

    def __init__(
        self, state: State, announce: Callable[[RolloutEvent], None], clock: Callable[[], float]
    ) -> None:
        self._state = state
        self._announce = announce
        self._clock = clock
        self._saved_at: dict[str, float] = {}

    def load(self) -> Mapping[str, Rollout]:
        """Return every model's rollout as it was saved last."""
        return {model: rollout_from_json(document) for model, document in self._state.rollouts().items()}

    def save(
        self, model: str, before: Rollout | None, after: Rollout, changes: Sequence[Changed] = ()
    ) -> tuple[RolloutEvent, ...]:
        """Save a rollout if there is something new in it; return what happened to it.

        Of a rollout that takes calls, time and evidence alone are saved now and then.

        Raises:
            StoreError: when it cannot be saved; it must not be acted on then.
        """
        now = self._clock()
        is_due = after.stage in LIVE and now - self._saved_at.get(model, float("-inf")) > _SAVE_SECONDS
        if not changes and not is_due and before is not None and _timeless(after) == _timeless(before):
            return ()
        events = tuple(_event(model, after, change) for change in changes)
        self._state.save_rollout(model, rollout_to_json(after), [event_to_json(event) for event in events])
        self._saved_at[model] = now
        return events

    def announce(self, events: Sequence[RolloutEvent]) -> None:
        """Log events that are saved, and announce them."""
        for event in events:
            log_event(event)
            self._announce(event)

    def drop(self, model: str) -> None:
        """Forget a model's rollout, but not its history."""
        self._state.drop_rollout(model)

    def history(self, model: str) -> list[RolloutEvent]:
        """Return what happened to a model's rollouts, the latest first."""
        return [event_from_json(document) for document in self._state.rollout_events(model)]


def log_event(event: RolloutEvent) -> None:
    """Write an event to the log."""
    log.info("rollout.changed", extra=_log_fields(event))


def _event(model: str, rollout: Rollout, change: Changed) -> RolloutEvent:
    return RolloutEvent(
        time=time.time(),
        model=model,
        number=rollout.number,
        phase=rollout.phase.value,
        reason=change.reason.value,
        message=change.message,
        stable=rollout.stable,
        canary=rollout.canary,
        weight=rollout.weight,
        verdicts=rollout.verdicts,
    )


def _log_fields(event: RolloutEvent) -> dict[str, object]:
    """The fields of an event in the log, which has a time and a message of its own."""
    fields = asdict(event)
    del fields["time"]
    fields["text"] = fields.pop("message")
    return fields


def _timeless(rollout: Rollout) -> Rollout:
    """A rollout without what each tick changes."""
    return replace(rollout, clock=0.0, held=0.0, down=0.0)
