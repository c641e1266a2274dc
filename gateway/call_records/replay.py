"""Judges records of calls as a rollout's first step does, by the same tests, looked at as often.

Calls before the canary's first one are history: how the stable version's calls vary when nothing is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.metrics.evidence import CallerShares
from gateway.rollout.analysis import false_alarm, judge
from gateway.rollout.evidence import Evidence
from gateway.rollout.history import Recent
from gateway.rollout.plan import Plan
from gateway.rollout.records import CallRecord, Fold, Role
from gateway.rollout.trial import Trial, begin_trial, observe
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
        self._plan = plan
        self._hold = math.inf if first.pause else first.hold
        self._is_sticky = plan.sticky is not None
        self._evidence = Evidence()
        self._trial: Trial | None = None
        self._fold, self._recent = Fold(), Recent()
        self._shares: dict[tuple[Role, str], CallerShares] = {}
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
            if record.time >= self._due and self._is_over_at(record.time):
                break
            self._add(record)
        else:
            if self._first is not None:
                self._is_over_at(self._due)
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
            self._begin = record.time if self._begin is None else self._begin
        self._calls[record.version.value] += 1
        if not record.is_evidence or not self._has_share(record):
            self._not_counted += 1
            return
        self._fold.add(record if self._is_sticky else replace(record, caller=None))

    def _has_share(self, record: CallRecord) -> bool:
        """Tell whether a call counts, as its worker would: of one caller no more than of all others."""
        if record.caller is None:
            return True
        key = (record.version, record.worker)
        if key not in self._shares:
            self._shares[key] = CallerShares()
        return bool(self._shares[key].take(record.caller.encode(), record.time))

    def _is_over_at(self, time: float) -> bool:
        """Look at what has been over since the last look; tell whether the outcome is final."""
        now, self._due = self._due, math.floor(time / TICK_SECONDS) * TICK_SECONDS + TICK_SECONDS
        if now == -math.inf:
            return False
        evidence, units = self._fold.take(now)
        history = self._recent.history()
        self._recent.add(units.stable, units.stable_callers)
        if self._begin is None:
            return False
        self._evidence += evidence
        trial = self._trial
        if trial is None:
            trial = begin_trial(self._plan, 0, False, history, {}, false_alarm(self._plan, False))
        self._trial = observe(trial, self._plan, self._evidence, units)
        verdicts = judge(self._plan, 0, self._evidence, self._trial)
        self._passed = now - math.floor(self._begin)
        self._note(verdicts)
        return self._outcome is Outcome.FAILED or (
            self._outcome is Outcome.SUCCESSFUL and self._passed >= self._hold
        )

    def _note(self, verdicts: tuple[Verdict, ...]) -> None:
        """Keep the verdicts, and when the outcome and each of them became what they are."""
        outcome, passed = overall(verdicts), self._passed
        if outcome is not self._outcome:
            self._outcome, self._since = outcome, passed
        before = {finding.verdict.check: finding for finding in self._findings}
        self._findings = tuple(
            replace(before[verdict.check], verdict=verdict)
            if verdict.check in before and before[verdict.check].verdict.outcome is verdict.outcome
            else Finding(verdict, passed)
            for verdict in verdicts
        )
