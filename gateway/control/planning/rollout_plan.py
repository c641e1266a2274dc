"""What a config does to a model's rollout, read from its states before and after. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.planning.documents import RolloutPlan
from gateway.oci.pinned import PinnedReference
from gateway.rollout.plan import Metric, Plan
from gateway.rollout.state import Rollout
from gateway.rollout.transitions import describe
from gateway.wording import counted


def rollout_plan(before: Rollout | None, after: Rollout | None) -> RolloutPlan | None:
    """Return what happens to a rollout; None where nothing does, or there is none.

    Args:
        before: as it is; None where the model has no rollout now.
        after: once the config is in force; None where that has none, or no version of the model serves yet.
    """
    running = "" if before is None else before.active_canary
    if after is None:
        if before is None or not running:
            return None
        ends = f"the rollout of {_name(running)} ends, as the config has none: it takes over once it is ready"
        return RolloutPlan(False, ends, _name(before.stable), "", (), (), "")
    canary = after.active_canary
    number = 0 if before is None else before.number
    starts = bool(canary) and (canary != running or after.number != number)
    ends = f"the rollout of {_name(running)} ends" if running and canary != running else ""
    if not starts and not ends and (before is None or before.plan == after.plan or not running):
        return None
    return RolloutPlan(
        starts=starts,
        ends=ends,
        stable=_name(after.stable),
        canary=_name(canary) if canary else "",
        steps=tuple(map(describe, after.plan.steps)),
        checks=tuple(_checks(after.plan)),
        message=after.message if starts or ends else "the rollout under way goes on by the new plan",
    )


def _name(revision: str) -> str:
    pinned = PinnedReference.parse(revision)
    return f"{pinned.label} ({pinned.short})"


def _checks(plan: Plan) -> Iterator[str]:
    """Yield what a canary is judged by, in words."""
    checks = plan.checks
    bounds = ("max_error_rate", "max_latency_ratio", "max_first_token_ratio", "max_token_time_ratio")
    yield from (f"{name} {value:g}" for name in bounds if (value := getattr(checks, name)) is not None)
    if checks.agreement is not None:
        is_psi = checks.agreement.metric is Metric.PSI
        yield f"psi at most {checks.agreement.max:g}" if is_psi else f"agreement {checks.agreement.min:g}"
    if checks.answers is not None:
        yield f"of generated text, faults at most {checks.answers.max_faults:g}"
    yield f"at least {counted(checks.min_requests, 'call')} in each step"
    if plan.golden is not None:
        yield f"golden dataset {plan.golden.dataset}, at least {plan.golden.min:g}"
    if not plan.allow_signature_change:
        yield "the same signature"
