"""What people may order of rollouts now, and why not: as the machine of rollouts answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gateway.control.rollouts.driver import Rollouts
from gateway.control.rollouts.orders import earlier_revision
from gateway.control.state.rollout_status import revision
from gateway.errors import ControlError
from gateway.rollout.events import Abort, Event, Promote, Refused, Retry, Rollback
from gateway.rollout.machine import advance
from gateway.rollout.state import Rollout


class Orders:
    """Tells of each model's rollout what may be ordered; for one thread."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        # What an answer depends on, and the answer: its history is read from the disk.
        self._answers: dict[str, tuple[tuple[object, ...], Mapping[str, Any]]] = {}

    def of(self, model: str) -> Mapping[str, Any] | None:
        """Return by order why it would be refused, "" where it would not be; None without a rollout.

        `rollback_to` is the revision that a rollback leads to, None where there is none.
        """
        rollout = self._rollouts.get(model)
        if rollout is None:
            self._answers.pop(model, None)
            return None
        sources = _sources(rollout)
        earlier = self._answers.get(model)
        if earlier is None or earlier[0] != sources:
            earlier = self._answers[model] = (sources, self._answer(model, rollout))
        return earlier[1]

    def _answer(self, model: str, rollout: Rollout) -> Mapping[str, Any]:
        previous, refusal = "", ""
        try:
            previous = earlier_revision(model, "", rollout, self._rollouts.history(model))
        except ControlError as error:
            refusal = str(error).removeprefix(f"model {model}: ")
        return {
            "promote": _refusal(rollout, Promote()),
            "promote_all": _refusal(rollout, Promote(full=True)),
            "abort": _refusal(rollout, Abort("")),
            "retry": _refusal(rollout, Retry()),
            "rollback": refusal or _refusal(rollout, Rollback(previous)),
            "rollback_to": asdict(revision(previous)) if previous else None,
        }


def _sources(rollout: Rollout) -> tuple[object, ...]:
    stage, names = rollout.stage, (rollout.stable, rollout.canary, rollout.declared, rollout.previous)
    return stage, rollout.reason, rollout.number, rollout.step, rollout.plan, *names


def _refusal(rollout: Rollout, order: Event) -> str:
    """Return why an order would be refused; "" where it would not be. Nothing is changed."""
    _, actions = advance(rollout, order, rollout.clock)
    return next((action.message for action in actions if isinstance(action, Refused)), "")
