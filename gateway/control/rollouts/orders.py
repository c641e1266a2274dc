"""What a person may order a rollout to do, and which version a person means."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.control.state.rollout_status import RolloutEvent
from gateway.errors import ControlError
from gateway.oci.reference import parse_reference
from gateway.rollout.events import Abort, Promote, Retry, Rollback
from gateway.rollout.state import Rollout

Order = Promote | Abort | Retry | Rollback


def earlier_revision(model: str, name: str, rollout: Rollout, history: Sequence[RolloutEvent]) -> str:
    """Return the earlier revision of a model that a person means.

    Args:
        model: the model's name.
        name: the revision's tag, its digest or the beginning of it; "" for the revision that served before.
        rollout: the model's rollout.
        history: what happened to the model's rollouts, the latest first.

    Raises:
        ControlError: when no version that served has the name, or several have.
    """
    revisions = [rollout.stable, rollout.previous, *(event.stable for event in history)]
    served = {revision: parse_reference(revision) for revision in revisions if revision}
    if not name:
        if len(served) < 2:
            raise ControlError(f"model {model}: no earlier version is known")
        return list(served)[1]
    matches = [
        revision
        for revision, reference in served.items()
        if name in (reference.label, revision) or str(reference.digest).startswith((name, f"sha256:{name}"))
    ]
    if len({served[revision].digest for revision in matches}) == 1:
        return matches[0]
    problem = "no version that served was" if not matches else "several versions that served were"
    names = ", ".join(
        f"{reference.label} ({reference.digest.short})" for reference in served.values() if reference.digest
    )
    raise ControlError(
        f"model {model}: {problem} called {name}; these served: {names}; "
        f"see `kitserve rollout history {model}`"
    )
