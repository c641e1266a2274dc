"""The plan of a config: its references are resolved, its kits judged, and the next tick is worked out.

Nothing is changed: no state, no route, no worker. Of kits, only documents are fetched, unless models may be
pulled; these stay in the cache, as after `kitserve pull`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gateway.config.changes import model_changes, setting_changes
from gateway.control.loop.resolver import find_kit
from gateway.control.planning.documents import FORMAT, Action, ConfigPlan, PullPlan
from gateway.control.planning.hypothesis import with_config
from gateway.control.planning.memory import memory_plan
from gateway.control.planning.model_plan import ModelPlanner, Planned
from gateway.control.planning.present import Present
from gateway.control.state.desired import Desired
from gateway.control.state.versions import Kind
from gateway.errors import KitserveError, RegistryUnavailable
from gateway.kits.library import Library
from gateway.oci.reference import Digest, Reference

_THREADS = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """The config that is planned."""

    desired: Desired
    document: Mapping[str, Any]
    """As JSON has it, without secrets."""
    faults: tuple[str, ...] = ()
    """Why it cannot run here."""


@dataclass(frozen=True, slots=True)
class _Resolved:
    pins: Mapping[Reference, Digest]
    failures: Mapping[Reference | Kind, str]
    notes: Mapping[Reference, str]


def make_plan(present: Present, wanted: Wanted, library: Library, *, may_pull: bool) -> ConfigPlan:
    """Return what a config would change.

    Args:
        present: what it is compared with.
        wanted: the config.
        library: a preview of the cache in which its kits would be.
        may_pull: whether models are pulled to be looked at.

    Raises:
        KitserveError: where this node's disk fails.
    """
    recorded, desired = present.recorded, wanted.desired
    fields = model_changes(present.document, wanted.document)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="plan") as pool:
        resolved = resolve(present, desired, library, pool)
        hypothesis = with_config(recorded, present.observed, desired, resolved.pins, resolved.failures)
        planner = ModelPlanner(present, hypothesis, library, resolved.notes, may_pull=may_pull)
        planned = list(
            pool.map(lambda model: planner.plan(model, fields.get(model.name, ())), desired.models)
        )
    models = [each.model for each in planned]
    models += [
        planner.removed(model) for model in recorded.desired.models if desired.model(model.name) is None
    ]
    settings = tuple(setting_changes(present.document, wanted.document)) if present.document else ()
    restart = tuple(recorded.desired.fixed.restart_changes(desired.fixed)) if present.document else ()
    pull = _pull_plan(planned, library, desired.cache_limit)
    faults = wanted.faults
    if not pull.is_enough:
        room = pull.disk_free + pull.evictable
        faults += (f"the kits take {pull.bytes} bytes more, and the disk of the cache has room for {room}",)
    return ConfigPlan(
        format=FORMAT,
        against=present.against.value,
        generation=recorded.desired.generation,
        has_changes=bool(settings or restart)
        or any(model.action is not Action.UNCHANGED for model in models),
        is_refused=bool(faults) or any(model.refused for model in models),
        models=tuple(models),
        settings=settings,
        restart=restart,
        faults=faults,
        pull=pull,
        memory=memory_plan(present.observed, models, present.machine),
    )


def resolve(present: Present, desired: Desired, library: Library, pool: ThreadPoolExecutor) -> _Resolved:
    """Ask registries what references mean, as the gateway's resolver does after an apply."""
    pins: dict[Reference, Digest] = {}
    failures: dict[Reference | Kind, str] = {}
    notes: dict[Reference, str] = {}

    def find(reference: Reference) -> tuple[Digest | None, str]:
        earlier = present.last_pin(reference)
        try:
            kit = find_kit(library, reference, desired, earlier)
        except RegistryUnavailable as error:
            return earlier, str(error)
        except KitserveError as error:
            return None, str(error)
        return kit.digest, "" if kit.choice is None else kit.choice.reason

    references = list(dict.fromkeys(kit for model in desired.models for kit in model.kits))
    for reference, (digest, note) in zip(references, pool.map(find, references), strict=True):
        if digest is None:
            failures[reference] = note
        else:
            pins[reference], notes[reference] = digest, note
    return _Resolved(pins, failures, notes)


def _pull_plan(planned: Iterable[Planned], library: Library, limit: int | None) -> PullPlan:
    missing = {digest: size for each in planned for digest, size in each.missing.items()}
    total, free = sum(missing.values()), library.free
    evictable = sum(kit.stored + kit.unpacked for kit in library.cache.kits() if not kit.in_use)
    return PullPlan(
        bytes=total,
        layers=len(missing),
        disk_free=free,
        evictable=evictable,
        cache_limit=limit,
        is_enough=total <= free + evictable,
    )
