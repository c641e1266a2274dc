"""What a kit is, before it is served: by its documents, the policy, and its files if they are here."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

from gateway.config.changes import FieldChange
from gateway.control.loop.judge import examine_version
from gateway.control.planning.documents import KitFacts
from gateway.control.rollouts.signature_gate import signature_faults
from gateway.control.state.desired import DesiredModel
from gateway.control.state.versions import Version
from gateway.errors import KitError, KitserveError
from gateway.foreign_text import foreign_text
from gateway.kits.datasets import find_dataset
from gateway.kits.entry import stated_entry
from gateway.kits.gpu_memory import gpu_need
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.kits.memory import Need
from gateway.kits.parents import model_of
from gateway.kits.policy import Policy
from gateway.kits.trust import Verdict, licenses_of
from gateway.metrics.machine import MachineMemory
from gateway.oci.reference import Digest, Reference
from runtimes.base import Signature

_MAX_PARAMETERS = 64
_NAMES = ("reference", "tag", "digest", "size")
"""Facts that are different in any other kit."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A kit with what is known of it, and what is against it."""

    facts: KitFacts | None
    missing: dict[Digest, int]
    """The layers to be fetched, and how many bytes of each."""
    refused: str = ""
    memory: int | None = None
    """What the model takes, where its files tell it."""
    signature: Signature | None = None
    """What it takes and gives, where its files tell it."""
    gpu: Need | None = None
    """What it takes of GPUs, where it wants one, its config does not say it, and its files are here."""


def judge_kit(
    library: Library, model: DesiredModel, version: Version, machine: MachineMemory | None, *, may_pull: bool
) -> Judged:
    """Judge the kit of a version as the gateway does before it starts a worker; see `check_version`.

    Its model is looked at where it is on this node, or `may_pull`.

    Raises:
        KitserveError: where its documents cannot be read.
    """
    kit = library.describe(version.reference.reference, model.policy, parents=version.parent_references)
    try:
        verdict = library.judge(kit, model.policy)
    except KitError as error:
        return Judged(_facts(kit, None), {}, str(error))
    facts, missing = _facts(kit, verdict), library.missing(kit, verdict)
    try:
        kit.check_servable(with_code=True)
        if model.plan is not None and model.plan.golden is not None:
            find_dataset(kit, model.plan.golden.dataset)
        if not may_pull and not library.has_unpacked(kit, verdict):
            return Judged(facts, missing, _stated_refusal(kit, verdict, version))
        examined = examine_version(library, kit, version, model.policy, machine)
    except KitError as error:
        return Judged(facts, missing, str(error))
    need = examined.need
    choice = examined.choice
    facts = replace(facts, hazard=choice.format.hazard.value, runtime=choice.runtime.name)
    gpu = None
    resources = version.serving.resources
    # The estimate takes a process of its own, and seconds.
    if resources.wants_gpu and resources.gpu_memory is None:
        gpu = gpu_need(examined.unpacked, choice, examined.language, version.serving)
    total = None if need is None else need.memory.total
    return Judged(facts, missing, "", total, examined.signature, gpu)


def facts_of(
    library: Library, reference: Reference, policy: Policy, parents: tuple[Reference, ...]
) -> KitFacts | None:
    """Return the facts of a kit that serves; None where its source is asked for them, and does not tell."""
    try:
        kit = library.describe(reference, policy, parents=parents)
        return _facts(kit, library.judge(kit, policy))
    except KitserveError:
        return None


def fact_changes(before: KitFacts | None, after: KitFacts | None) -> tuple[FieldChange, ...]:
    """Return what is different in two kits, besides their names; nothing where one of them is not known."""
    if before is None or after is None:
        return ()
    changes: list[FieldChange] = []
    for fact in fields(KitFacts):
        old, new = getattr(before, fact.name), getattr(after, fact.name)
        if fact.name == "parameters":
            changes += (
                FieldChange(f"parameters.{name}", old.get(name), new.get(name))
                for name in {**old, **new}
                if old.get(name) != new.get(name)
            )
        elif fact.name not in _NAMES and old != new and None not in (old, new):
            changes.append(FieldChange(fact.name, _json(old), _json(new)))
    return tuple(changes)


def gate_fault(model: DesiredModel, before: Signature | None, after: Signature | None) -> str:
    """Return why the signature gate would stop a canary; "" where nothing is known against it."""
    if before is None or after is None or model.plan is None or model.plan.allow_signature_change:
        return ""
    return "; ".join(signature_faults(before, after))


def _facts(kit: Kit, verdict: Verdict | None) -> KitFacts:
    stated = model_of(kit)
    package = kit.kitfile.package
    licenses = [text for link in kit.chain for text in licenses_of(link, with_code=True)]
    return KitFacts(
        reference=str(kit.reference),
        tag=kit.reference.label,
        digest=str(kit.digest),
        format=kit.manifest.format.value,
        size=kit.size,
        package=foreign_text(" ".join(part for part in (package.name, package.version) if part)),
        licenses=tuple(dict.fromkeys(map(foreign_text, licenses))),
        framework=foreign_text((stated and (stated.framework or stated.format)) or ""),
        parameters={} if stated is None else _parameters(stated.parameters),
        parents=tuple(str(parent.reference) for parent in kit.parents),
        signature="" if verdict is None else verdict.signature,
        code=verdict is not None and verdict.code,
    )


def _parameters(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {} if value is None else {"": foreign_text(json.dumps(value))}
    return {
        foreign_text(name, 80): foreign_text(json.dumps(content, ensure_ascii=False))
        for name, content in list(value.items())[:_MAX_PARAMETERS]
    }


def _stated_refusal(kit: Kit, verdict: Verdict, version: Version) -> str:
    """Return why a kit is refused whose documents say that it runs code; "" for others."""
    is_passed_over = version.runtime is not None or version.file is not None
    if verdict.code or is_passed_over or stated_entry(kit) is None:
        return ""
    return f"{kit.reference}: Python of its own serves it, and the policy allows it no code"


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
