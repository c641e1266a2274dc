"""The lines of the log about changes: who asked for what, what was there before and after, and the result."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from gateway.control.admin.callers import Caller
from gateway.control.state.desired import Desired
from gateway.foreign_text import foreign_text
from gateway.oci.reference import Digest, Reference

log = logging.getLogger(__name__)

_NAMED = 50
_DONE = "done"


def log_change(caller: Caller, change: str, fields: Mapping[str, Any], refusal: str = "") -> None:
    """Log a change that was made or, with a reason, refused.

    Args:
        caller: who asked for it.
        change: what it is, such as `config` or `rollout abort`.
        fields: what the line has besides.
        refusal: why it was refused.
    """
    level = logging.WARNING if refusal else logging.INFO
    result = f"refused: {foreign_text(refusal)}" if refusal else _DONE
    extra = {"caller": caller.name, "role": caller.role.value, "change": change, **fields, "result": result}
    log.log(level, "admin.changed" if not refusal else "admin.refused", extra=extra)


def config_fields(
    before: Desired, pins: Mapping[Reference, Digest], document: str, after: Desired, new_document: str
) -> dict[str, Any]:
    """Return what the line of a config has: digests of configs and kits, and the policy's fingerprint.

    A kit whose tag is to be resolved yet is there by its reference.

    Args:
        before: what was wanted.
        pins: what its references meant.
        document: the config of before.
        after: what is to be wanted.
        new_document: the new config.
    """
    kits = {model.name: _kits(model.kits, pins) for model in before.models}
    new_kits = {model.name: _kits(model.kits, {}) for model in after.models}
    written = {model.name: model.kits for model in before.models}
    changed = [model.name for model in after.models if written.get(model.name) != model.kits]
    removed = [name for name in kits if name not in new_kits]
    return {
        "config_before": _digest(document),
        "config_after": _digest(new_document),
        "kits_before": {name: kits[name] for name in [*changed, *removed][:_NAMED] if name in kits},
        "kits_after": {name: new_kits[name] for name in changed[:_NAMED]},
        "policy": policy_fingerprint(after),
    }


def policy_fingerprint(desired: Desired) -> str:
    """Return 16 hex digits that are the same where every model is judged by the same policy."""
    policies = sorted(f"{model.name} {model.policy.fingerprint}" for model in desired.models)
    return hashlib.sha256("\n".join(policies).encode()).hexdigest()[:16]


def _kits(references: tuple[Reference, ...], pins: Mapping[Reference, Digest]) -> list[str]:
    return [str(pins.get(reference) or reference.digest or reference) for reference in references]


def _digest(document: str) -> str:
    return f"sha256:{hashlib.sha256(document.encode()).hexdigest()}"
