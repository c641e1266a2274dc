"""How far a model and its rollout have come, and what a person may do about it. Pure.

A status of a model, as the admin API tells it, is read as an outcome:

    the model, or its rollout         is in force          is over
    --------------------------------  -------------------  -------------------------------------------
    pulling, loading                  not yet              no
    failed                            no                   yes
    ready or asleep, no rollout       yes                  yes
    its rollout: Healthy              unless it was        yes
                                      rolled back
    its rollout: Degraded             no                   yes
    its rollout: Progressing, Paused  not yet              no: one that waits for a person may be promoted,
                                                           and Argo Rollouts waits for it too
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SETTLED = ("ready", "asleep", "failed")
"""The states that a model stays in until something changes."""
_RUNNING = ("Progressing", "Paused")
_PAUSED_FOR_A_PERSON = "CanaryPauseStep"
_ABORTED = "RolloutAborted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far one model is on the way to what the config asks for."""

    is_settled: bool
    """Whether its kit is resolved and loaded, or has failed."""
    is_over: bool
    """Whether it stays so: its rollout has ended too."""
    is_lost: bool
    """Whether what the config asks for is not in force, and will not be by itself."""
    advice: str
    """What a person should know of its rollout; "" where there is nothing to say."""


def outcome(model: dict[str, Any], number_before: int | None = None) -> Outcome:
    """Read the status of a model.

    Args:
        model: the status.
        number_before: the number of its last rollout before the config was applied, if that is known.
    """
    rollout = model["rollout"]
    is_settled = model["state"] in SETTLED
    has_failed = model["state"] == "failed"
    if rollout is None:
        return Outcome(is_settled, is_settled, has_failed, "")
    is_over = has_failed or (is_settled and rollout["phase"] not in _RUNNING)
    is_rolled_back = is_over and not has_failed and _was_rolled_back(rollout)
    text = _advice(model["name"], rollout, number_before)
    if rollout["phase"] == "Healthy" and not is_rolled_back:
        text = ""
    return Outcome(is_settled, is_over, has_failed or is_rolled_back, text and f"{model['name']}: {text}")


def _advice(name: str, rollout: dict[str, Any], number_before: int | None) -> str:
    stable, canary, declared = rollout["stable"], rollout["canary"], rollout["declared"]
    way = f"from {_name(stable, canary)} to {_name(canary, stable)}" if canary else ""
    is_asked_for = declared is None or canary is None or canary["digest"] == declared["digest"]
    kind = "rollout" if is_asked_for else "rollback"
    step = f"step {rollout['step']} of {len(rollout['steps'])}" if rollout["step"] else ""
    again = f"start it again with `kitserve rollout retry {name}`"
    if rollout["phase"] == "Healthy":
        if not _was_rolled_back(rollout):
            return ""
        return f"{_name(declared, stable)} was rolled back, and {_name(stable, declared)} serves; {again}"
    if rollout["phase"] == "Degraded" and canary:
        end = "was aborted" if rollout["reason"] == _ABORTED else f"has failed ({rollout['reason']})"
        return f"the {kind} {way} {end}, and {_name(stable, canary)} serves; {again}"
    if rollout["phase"] == "Progressing":
        has_begun = number_before is None or rollout["number"] != number_before
        progress = "has begun" if has_begun else f"goes on{f' at {step}' if step else ''}"
        return f"a {kind} {way} {progress}: kitserve rollout status {name}"
    if rollout["phase"] == "Paused":
        orders = f"`kitserve rollout promote {name}`, or `kitserve rollout abort {name}`"
        if rollout["reason"] == _PAUSED_FOR_A_PERSON:
            return f"the {kind} {way} waits for a person at {step}: {orders}"
        return (
            f"the {kind} {way} is paused at {step} ({rollout['message']}); "
            f"it goes on if evidence comes, or with {orders}"
        )
    return ""


def _was_rolled_back(rollout: dict[str, Any]) -> bool:
    """Tell whether a rollout that is Healthy ended with another version than the config asks for."""
    declared = rollout["declared"]
    return declared is not None and declared["digest"] != rollout["stable"]["digest"]


def _name(revision: dict[str, Any], other: dict[str, Any]) -> str:
    """Return what people call a revision beside another one: its tag, and the digest where tags are alike."""
    if revision["tag"] != other["tag"]:
        return str(revision["tag"])
    return f"{revision['tag']}@{revision['digest'].removeprefix('sha256:')[:12]}"
