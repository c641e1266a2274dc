"""The verdict on one check of the canary, and how clear evidence makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.rollout.sequential import LogEvidence, p_value

MISS = 0.01
"""The chance, at most, that a step passes a canary that is over a limit."""

TOO_LITTLE = "too little evidence yet: it takes more calls"
"""What is said of a check that is neither Failed nor Successful by what it has seen."""


class Outcome(StrEnum):
    """How a check ends; the words are Argo Rollouts'."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check's outcome, with its numbers and a sentence for people."""

    check: str
    outcome: Outcome
    message: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def overall(verdicts: tuple[Verdict, ...]) -> Outcome:
    """Return the outcome of all checks together: the worst; no check at all is Successful."""
    outcomes = {verdict.outcome for verdict in verdicts}
    for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.SUCCESSFUL


def decide(
    check: str, fact: str, evidence: LogEvidence, alarm: float, numbers: Mapping[str, float]
) -> Verdict:
    """Return the verdict of a sequential test; `alarm` is the chance of a false Failed, at most."""
    above, below = p_value(evidence.above), p_value(evidence.below)
    numbers = {**numbers, "p_worse": above, "p_within": below, "alarm": alarm}
    if above <= alarm:
        return Verdict(check, Outcome.FAILED, f"{fact}; p {_p(above)}", numbers)
    if below <= MISS:
        return Verdict(check, Outcome.SUCCESSFUL, f"{fact}; it keeps the limit, p {_p(below)}", numbers)
    return unknown(check, f"{fact}; {TOO_LITTLE}", numbers)


def unknown(check: str, message: str, numbers: Mapping[str, float]) -> Verdict:
    """Return the verdict on too little evidence."""
    return Verdict(check, Outcome.INCONCLUSIVE, message, numbers)


def percent(share: float) -> str:
    """Write a share for people."""
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"


def duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"


def times(ratio: float) -> str:
    """Write how many times as large something is, for people."""
    return f"{ratio:.2g} times" if ratio < 10 else f"{ratio:,.0f} times"


def _p(value: float) -> str:
    return f"= {value:.2g}" if value > 1e-6 else "< 1e-6"
