"""What the evidence says of a canary: a verdict for each check, with its numbers and a sentence.

A verdict is one of four, and the four differ. *Failed*: clear evidence that the canary is worse than its
limit. *Successful*: clear evidence that it keeps it. *Inconclusive*: neither yet; no data at all is this,
never a failure and never a pass. *Error*: the measuring is broken, which says nothing of the canary.

Clear means by a sequential test (see `sequential`), which may be made after every call. Over a whole rollout
of an equally good canary, the chance of a false `Failed` is `FALSE_ALARM` at most, shared out evenly over
steps and checks; the chance that a step passes a canary that is over a limit is `MISS` at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from gateway.metrics.counts import MirroredCalls
from gateway.rollout.deciding import Decider
from gateway.rollout.evidence import Durations, Evidence
from gateway.rollout.pair_checks import count_pair_checks, judge_pairs
from gateway.rollout.plan import Agreement, Checks, Metric, Plan
from gateway.rollout.sequential import LogEvidence, Rate, weigh
from gateway.rollout.trial import Trial
from gateway.rollout.verdict import TOO_LITTLE, Outcome, Verdict, decide, duration, percent, times, unknown
from gateway.wording import counted

FALSE_ALARM = 0.01

_ALL = 100
# The index's usual limits are 0.1 and 0.25; below this many answers on a side it is mostly noise.
_MIN_ANSWERS = 100
_EMPTY_COUNT = 0.5


def false_alarm(plan: Plan, is_text: bool) -> float:
    """Return the chance of a false Failed, at most, of one check in one step."""
    return FALSE_ALARM / (len(plan.steps) * max(1, _count(plan.checks, is_text)))


def judge(plan: Plan, step: int, evidence: Evidence, trial: Trial | None = None) -> tuple[Verdict, ...]:
    """Judge the evidence of one step. Which checks are made depends on what the step can show.

    `trial` is the same evidence in independent units; without it, each call is taken for one.
    """
    checks = plan.checks
    # Calls that a header leads to the canary are no evidence: their callers chose it.
    is_live = plan.steps[step].weight > 0
    # With every call at the canary and no step before, there is nothing to compare with.
    is_alone = plan.steps[step].weight == _ALL and not evidence.stable.calls
    is_mirrored = plan.mirror(step, evidence.is_text) > 0 and plan.steps[step].weight < _ALL
    alarm = false_alarm(plan, evidence.is_text)
    decider = Decider(alarm, trial, is_mirrored)
    verdicts = []
    if is_live or is_mirrored:
        verdicts.append(_requests(checks, evidence, is_live))
    if is_live and checks.max_error_rate is not None:
        verdicts.append(_error_rate(checks.max_error_rate, evidence, decider, is_alone))
    if is_live and not is_alone:
        verdicts += _times(checks, evidence, decider)
    if is_mirrored and evidence.pairs is not None:
        verdicts += judge_pairs(checks.answers, evidence.pairs, alarm) if checks.answers else []
    elif is_mirrored and checks.agreement is not None:
        verdicts.append(_agreement(checks.agreement, evidence.mirrored, decider))
    if not evidence.trouble:
        return tuple(verdicts)
    # Evidence of before the measuring broke still counts, where it is clear.
    return tuple(
        verdict
        if verdict.outcome is Outcome.FAILED
        else Verdict(verdict.check, Outcome.ERROR, evidence.trouble, verdict.numbers)
        for verdict in verdicts
    )


def _count(checks: Checks, is_text: bool) -> int:
    """Return how many checks decide by evidence."""
    of_calls = (checks.max_error_rate, checks.max_latency_ratio)
    of_text = (checks.max_first_token_ratio, checks.max_token_time_ratio)
    if not is_text:
        return sum(check is not None for check in (*of_calls, checks.agreement))
    pair_checks = count_pair_checks(checks.answers) if checks.answers else 0
    return sum(limit is not None for limit in (*of_calls, *of_text)) + pair_checks


def _requests(checks: Checks, evidence: Evidence, is_live: bool) -> Verdict:
    calls = evidence.canary.calls if is_live else evidence.mirrored.compared
    verb = "answered" if is_live else "was mirrored"
    outcome = Outcome.SUCCESSFUL if calls >= checks.min_requests else Outcome.INCONCLUSIVE
    message = f"canary {verb} {calls:,} of at least {counted(checks.min_requests, 'call')}"
    numbers = {"canary_calls": calls, "minimum": checks.min_requests}
    pairs = evidence.pairs
    if pairs is not None and pairs.greedy:
        # Told, but not judged: the same weights in another precision answer otherwise.
        greedy = counted(pairs.greedy, "answer")
        message += f"; {pairs.identical:,} of {greedy} without chance word for word the same"
        numbers |= {"greedy": pairs.greedy, "identical": pairs.identical}
    return Verdict("requests", outcome, message, numbers)


def _error_rate(limit: float, evidence: Evidence, decider: Decider, is_alone: bool) -> Verdict:
    canary = Rate(evidence.canary.errors, evidence.canary.calls)
    stable = Rate(evidence.stable.errors, evidence.stable.calls)
    log_evidence = weigh(canary, limit) if is_alone else decider.weigh_errors(evidence, limit)
    numbers = {
        "canary_calls": canary.trials,
        "canary_errors": canary.hits,
        "stable_calls": stable.trials,
        "stable_errors": stable.hits,
        "limit": limit,
    }
    if not canary.trials:
        return unknown("error_rate", "canary has answered no call yet", numbers)
    fact = f"canary fails {percent(canary.share)} of {counted(canary.trials, 'call')}"
    if is_alone:
        fact = f"{fact} (limit {percent(limit)})"
        return decider.decide("error_rate", fact, log_evidence, numbers)
    if not stable.trials:
        return unknown("error_rate", "stable has answered no call to compare with", numbers)
    fact = f"{fact}, stable {percent(stable.share)} of {stable.trials:,} (limit {percent(limit)} more)"
    return decider.decide("error_rate", fact, log_evidence, numbers)


def _times(checks: Checks, evidence: Evidence, decider: Decider) -> Iterator[Verdict]:
    """Judge how long callers wait; for tokens, only where the model generates text."""
    stable, canary, share = evidence.stable, evidence.canary, checks.latency_quantile
    limit = checks.max_latency_ratio
    if limit is not None:
        yield _slower("latency", "", limit, share, stable.latencies, canary.latencies, decider)
    limit = checks.max_first_token_ratio if evidence.is_text else None
    if limit is not None:
        subject = " to the first token"
        yield _slower("first_token", subject, limit, share, stable.first_tokens, canary.first_tokens, decider)
    limit = checks.max_token_time_ratio if evidence.is_text else None
    if limit is not None:
        subject = " for each further token"
        yield _slower("token_time", subject, limit, share, stable.token_times, canary.token_times, decider)


def _slower(
    check: str,
    subject: str,
    limit: float,
    share: float,
    stable: Durations,
    canary: Durations,
    decider: Decider,
) -> Verdict:
    """Compare shares of slow calls: those that take more than `limit` times the stable version's quantile."""
    if not canary.total or not stable.total:
        role = "stable" if canary.total else "canary"
        return unknown(check, f"{role} has answered no call yet", {"limit": limit})
    base, seconds = stable.quantile(share), canary.quantile(share)
    log_evidence = decider.weigh_slow(check, canary, stable, limit, share)
    numbers = {
        "canary_seconds": seconds,
        "stable_seconds": base,
        "ratio": seconds / base,
        "limit": limit,
        "canary_calls": canary.total,
        "canary_slow_calls": canary.longer_than(limit * base),
        "stable_calls": stable.total,
    }
    fact = (
        f"canary's p{share * 100:g}{subject} is {duration(seconds)} over {counted(canary.total, 'call')}, "
        f"{times(seconds / base)} stable's {duration(base)} (limit {limit:g} times)"
    )
    return decider.decide(check, fact, log_evidence, numbers)


def _agreement(agreement: Agreement, mirrored: MirroredCalls, decider: Decider) -> Verdict:
    if agreement.metric is Metric.PSI:
        return _shift(agreement.max, mirrored, decider.alarm)
    limit = 1 - agreement.min
    differing = Rate(mirrored.compared - mirrored.agreeing, mirrored.compared)
    numbers = {
        "compared": mirrored.compared,
        "agreeing": mirrored.agreeing,
        "failed": mirrored.failed,
        "dropped": mirrored.dropped,
        "limit": limit,
    }
    if not mirrored.compared:
        return unknown("agreement", "no call has been mirrored yet", numbers)
    fact = (
        f"canary disagrees on {percent(differing.share)} of {counted(mirrored.compared, 'mirrored call')} "
        f"(limit {percent(limit)})"
    )
    if mirrored.failed:
        fact += f", {mirrored.failed:,} of which it could not answer"
    # A limit of 0 can be broken, but never be proved to be kept.
    bound = min(max(limit, 1 / (2 * _MIN_ANSWERS)), 1 - 1e-9)
    return decider.decide("agreement", fact, weigh(differing, bound), numbers)


def _shift(limit: float, mirrored: MirroredCalls, alarm: float) -> Verdict:
    """Compare what share of the answers has each label, by the population stability index.

    Failed needs an index over the limit and clear evidence that the shares differ at all. The index of
    equal shares is chi-squared with (labels - 1) degrees over the harmonic size (Yurdakul 2018,
    "Statistical properties of the population stability index"): Successful keeps three deviations.
    """
    stable, canary = sum(mirrored.stable.values()), sum(mirrored.canary.values())
    numbers = {"stable_answers": float(stable), "canary_answers": float(canary), "limit": limit}
    if min(stable, canary) < _MIN_ANSWERS:
        fact = f"{min(stable, canary)} of {_MIN_ANSWERS} mirrored answers compared"
        return unknown("agreement", fact, numbers)
    index = stability_index(mirrored.stable, mirrored.canary)
    labels = len({**mirrored.stable, **mirrored.canary})
    unit = 1 / stable + 1 / canary
    noise = (labels - 1) * unit + 3 * math.sqrt(2 * (labels - 1)) * unit
    numbers |= {"index": index, "labels": labels, "noise": noise}
    fact = (
        f"the distribution of the canary's answers is shifted by {index:.3g} from stable's over "
        f"{canary:,} mirrored calls (population stability index, limit {limit:g})"
    )
    if index > limit:
        return decide("agreement", fact, LogEvidence(_log_difference(mirrored), 0.0), alarm, numbers)
    if index + noise < limit:
        return Verdict("agreement", Outcome.SUCCESSFUL, f"{fact}; it keeps the limit", numbers)
    return unknown("agreement", f"{fact}; {TOO_LITTLE}", numbers)


def stability_index(base: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Return the population stability index: 0 for equal shares. A label that a side lacks counts 0.5."""
    labels = {**base, **other}
    total_base, total_other = sum(base.values()), sum(other.values())
    index: float = 0.0
    for label in labels:
        share_base = float(max(base.get(label, 0), _EMPTY_COUNT)) / total_base
        share_other = float(max(other.get(label, 0), _EMPTY_COUNT)) / total_other
        index += (share_other - share_base) * math.log(share_other / share_base)
    return index


def _log_difference(mirrored: MirroredCalls) -> float:
    """Return the logarithm of the evidence that two samples of labels do not have the same shares."""
    labels = {**mirrored.stable, **mirrored.canary}
    sides = [[side.get(label, 0) for label in labels] for side in (mirrored.stable, mirrored.canary)]
    apart = sum(_log_dirichlet(counts) for counts in sides)
    pooled = [sum(both) for both in zip(*sides, strict=True)]
    total = sum(pooled)
    return float(max(0.0, apart - sum(count * math.log(count / total) for count in pooled if count)))


def _log_dirichlet(counts: list[int]) -> float:
    """Return the log-likelihood of counts under a mixture of all shares (Dirichlet, one half each)."""
    width = len(counts) / 2
    return (
        math.lgamma(width)
        - math.lgamma(width + sum(counts))
        + sum(math.lgamma(0.5 + count) - math.lgamma(0.5) for count in counts)
    )
