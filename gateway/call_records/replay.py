"""Judges records of calls as a rollout's first step does, by the same state machine and tests.

Calls before the canary's first one are history: how the stable version's calls vary when nothing is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.metrics.evidence import CallerShares
from gateway.rollout.analysis import false_alarm
from gateway.rollout.events import CanaryReady, GatesPassed, Target, Tick
from gateway.rollout.history import Recent
from gateway.rollout.machine import advance
from gateway.rollout.plan import Plan
from gateway.rollout.records import CallRecord, Fold, Role
from gateway.rollout.state import Rollout, Stage
from gateway.rollout.trial import begin_trial
from gateway.rollout.verdict import Outcome, Verdict, overall

TICK_SECONDS = 0.5
"""A running Kitserve looks at its evidence so often."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's verdict; `since` is when it became so, in seconds of the step."""

    verdict: Verdict
    since: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rollout's first step would have made of the calls.

    The step begins with the whole second of the canary's first call, whose time is `begin`. `clear_at` is
    when the outcome became so, in seconds of the step; both are None where the canary has no call. `calls`
    are those up to the outcome, by version; of those that came later nothing is told.
    """

    outcome: Outcome
    findings: tuple[Finding, ...]
    clear_at: float | None
    begin: float | None
    seconds: float
    """How long the step lasted, until the outcome was final or there were no more calls."""
    history_seconds: float
    calls: dict[str, int]
    not_counted: int
    """Calls that are no evidence: not placed by chance, wrong (4xx), or one caller's beyond its share."""


class Replay:
    """The first step of a rollout by a plan. Times of records, in seconds, must not go back."""

    def __init__(self, plan: Plan) -> None:
        first = plan.steps[0]
        self._planned = plan
        # The step ends here, where its verdicts can still be seen.
        self._hold = math.inf if first.pause else first.hold
        self._is_sticky = plan.sticky is not None
        self._plan = replace(plan, steps=(replace(first, hold=math.inf, pause=False), *plan.steps[1:]))
        self._state = Rollout(stable="stable", declared="stable", plan=self._plan)
        self._fold, self._recent = Fold(), Recent()
        self._shares: dict[tuple[Role, str], CallerShares] = {}
        self._workers: set[str] = set()
        self._begin: float | None = None
        self._first: float | None = None
        self._due = -math.inf
        self._outcome, self._since, self._passed = Outcome.INCONCLUSIVE, 0.0, 0.0
        self._findings: tuple[Finding, ...] = ()
        self._calls = {role.value: 0 for role in Role}
        self._not_counted = 0

    def judge(self, records: Iterable[CallRecord]) -> Judgement:
        """Take records until the outcome is clear, or there are no more."""
        for record in records:
            if record.time >= self._due and self._look(record.time):
                break
            self._add(record)
        else:
            if self._first is not None:
                self._look(self._due)
        first, begin = self._first, self._begin
        history = 0.0 if first is None or begin is None else begin - first
        return Judgement(
            self._outcome,
            self._findings,
            None if begin is None else self._since,
            begin,
            self._passed,
            history,
            dict(self._calls),
            self._not_counted,
        )

    def _add(self, record: CallRecord) -> None:
        if self._first is None:
            self._first = record.time
        if record.version is Role.CANARY:
            if self._begin is None:
                self._start(record.time)
            self._workers.add(record.worker)
        self._calls[record.version.value] += 1
        if not record.is_evidence or not self._take_share(record):
            self._not_counted += 1
            return
        self._fold.add(record if self._is_sticky else replace(record, caller=None))

    def _take_share(self, record: CallRecord) -> bool:
        """Count a call for its caller; return whether it counts, as its worker would: see `CallerShares`."""
        if record.caller is None:
            return True
        key = (record.version, record.worker)
        if key not in self._shares:
            self._shares[key] = CallerShares()
        return bool(self._shares[key].take(record.caller.encode(), record.time))

    def _start(self, time: float) -> None:
        """Begin the step, with the canary's first call."""
        self._begin = time
        for event in (Target("canary", self._plan), CanaryReady(), GatesPassed()):
            self._state, _ = advance(self._state, event, math.floor(time))

    def _look(self, time: float) -> bool:
        """Look at what has been over since the last look; return whether the outcome is final."""
        now, self._due = self._due, math.floor(time / TICK_SECONDS) * TICK_SECONDS + TICK_SECONDS
        if now == -math.inf:
            return False
        evidence, units = self._fold.take(now)
        history = self._recent.history()
        self._recent.add(units.stable, units.stable_callers)
        if self._begin is None:
            return False
        if self._state.trial is None:
            # By the step's own length, which is not that of the plan that is replayed.
            alarm = false_alarm(self._planned, evidence.is_text)
            trial = begin_trial(self._planned, 0, evidence.is_text, history, {}, alarm)
            self._state = replace(self._state, trial=trial)
        tick = Tick(evidence, workers=tuple(sorted(self._workers)), units=units, history=history)
        self._state, _ = advance(self._state, tick, now)
        self._passed = now - math.floor(self._begin)
        self._note(overall(self._state.verdicts), self._passed)
        if self._state.stage is not Stage.STEPPING:
            return True
        return self._outcome is Outcome.SUCCESSFUL and self._passed >= self._hold

    def _note(self, outcome: Outcome, passed: float) -> None:
        """Keep when the outcome, and each check's, became what it is."""
        if outcome is not self._outcome:
            self._outcome, self._since = outcome, passed
        before = {finding.verdict.check: finding for finding in self._findings}
        self._findings = tuple(
            replace(before[verdict.check], verdict=verdict)
            if verdict.check in before and before[verdict.check].verdict.outcome is verdict.outcome
            else Finding(verdict, passed)
            for verdict in self._state.verdicts
        )
