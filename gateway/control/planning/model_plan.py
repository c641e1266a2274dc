"""What a config does to one model: its kits, what they are, and whether they would be served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.config.changes import FieldChange
from gateway.control.planning.documents import Action, KitFacts, KitPlan, ModelPlan, Workers
from gateway.control.planning.gpu_room import room_note
from gateway.control.planning.hypothesis import Hypothesis
from gateway.control.planning.kit_facts import Judged, fact_changes, facts_of, gate_fault, judge_kit
from gateway.control.planning.memory import memory_use
from gateway.control.planning.present import Present
from gateway.control.planning.rollout_plan import rollout_plan
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import DesiredModel
from gateway.control.state.snapshot import version_for
from gateway.control.state.versions import Version
from gateway.errors import KitserveError
from gateway.kits.gpu_memory import gpu_demand
from gateway.kits.library import Library
from gateway.oci.reference import Digest, Reference

_ROLES = ("stable", "canary")


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan of a model, and the layers to be fetched for it, with the missing bytes of each."""

    model: ModelPlan
    missing: Mapping[Digest, int]


@dataclass(frozen=True, slots=True)
class _Kit:
    """A kit of a model: the version that it is now, and the one that it will be."""

    role: str
    reference: Reference | None
    """As the config has it; None where it has no such kit any more."""
    earlier: Reference | None
    old: Version | None
    new: Version | None
    judged: Judged

    @property
    def is_other(self) -> bool:
        """Whether it will be another kit than it is, as far as both are known."""
        return self.old is not None and self.new is not None and self.old.digest != self.new.digest


class ModelPlanner:
    """Plans models, each by itself.

    Args:
        present: what they are compared with.
        hypothesis: how things are with the config in force.
        library: a preview of the cache in which the kits would be.
        notes: what a person should know of how references were resolved.
        may_pull: whether models are pulled to be looked at.
    """

    def __init__(
        self,
        present: Present,
        hypothesis: Hypothesis,
        library: Library,
        notes: Mapping[Reference, str],
        *,
        may_pull: bool,
    ) -> None:
        self._present = present
        self._hypothesis = hypothesis
        self._library = library
        self._notes = notes
        self._may_pull = may_pull

    def plan(self, model: DesiredModel, fields: Sequence[FieldChange]) -> Planned:
        """Return what happens to a model that is wanted, of which these fields are other than before."""
        recorded, observed = self._present.recorded, self._present.observed
        before = recorded.desired.model(model.name)
        kits = list(self._kits(model, before))
        plans = [self._kit_plan(kit, before) for kit in kits]
        deployed = self._hypothesis.deployed(model.name)
        started = [version for version in deployed if version.app not in observed.apps]
        workers = Workers.NEW if started else Workers.SCALED if deployed else Workers.KEPT
        # A rule of trust for all models makes each of them another one, too.
        is_changed = bool(fields) or before != model or any(kit.is_other for kit in kits)
        action = Action.NEW if before is None else Action.CHANGED if is_changed else Action.UNCHANGED
        rollout = rollout_plan(recorded.rollouts.get(model.name), self._hypothesis.rollout(model.name))
        refusals = [plan.refused for plan in plans if plan.refused]
        if rollout is not None and rollout.starts and (fault := self._gate_fault(model, kits[0])):
            refusals.append(f"the rollout would end at its signature gate: {fault}")
        is_late = action is Action.UNCHANGED and bool(started)
        return Planned(
            ModelPlan(
                name=model.name,
                action=action,
                changes=tuple(fields),
                kits=tuple(plans),
                workers=workers,
                rollout=rollout,
                memory=tuple(
                    memory_use(kit.new, kit.judged.memory, recorded, observed)
                    for kit in kits
                    if kit.new is not None
                ),
                refused="; ".join(refusals),
                note="it does not run as the config in force asks for; apply tries it again"
                if is_late
                else self._room_note(model, started, kits),
            ),
            {digest: size for kit in kits for digest, size in kit.judged.missing.items()},
        )

    def _room_note(self, model: DesiredModel, started: Sequence[Version], kits: Sequence[_Kit]) -> str:
        """Return what is known of the room on GPUs for the versions of a model that are to start."""
        new = next((kit for kit in kits if kit.new in started), None)
        if new is None:
            return ""
        resources, need = model.serving.resources, new.judged.gpu
        is_known = resources.wants_gpu and (resources.gpu_memory is not None or need is not None)
        demand = gpu_demand(resources, need, None) if is_known else None
        stable = self._present.recorded.routes.get(model.name, AppRoute()).stable
        return room_note(model, demand, self._present.gpus, has_earlier=stable is not None)

    def removed(self, model: DesiredModel) -> ModelPlan:
        """Return what happens to a model that is no longer wanted."""
        kits = [
            _Kit(role, None, kit, self._old(model, kit), None, Judged(None, {}))
            for role, kit in zip(_ROLES, model.kits, strict=False)
        ]
        plans = tuple(self._kit_plan(kit, model) for kit in kits)
        return ModelPlan(model.name, Action.REMOVED, (), plans, Workers.REMOVED, None, (), "")

    def _kits(self, model: DesiredModel, before: DesiredModel | None) -> Iterator[_Kit]:
        earlier_kits = () if before is None else before.kits
        for place, role in enumerate(_ROLES):
            kit = model.kits[place] if place < len(model.kits) else None
            earlier = earlier_kits[place] if place < len(earlier_kits) else None
            if kit is None and earlier is None:
                continue
            old = None if before is None or earlier is None else self._old(before, earlier)
            new = None if kit is None else self._hypothesis.version(model, kit)
            judged = Judged(None, {})
            if kit is not None and new is None:
                judged = Judged(None, {}, self._hypothesis.recorded.failures.get(kit, ""))
            elif new is not None:
                judged = self._judge(model, old, new)
            yield _Kit(role, kit, earlier, old, new, judged)

    def _old(self, model: DesiredModel, kit: Reference) -> Version | None:
        return version_for(model, kit, self._present.recorded)

    def _judge(self, model: DesiredModel, old: Version | None, new: Version) -> Judged:
        """Judge a version; one that runs and stays is only looked at, as the gateway judges it no more."""
        is_kept = old is not None and old.kind == new.kind and new.app in self._present.observed.apps
        try:
            if is_kept:
                return Judged(self._facts(model, new), {})
            return judge_kit(self._library, model, new, self._present.machine, may_pull=self._may_pull)
        except KitserveError as error:
            return Judged(None, {}, str(error))

    def _facts(self, model: DesiredModel, version: Version) -> KitFacts | None:
        reference, parents = version.reference.reference, version.parent_references
        return facts_of(self._library, reference, model.policy, parents)

    def _kit_plan(self, kit: _Kit, before: DesiredModel | None) -> KitPlan:
        old = None if before is None or kit.old is None else self._facts(before, kit.old)
        return KitPlan(
            role=kit.role,
            before=old,
            after=kit.judged.facts,
            has_moved=kit.is_other and kit.earlier == kit.reference,
            changes=fact_changes(old, kit.judged.facts),
            pull_bytes=sum(kit.judged.missing.values()),
            refused=kit.judged.refused,
            note="" if kit.reference is None else self._notes.get(kit.reference, ""),
        )

    def _gate_fault(self, model: DesiredModel, kit: _Kit) -> str:
        """Return what is known to stop a rollout before its first step; "" for nothing."""
        stable = self._present.recorded.routes.get(model.name, AppRoute()).stable
        description = None if stable is None else self._present.describe(stable)
        before = None if description is None else description.signature
        return gate_fault(model, before, kit.judged.signature)
