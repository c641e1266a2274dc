"""The canary's trial in one step: what is kept of its units, and the evidence against it that they give.

Where each call is placed by chance, units are windows of the canary's workers. Where callers stick to a
version, who happens to be on the canary stays the same, so windows alone prove nothing: callers must differ
and windows too, as a slow spell of a worker makes all its callers wait. What is mirrored is judged as pairs
in either case, as what callers send cancels out: the canary must do worse on the same calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.rollout.blocks import Capital, Spacing, log_mean
from gateway.rollout.calibration import STEADY_OTHERS, Calibration, calibrate
from gateway.rollout.callers import Callers
from gateway.rollout.evidence import Evidence
from gateway.rollout.measures import Share, measures
from gateway.rollout.plan import Plan
from gateway.rollout.units import WARMUP_SECONDS, WINDOW_SECONDS, History, PairCounts, Units, Window

MAX_WORKERS = 16
"""So many workers of the canary have capitals of their own in a step; those beyond are not bet on."""
UNITS = ("callers", "worker_seconds", "pairs")
"""The kinds of units, as the numbers of verdicts call them."""

_BEGIN_SECONDS = 2.0
"""Workers whose first calls are so close to the first of all have begun together."""
_WORKERS_KNOWN = 4 * MAX_WORKERS
"""Of so many workers the beginning is known; those that ended count too."""

Capitals = Mapping[str, Capital]
"""By worker."""


@dataclass(frozen=True, slots=True)
class Trial:
    """All that is kept of a step's units. Capitals are by check, and by worker."""

    calibration: Calibration = field(default_factory=Calibration)
    first: int | None = None
    """The index of the step's first window; None before there is one."""
    last: int = 0
    """The index behind its last one."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """The first window of each of the canary's workers, in this step or one before."""
    live: Mapping[str, Capitals] = field(default_factory=dict)
    """Of the calls that chance placed one by one."""
    bound: Mapping[str, Capitals] = field(default_factory=dict)
    """Of all calls, where callers stick to a version: no evidence but together with the callers."""
    pairs: Mapping[str, Capitals] = field(default_factory=dict)
    callers: Callers = field(default_factory=Callers)
    paired: PairCounts = field(default_factory=PairCounts)
    """All pairs of the step."""

    @property
    def seconds(self) -> float:
        """How long the step has been judged."""
        return 0.0 if self.first is None else (self.last - self.first) * WINDOW_SECONDS

    def evidence(self, check: str, is_mirrored: bool) -> float:
        """Return the logarithm of the evidence that the canary is over a check's limit.

        Sources of windows are averaged. Looks at callers are none of that kind, so with them each source has
        its part of the chance of a false alarm.
        """
        sources = [_log(self.live.get(check, {}))] if check != "agreement" else []
        if is_mirrored:
            sources.append(_log(self.pairs.get(check, {})))
        if not self.callers.canary or check == "agreement":
            return log_mean(sources)
        callers = self.callers.errors if check == "error_rate" else self.callers.latency
        sources.append(min(callers, _log(self.bound.get(check, {}))))
        return max(sources) - math.log(len(sources))

    def units(self, check: str) -> Mapping[str, float]:
        """Return how many units a check was judged by, by the kinds in `UNITS`, as far as there are any."""
        live = sum(capital.counted for capital in self.live.get(check, {}).values())
        pairs = sum(capital.calls for capital in self.pairs.get(check, {}).values())
        callers = 0 if check == "agreement" else len(self.callers.canary)
        counts = (callers, live * WINDOW_SECONDS, pairs)
        return {unit: count for unit, count in zip(UNITS, counts, strict=True) if count}


def begin_trial(
    plan: Plan, step: int, is_text: bool, history: History, workers: Mapping[str, int], alarm: float
) -> Trial:
    """Begin a step; `workers` are those that the trial of the step before has seen."""
    calibration = calibrate(plan.checks, is_text, history, plan.steps[step].hold, alarm)
    return Trial(calibration, workers=workers, callers=Callers(before=history.callers))


def observe(trial: Trial, plan: Plan, evidence: Evidence, units: Units) -> Trial:
    """Return the trial with what became known; `evidence` sums up the step with that included."""
    windows = (*units.stable, *units.canary)
    if not windows:
        return trial
    first = min(window.index for window in windows) if trial.first is None else trial.first
    workers = dict(trial.workers)
    for window in units.canary:
        if window.side.calls and len(workers) < _WORKERS_KNOWN:
            workers.setdefault(window.worker, window.index)
    trial = replace(
        trial,
        first=first,
        last=max(trial.last, *(window.index + 1 for window in windows)),
        workers=workers,
        callers=trial.callers.with_counts(units.stable_callers, units.canary_callers),
        paired=sum((window.pairs for window in windows), trial.paired),
    )
    live = {check: dict(capitals) for check, capitals in trial.live.items()}
    bound = {check: dict(capitals) for check, capitals in trial.bound.items()}
    pairs = {check: dict(capitals) for check, capitals in trial.pairs.items()}
    for check, measure in measures(plan.checks, trial.calibration, evidence, units.stable):
        spacing = trial.calibration.spacings.get(check, STEADY_OTHERS if check == "agreement" else Spacing())
        for window in units.canary:
            is_fresh = _is_fresh(trial, plan, window)
            name = _capital_name(window, is_fresh)
            unbound = window.side if window.unbound is None else window.unbound
            _bet(live, check, name, window.index, spacing, measure.of_calls(unbound, window.index, is_fresh))
            if window.unbound is not None:
                _bet(
                    bound,
                    check,
                    name,
                    window.index,
                    spacing,
                    measure.of_calls(window.side, window.index, is_fresh),
                )
        for window in windows:
            if window.pairs.pairs:
                is_fresh = _is_fresh(trial, plan, window)
                share = measure.of_pairs(window.pairs, window.index, is_fresh)
                _bet(pairs, check, _capital_name(window, is_fresh), window.index, spacing, share)
    checks = plan.checks
    ratio = checks.max_latency_ratio or checks.max_first_token_ratio or checks.max_token_time_ratio
    callers = trial.callers.look(trial.seconds, checks.max_error_rate, ratio)
    return replace(trial, live=live, bound=bound, pairs=pairs, callers=callers)


def _is_fresh(trial: Trial, plan: Plan, window: Window) -> bool:
    """Tell whether the canary's worker has only just begun, so that it is only stopped by gross failure."""
    begin = trial.workers.get(window.worker)
    if begin is None:
        return False
    is_first = begin - min(trial.workers.values()) <= _BEGIN_SECONDS / WINDOW_SECONDS
    # Where the plan does not say. Workers that the step begins with have been tried before.
    usual = 0.0 if is_first else WARMUP_SECONDS
    warmup = usual if plan.warmup is None else plan.warmup
    return (window.index - begin) * WINDOW_SECONDS < warmup


def _capital_name(window: Window, is_fresh: bool) -> str:
    """Return which capital is bet on a window: what is not gross at first must not weigh against it later."""
    return f"{window.worker} at first" if is_fresh else window.worker


def _bet(
    capitals: dict[str, dict[str, Capital]],
    check: str,
    name: str,
    index: int,
    spacing: Spacing,
    share: Share,
) -> None:
    hits, limit, calls = share
    if not calls:
        return
    by_worker = capitals.setdefault(check, {})
    if name in by_worker or len(by_worker) < MAX_WORKERS:
        by_worker[name] = by_worker.get(name, Capital()).bet(spacing, index, hits / calls, limit, calls)


def _log(capitals: Capitals) -> float:
    return log_mean(capital.log for capital in capitals.values())
