"""Swaps: with `surge: 0`, nothing answers between the end of one version and the start of the next.

A swap has no rollout and no trial. What happens in it is told as events, in the model's history and to
webhooks: that the gap began, and that it ended or that the next version failed. Where it failed, the version
before it comes back, and the next one is not tried again until another config is applied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.control.rollouts.journal import log_event
from gateway.control.state.database import AppRoute, State
from gateway.control.state.desired import DesiredModel
from gateway.control.state.rollout_status import RolloutEvent, event_from_json, event_to_json
from gateway.control.state.snapshot import Recorded
from gateway.control.state.versions import Kind, Version
from gateway.oci.pinned import PinnedReference
from gateway.rollout.state import Phase, Reason

_OPEN = (Reason.SWAPPING, Reason.SWAP_FAILED, Reason.SWAPPED_BACK)
"""After these, more is to be told."""
_PATIENT_TRIES = 3
"""How often a version may fail for reasons that may pass, before the one before it comes back."""


class Swaps:
    """The swaps of all models, by the history in the gateway's database.

    `announce` is called with each event, once it is saved.
    """

    def __init__(self, state: State, announce: Callable[[RolloutEvent], None]) -> None:
        self._state = state
        self._announce = announce
        self._last: dict[str, RolloutEvent | None] = {}

    def begin(self, stable: Version, successor: Version) -> None:
        """Tell that a version is about to end so that another one may load.

        Raises:
            StoreError: when that cannot be saved; nothing must end then.
        """
        message = "`surge: 0`: nothing answers until the next version is ready"
        last = self._last_event(stable.model)
        event = RolloutEvent(
            time.time(),
            stable.model,
            last.number + 1 if last is not None else 1,
            Phase.PROGRESSING.value,
            Reason.SWAPPING.value,
            message,
            str(stable.reference),
            str(successor.reference),
            0,
        )
        self._save(event)

    def look(self, recorded: Recorded, routes: Mapping[str, AppRoute]) -> None:
        """Tell of the gaps that have ended, and of those that last as the next version failed."""
        for model in recorded.desired.models:
            if model.surge:
                continue
            last = self._last_event(model.name)
            if last is None or last.reason not in _OPEN:
                continue
            app = routes[model.name].stable if model.name in routes else None
            version = None if app is None else recorded.versions.get(app)
            if version is not None and app not in recorded.condemned:
                self._end(last, version, version.reference.digest == recorded.pins.get(model.kit))
            elif last.reason != Reason.SWAPPED_BACK:
                self._look_for_failure(model, last, recorded)

    def fallbacks(self, recorded: Recorded) -> dict[str, str]:
        """Return the kit that served before, by model, where the kit of the config failed in a swap."""
        return {
            last.model: last.stable
            for model in recorded.desired.models
            if not model.surge
            and (last := self._last_event(model.name)) is not None
            and last.reason in (Reason.SWAP_FAILED, Reason.SWAPPED_BACK)
            and last.stable != last.canary
            and recorded.pins.get(model.kit) == PinnedReference.parse(last.canary).digest
            and _failure(last, recorded)
        }

    def _look_for_failure(self, model: DesiredModel, last: RolloutEvent, recorded: Recorded) -> None:
        """Give up the kit that the config asks for, where it failed and nothing answers."""
        # Before anything answered, a later config may have asked for another one.
        wanted = replace(last, canary=_wanted(model, last, recorded))
        failure = _failure(wanted, recorded)
        if failure is None:
            return
        kind, reason = failure
        if last.reason == Reason.SWAPPING or wanted != last:
            self._give_up(wanted, kind, reason, recorded.desired.generation)
        elif kind in recorded.retries and last.stable != last.canary:
            # Tried again, as it was applied again: that it fails has been told.
            self._state.fail(kind, recorded.desired.generation, reason)

    def _give_up(self, last: RolloutEvent, kind: Kind, reason: str, generation: int) -> None:
        """Have the version before a swap come back, unless it is of the same kit: then its settings fail."""
        message = f"nothing answers until it can be loaded, or another config is applied: {reason}"
        if last.stable != last.canary:
            message = f"the version before it is loaded again: {reason}"
            # A version that is tried again would take the place of the one that is back.
            self._state.fail(kind, generation, reason)
        self._save(_next(last, Phase.DEGRADED, Reason.SWAP_FAILED, message))

    def _end(self, last: RolloutEvent, version: Version, is_wanted: bool) -> None:
        """Tell which version answers; `is_wanted` says whether it is of the kit that the config asks for."""
        if last.reason == Reason.SWAPPED_BACK and not is_wanted:
            return
        is_before = str(version.reference) == last.stable != last.canary
        if last.reason == Reason.SWAP_FAILED and is_before and not is_wanted:
            message = f"the version before it answers again; {last.canary} could not be loaded"
            self._save(_next(last, Phase.DEGRADED, Reason.SWAPPED_BACK, message))
            return
        message = (
            "the version before it answers, as the config asks" if is_before else "the next version answers"
        )
        event = _next(last, Phase.HEALTHY, Reason.COMPLETED, message)
        self._save(replace(event, stable=str(version.reference), canary=""))

    def _last_event(self, model: str) -> RolloutEvent | None:
        if model not in self._last:
            documents = self._state.rollout_events(model)
            self._last[model] = event_from_json(documents[0]) if documents else None
        return self._last[model]

    def _save(self, event: RolloutEvent) -> None:
        self._state.add_rollout_events(event.model, [event_to_json(event)])
        self._last[event.model] = event
        log_event(event)
        self._announce(event)


def _next(last: RolloutEvent, phase: Phase, reason: Reason, message: str) -> RolloutEvent:
    return replace(last, time=time.time(), phase=phase.value, reason=reason.value, message=message)


def _wanted(model: DesiredModel, last: RolloutEvent, recorded: Recorded) -> str:
    """Return the kit that the config asks for, as an event has it: that of the swap where it is the same."""
    digest = recorded.pins.get(model.kit)
    if digest is None or digest == PinnedReference.parse(last.canary).digest:
        return last.canary
    return str(PinnedReference.of(model.kit, digest))


def _failure(last: RolloutEvent, recorded: Recorded) -> tuple[Kind, str] | None:
    """Return the kind of the next version of a swap and why it was given up; None where it was not."""
    digest = PinnedReference.parse(last.canary).digest
    for kind, reason in recorded.failures.items():
        if not isinstance(kind, Kind) or (kind.model, kind.digest) != (last.model, digest):
            continue
        retry = recorded.retries.get(kind)
        if retry is None or retry.tries >= _PATIENT_TRIES:
            return kind, reason
    return None
