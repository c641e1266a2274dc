"""Callers as units: where each stays on one version, chance decides by caller and not by call.

Each caller is compared with itself, as it was before the step (a control variate: Deng, Xu, Kohavi, Walker
2013, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data"). Which
version a caller came to is chance, so any order of callers is as likely as any other, and the mean over the
stable version's callers and the one that is bet on bounds its mean exactly.

A later look sees the same callers again. So looks do not multiply: each begins afresh, at 10, 20, 40, ...
seconds, and the k-th of 20 has a k(k+1)-th part of the chance of a false alarm. The 21st part that is left is
that of a look after 5 seconds, which is for canaries that fail nearly all of their callers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.rollout.blocks import STAKES, log_mean
from gateway.rollout.units import MAX_TRIAL_CALLERS, CallerCounts

FIRST_LOOK_SECONDS = 5.0
MAX_LOOKS = 20
"""Beside the first one; the last is after two months."""
_CONTROL_CALLS = 5
"""A caller with fewer calls before the step is not compared with itself."""
_SLOW_SHARE = 0.05
"""So many callers may always be slow: none need be among the stable version's, and a bound is not 0."""

Table = Mapping[str, CallerCounts]
_Share = Callable[[str, CallerCounts], float]


@dataclass(frozen=True, slots=True)
class Callers:
    """What a step's callers were answered: before the step by the stable version, and in it by each."""

    before: Table = field(default_factory=dict)
    stable: Table = field(default_factory=dict)
    canary: Table = field(default_factory=dict)
    looks: int = 0
    errors: float = 0.0
    """The logarithm of the evidence of the best look, that the canary's callers meet more failures."""
    latency: float = 0.0
    """The same, that they wait longer."""

    def with_counts(self, stable: Table, canary: Table) -> Callers:
        """Return the same with more calls; of callers beyond `MAX_TRIAL_CALLERS`, none count."""
        return replace(self, stable=_added(self.stable, stable), canary=_added(self.canary, canary))

    def look(self, seconds: float, error_limit: float | None, ratio: float | None) -> Callers:
        """Return the same after a look, if one is due `seconds` after the step's begin."""
        looks = self.looks
        is_due = looks <= MAX_LOOKS and seconds >= FIRST_LOOK_SECONDS * 2**looks
        if not is_due or not self.canary or not self.stable:
            return self
        while looks < MAX_LOOKS and seconds >= FIRST_LOOK_SECONDS * 2 ** (looks + 1):
            # Of looks that are due together, one is made.
            looks += 1
        cost = math.log(looks * (looks + 1) if looks else MAX_LOOKS + 1)
        errors, latency = self.errors, self.latency
        if error_limit is not None:
            errors = max(errors, self._evidence(self._failing, error_limit, 0.0) - cost)
        if ratio is not None:
            usual = _mean_log(self.stable)

            def is_slow(caller: str, counts: CallerCounts) -> float:
                control = self._control(caller)
                base = control.log_seconds / control.calls if control else usual
                return float(counts.log_seconds / counts.calls > base + math.log(ratio))

            latency = max(latency, self._evidence(is_slow, 0.0, _SLOW_SHARE) - cost)
        return replace(self, looks=looks + 1, errors=errors, latency=latency)

    def failures_beyond_own(self, table: Table) -> float:
        """Return how many calls of a table failed, each as far as its caller's calls did not fail before."""
        return sum(counts.failures * (1 - self._failed_before(caller)) for caller, counts in table.items())

    def _control(self, caller: str) -> CallerCounts | None:
        control = self.before.get(caller)
        return control if control is not None and control.calls >= _CONTROL_CALLS else None

    def _failed_before(self, caller: str) -> float:
        control = self._control(caller)
        return control.failures / control.calls if control else 0.0

    def _failing(self, caller: str, counts: CallerCounts) -> float:
        return max(0.0, counts.failures / counts.calls - self._failed_before(caller))

    def _evidence(self, share: _Share, margin: float, floor: float) -> float:
        """Return the logarithm of the capital of bets on the canary's callers."""
        others = [share(caller, counts) for caller, counts in self.stable.items()]
        total, size = sum(others), len(others) + 1
        logs = [0.0] * len(STAKES)
        for value in (share(caller, counts) for caller, counts in self.canary.items()):
            ratio = value / max(floor, (total + value) / size + margin)
            for number, stake in enumerate(STAKES):
                logs[number] += math.log1p(stake * (ratio - 1))
        return log_mean(logs)


def _added(table: Table, counts: Table) -> Table:
    if not counts:
        return table
    sums = dict(table)
    for caller, new in counts.items():
        if caller in sums:
            sums[caller] = sums[caller] + new
        elif len(sums) < MAX_TRIAL_CALLERS:
            sums[caller] = new
    return sums


def _mean_log(table: Table) -> float:
    total = sum(table.values(), CallerCounts())
    return total.log_seconds / total.calls
