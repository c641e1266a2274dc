"""All models' rollouts as they run: the driver of the rollout machine.

At each tick of the loop, the config and what is observed become events (see `observation`). People's orders
come in between, from the admin API. Every state is saved before anything acts by it (see `journal`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.contract import Announcement, AppName, Description, Mirroring
from gateway.control.rollouts.collection import EvidenceCollection
from gateway.control.rollouts.golden_gate import GoldenGate
from gateway.control.rollouts.journal import Journal
from gateway.control.rollouts.mirroring import mirroring_by_app
from gateway.control.rollouts.observation import Observation, Observer, config_events, first_rollout
from gateway.control.rollouts.orders import Order, earlier_revision
from gateway.control.rollouts.swaps import Swaps
from gateway.control.state.database import State
from gateway.control.state.desired import DesiredModel
from gateway.control.state.rollout_status import RolloutEvent
from gateway.control.state.snapshot import Observed, Recorded
from gateway.errors import ControlError
from gateway.oci.pinned import PinnedReference
from gateway.rollout.events import Action, Changed, Event, Refused, Resumed, Retry, Rollback
from gateway.rollout.machine import advance
from gateway.rollout.plan import Plan
from gateway.rollout.state import Rollout


class Rollouts:
    """All models' rollouts; safe to use from several threads.

    Args:
        state: the gateway's database.
        describe: gives what a version's model takes and gives, None while nobody knows.
        golden: runs the golden datasets' gates.
        announce: called with each event, once it is saved.
        is_new_start: whether Kitserve itself was started, not the gateway alone: then no worker of before is
            left.
        clock: a monotonic clock, in seconds.
        collection: what the workers tell, where they have told it before.
    """

    def __init__(
        self,
        state: State,
        describe: Callable[[AppName], Description | None],
        golden: GoldenGate,
        announce: Callable[[RolloutEvent], None],
        is_new_start: bool,
        clock: Callable[[], float] = time.monotonic,
        collection: EvidenceCollection | None = None,
    ) -> None:
        self._state = state
        self._collection = collection or EvidenceCollection()
        self._observer = Observer(describe, golden, self._collection.history)
        self._journal = Journal(state, announce, clock)
        self.swaps = Swaps(state, announce)
        """What happens to models that have `surge: 0`, and so no rollout; for the loop alone."""
        self._clock = clock
        self._lock = threading.Lock()
        self._mirroring: Mapping[AppName, Mirroring] = {}
        self._unwatched: frozenset[AppName] = frozenset()
        self._rollouts: dict[str, Rollout] = {}
        for model, saved in self._journal.load().items():
            rollout, _ = advance(saved, Resumed(is_new_start), clock())
            if is_new_start:
                # Now: should the gateway die before its first tick, the next one is no new start.
                self._journal.save(model, saved, rollout)
            self._rollouts[model] = rollout

    def tick(self, recorded: Recorded, observed: Observed, late: frozenset[AppName]) -> Mapping[str, Rollout]:
        """Bring all rollouts up to what is observed; return those of the models that have one.

        `late` are the apps of which a worker's report is overdue.
        """
        with self._lock:
            planned = _planned(recorded)
            watched = _models(planned, recorded)
            self._unwatched = frozenset(recorded.versions.keys() - watched.keys())
            activity = self._collection.look(observed.workers, watched)
            for name in self._rollouts.keys() - planned.keys():
                del self._rollouts[name]
                self._journal.drop(name)
            for name, (model, plan) in planned.items():
                if name not in self._rollouts and not self._start(model, plan, recorded):
                    continue
                recorded = replace(recorded, rollouts=dict(self._rollouts))
                for event in config_events(model, plan, self._rollouts[name], recorded):
                    self._advance(name, event)
                recorded = replace(recorded, rollouts=dict(self._rollouts))
                observation = Observation(recorded, observed, activity, late)
                for event in self._observer.events(model, self._rollouts[name], observation):
                    self._advance(name, event)
            self._mirroring = mirroring_by_app(self._rollouts, recorded, observed)
            return {name: self._rollouts[name] for name in planned if name in self._rollouts}

    def hear(self, announcement: Announcement) -> int:
        """Take the evidence in a worker's report; return up to which window all of it is here."""
        return self._collection.hear(announcement)

    def mirroring(self, app: AppName) -> Mirroring | None:
        """Return which of an app's calls are to be mirrored, and where."""
        return self._mirroring.get(app)

    def is_unwatched(self, app: AppName) -> bool:
        """Tell whether an app is known, and is compared with no other."""
        return app in self._unwatched

    def order(self, model: str, order: Order) -> Rollout:
        """Do what a person orders.

        Raises:
            ControlError: when it makes no sense now; nothing has changed then.
        """
        with self._lock:
            rollout = self._rollouts.get(model)
            if rollout is None:
                raise ControlError(f"model {model} has no rollout: give it `rollout:` in the config")
            if isinstance(order, Retry) and rollout.canary:
                self._state.forgive(model, PinnedReference.parse(rollout.canary))
            if isinstance(order, Rollback):
                order = Rollback(earlier_revision(model, order.revision, rollout, self.history(model)))
            for action in self._advance(model, order):
                if isinstance(action, Refused):
                    raise ControlError(f"model {model}: {action.message}")
            return self._rollouts[model]

    def history(self, model: str) -> list[RolloutEvent]:
        """Return what happened to a model's rollouts, the latest first."""
        return self._journal.history(model)

    def get(self, model: str) -> Rollout | None:
        """Return a model's rollout."""
        with self._lock:
            return self._rollouts.get(model)

    def _start(self, model: DesiredModel, plan: Plan, recorded: Recorded) -> bool:
        """Begin to watch a model of which a version serves already; return whether there is one."""
        # Numbers go on where a model had rollouts before, so that its history tells them apart.
        number = max((event.number for event in self.history(model.name)), default=0)
        rollout = first_rollout(model, plan, recorded, number)
        if rollout is None:
            return False
        rollout = replace(rollout, clock=self._clock())
        self._journal.save(model.name, None, rollout)
        self._rollouts[model.name] = rollout
        return True

    def _advance(self, model: str, event: Event) -> tuple[Action, ...]:
        """Feed one event to the machine; save the new state before anybody sees it."""
        before = self._rollouts[model]
        after, actions = advance(before, event, self._clock())
        changes = [action for action in actions if isinstance(action, Changed)]
        events = self._journal.save(model, before, after, changes)
        self._rollouts[model] = after
        self._journal.announce(events)
        return actions


def _planned(recorded: Recorded) -> dict[str, tuple[DesiredModel, Plan]]:
    """The models that have a rollout, with its plan, by name."""
    return {model.name: (model, model.plan) for model in recorded.desired.models if model.plan is not None}


def _models(planned: Mapping[str, object], recorded: Recorded) -> Mapping[AppName, str]:
    """The models of the apps that are, were or may yet be compared with others."""
    versions = recorded.versions.values()
    return {version.app: version.model for version in versions if version.model in planned}
