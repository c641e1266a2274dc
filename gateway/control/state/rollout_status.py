"""What the admin API tells of rollouts, and what it remembers of them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from gateway.oci.reference import parse_reference
from gateway.rollout.documents import reading
from gateway.rollout.state import LIVE, Rollout
from gateway.rollout.transitions import describe
from gateway.rollout.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Revision:
    """A version in a rollout."""

    tag: str
    digest: str
    reference: str


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """How far a model's rollout is; `step` counts from 1, 0 is before the first. Seconds."""

    phase: str
    reason: str
    message: str
    number: int
    stable: Revision
    canary: Revision | None
    declared: Revision | None
    """What the config asked for last, once its reference was resolved."""
    weight: int
    mirror: float
    step: int
    steps: tuple[str, ...]
    held: float
    hold: float
    """How long the present step lasts at least; 0 where a person ends it, and outside of steps."""
    restarts: int
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """Something that happened to a rollout, at `time` (seconds since 1970), and why."""

    time: float
    model: str
    number: int
    phase: str
    reason: str
    message: str
    stable: str
    canary: str
    weight: int
    verdicts: tuple[Verdict, ...] = ()


_EVENT = TypeAdapter(RolloutEvent)


def rollout_status(rollout: Rollout) -> RolloutStatus:
    """Tell of a rollout."""
    return RolloutStatus(
        phase=rollout.phase.value,
        reason=rollout.reason.value,
        message=rollout.message,
        number=rollout.number,
        stable=revision(rollout.stable),
        canary=revision(rollout.canary) if rollout.canary else None,
        declared=revision(rollout.declared) if rollout.declared else None,
        weight=rollout.weight,
        mirror=rollout.mirror,
        step=rollout.step + 1 if rollout.stage in LIVE else 0,
        steps=tuple(describe(step) for step in rollout.plan.steps),
        held=round(rollout.held, 1),
        hold=rollout.plan.steps[rollout.step].hold if rollout.stage in LIVE else 0.0,
        restarts=rollout.restarts,
        verdicts=rollout.verdicts,
    )


def revision(reference: str) -> Revision:
    """A revision's names."""
    return Revision(parse_reference(reference).label, digest_of(reference), reference)


def digest_of(revision: str) -> str:
    """The digest that a revision's reference is pinned to."""
    return str(parse_reference(revision).digest)


def event_to_json(event: RolloutEvent) -> str:
    """Write an event for the gateway's state."""
    return _EVENT.dump_json(event).decode()


def event_from_json(text: str) -> RolloutEvent:
    """Read what `event_to_json` wrote."""
    with reading("an event of a rollout"):
        return _EVENT.validate_json(text)
