"""What the page shows, as a document: the status, with what each version is, has and did. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gateway.contract import AppName, Description
from gateway.control.admin.page.recent import Recent, count_calls
from gateway.control.state.status import ModelStatus, Status, VersionStatus
from gateway.control.state.workers import AppNumbers
from gateway.rollout.verdict import MISS


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a document finds what the status does not have."""

    numbers: Mapping[AppName, AppNumbers]
    recent: Callable[[AppName], Recent | None]
    description: Callable[[AppName], Description | None]
    keys: Callable[[str, AppName], tuple[str, ...]]
    """The names of the keys by one of which a version of a model is signed; () where none is asked for."""
    orders: Callable[[str], Mapping[str, Any] | None]
    """What a person may order of a model's rollout, see `Orders`; None where it has none."""


def page_document(status: Status, wanted_generation: int, facts: Facts) -> dict[str, Any]:
    """Return all that the page shows."""
    return {
        "generation": status.generation,
        "wanted_generation": wanted_generation,
        "miss": MISS,
        "edge": status.edge,
        "trouble": status.trouble,
        "models": [_model(model, facts) for model in status.models],
    }


def _model(model: ModelStatus, facts: Facts) -> dict[str, Any]:
    rollout = model.rollout
    if rollout is not None and not rollout.step:
        # It grows for ever, and nobody asks for it: where nothing happens, the document stays the same.
        rollout = replace(rollout, held=0.0)
    return {
        **asdict(replace(model, rollout=rollout)),
        "versions": [_version(model.name, version, facts) for version in model.versions],
        "orders": facts.orders(model.name),
    }


def _version(model: str, version: VersionStatus, facts: Facts) -> dict[str, Any]:
    description = facts.description(version.app)
    numbers = facts.numbers.get(version.app, AppNumbers())
    recent = facts.recent(version.app)
    calls = count_calls(numbers.numbers)
    return {
        **asdict(version),
        "about": "" if description is None else description.about,
        "license": None if description is None else description.license,
        "signed_by": _signer(
            facts.keys(model, version.app), "" if description is None else description.trust
        ),
        "workers": [
            {**asdict(worker), "memory_bytes": numbers.memory_bytes.get(worker.worker, 0)}
            for worker in version.workers
        ],
        "memory_bytes": sum(numbers.memory_bytes.values()),
        "calls": asdict(calls),
        "recent": None if recent is None else asdict(recent),
        "ongoing": numbers.ongoing,
        "queued": numbers.queued,
        "restarts": numbers.restarts,
        "last_call": numbers.numbers.last_call,
    }


def _signer(keys: tuple[str, ...], statement: str) -> str:
    """Return which key signed a version; all that may have, where its worker does not name one of them.

    A worker may run code of the kit, so what it states counts only within what the policy has made sure of.
    """
    signers = [key for key in keys if statement.startswith(f"signed by {key} (")]
    return signers[0] if signers else " or ".join(keys)
