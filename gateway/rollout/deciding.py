"""How a check of one step is decided: Failed by independent units, Successful by all calls.

Bets on units cannot show within a step that a canary keeps a limit of 1 %: that takes hundreds of units. So a
step is passed by the tests of rates (see `sequential`). Where callers stick to a version, these are made on
what cancels out: on pairs, or on failures less by what the same callers failed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.rollout.callers import Callers, Table
from gateway.rollout.evidence import Durations, Evidence
from gateway.rollout.sequential import LogEvidence, Rate, weigh, weigh_difference
from gateway.rollout.trial import Trial
from gateway.rollout.verdict import Outcome, Verdict, decide
from gateway.wording import counted

_UNITS = {"callers": "caller", "worker_seconds": "worker-second", "pairs": "pair"}
"""How people call one unit, by its kind."""


@dataclass(frozen=True, slots=True)
class Decider:
    """Decides checks; `alarm` is the chance of a false Failed, at most, for each.

    Without a trial each call is taken for a unit.
    """

    alarm: float
    trial: Trial | None = None
    is_mirrored: bool = False

    def decide(self, check: str, fact: str, calls: LogEvidence, numbers: Mapping[str, float]) -> Verdict:
        """Return the verdict on a check; `calls` is the evidence of all calls, or of what cancels out."""
        trial = self.trial
        if trial is None:
            return decide(check, fact, calls, self.alarm, numbers)
        if check in trial.calibration.unsteady:
            message = f"{fact}; these calls vary too much to judge by this check"
            return Verdict(check, Outcome.ERROR, message, numbers)
        units = trial.units(check)
        evidence = LogEvidence(trial.evidence(check, self.is_mirrored), calls.below)
        counts = ", ".join(counted(count, _UNITS[unit]) for unit, count in units.items())
        fact = f"{fact}; judged by {counts}" if counts else fact
        return decide(check, fact, evidence, self.alarm, {**numbers, **units})

    def weigh_errors(self, evidence: Evidence, limit: float) -> LogEvidence:
        """Weigh failures against the stable version's."""
        trial = self.trial
        if trial is None or not trial.callers.canary:
            canary = Rate(evidence.canary.errors, evidence.canary.calls)
            stable = Rate(evidence.stable.errors, evidence.stable.calls)
        elif self.is_mirrored and trial.paired.pairs:
            return weigh(Rate(trial.paired.canary_failed, trial.paired.pairs), limit)
        else:
            canary = _failures(trial.callers, trial.callers.canary)
            stable = _failures(trial.callers, trial.callers.stable)
        return weigh_difference(canary, stable, limit, limit)

    def weigh_slow(
        self, check: str, canary: Durations, stable: Durations, limit: float, share: float
    ) -> LogEvidence:
        """Weigh how many durations are longer than `limit` times the stable version's quantile `share`."""
        trial = self.trial
        if trial is not None and check == "latency" and self.is_mirrored and trial.callers.canary:
            paired = trial.paired
            if paired.canary_latencies.total and paired.stable_latencies.total:
                canary, stable = paired.canary_latencies, paired.stable_latencies
        slow = Rate(canary.longer_than(limit * stable.quantile(share)), canary.total)
        return weigh_difference(slow, Rate((1 - share) * stable.total, stable.total), 0.0, 1 - share)


def _failures(callers: Callers, table: Table) -> Rate:
    """Return how many calls of a table failed, beyond what its callers met before."""
    return Rate(callers.failures_beyond_own(table), sum(counts.calls for counts in table.values()))
