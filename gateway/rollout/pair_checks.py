"""The checks of a language model's canary: verdicts on pairs of answers, its own and the stable version's.

Each kind of fault is a check. What counts is by how much more of the mirrored calls the canary's answer alone
has it than the stable version's alone: a call that both answer alike says nothing. The test (see `betting`)
may be made after every pair.

Some faults can only be where something was asked for, a schema say. They fail by the share of those calls, so
that a rare wish counts too; and pass by the share of all calls, as a few wishes would never be enough.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.metrics.pairs import MAX_LOSS, AnswerPairs, FaultyAnswers, Losses
from gateway.rollout.answers import SHAPES, Fault
from gateway.rollout.betting import Signs, Sums, interval, weigh_distance, weigh_mean
from gateway.rollout.plan import AnswerChecks
from gateway.rollout.sequential import LogEvidence
from gateway.rollout.verdict import MISS, Outcome, Verdict, decide, percent, unknown
from gateway.wording import counted

LOSS = "loss"

# What even two samples of one version differ in.
_SHIFTS = (Fault.CUT_OFF, *SHAPES)
_WORDS: Mapping[Fault, str] = {
    Fault.ERROR: "fails",
    Fault.CUT_OFF: "is cut off in",
    Fault.EMPTY: "says nothing in",
    Fault.REPETITION: "repeats itself in",
    Fault.INVALID: "has not the form that was asked for in",
    Fault.TOOL_CALLS: "alone calls functions in",
    Fault.LENGTH: "is much longer in",
}


def count_pair_checks(checks: AnswerChecks) -> int:
    """Return how many checks decide by evidence."""
    return sum(fault not in checks.skip for fault in Fault) + (checks.max_loss is not None)


def judge_pairs(checks: AnswerChecks, pairs: AnswerPairs, alarm: float) -> list[Verdict]:
    """Judge pairs of answers; `alarm` is the chance of a false Failed, at most, for each check.

    What no call has asked for is no check.
    """
    verdicts = []
    for fault in Fault:
        counts = pairs.faults.get(fault, FaultyAnswers())
        is_optional = fault in (Fault.INVALID, Fault.TOOL_CALLS)
        if fault not in checks.skip and (counts.asked or not is_optional):
            verdicts.append(_judge_fault(fault, counts, checks, pairs.pairs, alarm))
    if checks.max_loss is not None:
        verdicts.append(_judge_loss(checks.max_loss, pairs.losses, alarm))
    return [_held_back(verdict, checks.min_pairs, pairs.pairs) for verdict in verdicts]


def _judge_fault(
    fault: Fault, counts: FaultyAnswers, checks: AnswerChecks, pairs: int, alarm: float
) -> Verdict:
    limit = checks.max_shift if fault in _SHIFTS else checks.max_faults
    numbers = {
        "pairs": float(pairs),
        "asked": float(counts.asked),
        "canary_alone": float(counts.canary),
        "stable_alone": float(counts.stable),
        "both": float(counts.both),
        "limit": limit,
    }
    if not pairs:
        return unknown(fault, "no call has been mirrored yet", numbers)
    if not counts.asked:
        return unknown(fault, f"no mirrored call of {pairs:,} has been answered by both versions", numbers)
    asked = Signs(counts.canary, counts.stable, counts.asked)
    every = Signs(counts.canary, counts.stable, pairs)
    weigh = weigh_distance if fault in SHAPES else weigh_mean
    is_kept = (abs(asked.mean) if fault in SHAPES else asked.mean) <= limit
    evidence = LogEvidence(weigh(asked, limit).above, weigh(every, limit).below if is_kept else 0.0)
    fact = (
        f"canary {_WORDS[fault]} {percent((counts.canary + counts.both) / counts.asked)} of "
        f"{counted(counts.asked, 'mirrored call')}, stable "
        f"{percent((counts.stable + counts.both) / counts.asked)} "
        f"(limit {percent(limit)} {'apart' if fault in SHAPES else 'more'})"
    )
    return decide(fault, fact, evidence, alarm, numbers)


def _judge_loss(limit: float, losses: Losses, alarm: float) -> Verdict:
    """Compare how likely the two versions find the stable version's answers.

    A limit that cannot be judged, as an engine gives no scores or others than can be compared, passes nobody.
    """
    if not losses.pairs:
        return unknown(LOSS, "no answer has been scored by both versions yet", {"pairs": 0.0, "limit": limit})
    sums = Sums(losses.pairs, losses.total, losses.squares, MAX_LOSS)
    lower, upper = interval(sums, 2 * MISS)
    numbers = {
        "pairs": float(losses.pairs),
        "nats_per_token": sums.mean,
        "lower": lower,
        "upper": upper,
        "limit": limit,
    }
    fact = (
        f"canary finds stable's answers less likely by {sums.mean:.2g} nats per token over "
        f"{counted(losses.pairs, 'mirrored call')} (between {lower:.2g} and {upper:.2g}, limit {limit:g})"
    )
    return decide(LOSS, fact, weigh_mean(sums, limit), alarm, numbers)


def _held_back(verdict: Verdict, minimum: int, pairs: int) -> Verdict:
    """Return the verdict, but no Successful of too few pairs."""
    if verdict.outcome is not Outcome.SUCCESSFUL or pairs >= minimum:
        return verdict
    message = f"{verdict.message}; it needs {counted(minimum, 'mirrored call')} at least"
    return Verdict(verdict.check, Outcome.INCONCLUSIVE, message, verdict.numbers)
