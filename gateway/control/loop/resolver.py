"""What the references in a config mean: resolved once for each config, and again where a tag is tracked."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.contract import Passing
from gateway.control.loop.library import open_library
from gateway.control.loop.retries import Retries, host_of
from gateway.control.loop.tasks import Tasks
from gateway.control.state.database import State
from gateway.control.state.desired import Desired
from gateway.control.state.snapshot import Recorded
from gateway.errors import KitError, NotTrusted, RegistryUnavailable, reason_of
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.kits.variants import Room
from gateway.oci.reference import Digest, Reference

# A registry that does not answer holds a thread for minutes; other models must find one.
_THREADS = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Meaning:
    """The kit that a reference means, and what a person should know of how it was found; "" for nothing."""

    digest: Digest
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Question:
    """What a kit's reference means under one config."""

    reference: Reference
    generation: int

    @property
    def follow(self) -> tuple[str, Reference]:
        """The subject of `Retries` for a look whether the tag has moved."""
        return ("follow", self.reference)


class Resolver:
    """Asks registries what references mean, in threads of its own, and notes in the state what they say.

    Where a registry does not answer, what the reference meant under an earlier config holds. Where nobody
    knows that, or something else fails that may pass, the registry is asked again, as `retries` say. Every
    other error is final until the next config. `finished` is called after each question.
    """

    def __init__(self, state: State, home: Path, retries: Retries, finished: Callable[[], None]) -> None:
        self._state = state
        self._home = home
        self._retries = retries
        self._tasks = Tasks(_THREADS, "resolve", finished, has_own_pauses=True)
        self._last_looks: dict[_Question, float] = {}

    def resolve(self, references: Sequence[Reference], generation: int) -> None:
        """Begin to resolve references, but for those that are to be retried later."""
        # In random order: one that always fails must not be the only one that asks its registry.
        for reference in random.sample(references, len(references)):
            if self._retries.begin(reference, host_of(reference), is_limited=True):
                question = _Question(reference, generation)
                self._tasks.begin(("resolve", reference, generation), partial(self._resolve, question))

    def follow(self, recorded: Recorded) -> None:
        """Begin to look whether tags have moved, for the models that track theirs and are due."""
        now = time.monotonic()
        generation = recorded.desired.generation
        self._last_looks = {
            question: look for question, look in self._last_looks.items() if question.generation == generation
        }
        for model in recorded.desired.models:
            if model.track is None or model.kit not in recorded.pins:
                continue
            question = _Question(model.kit, generation)
            is_due = now - self._last_looks.setdefault(question, now) >= model.track
            if is_due and self._retries.begin(question.follow, host_of(model.kit), is_limited=True):
                self._last_looks[question] = now
                self._tasks.begin((*question.follow, generation), partial(self._follow, question))

    def stop(self) -> None:
        """Ask no more."""
        self._tasks.stop()

    def _resolve(self, question: _Question) -> None:
        """Find what a reference means, and that it is a kit; note it, or why not."""
        reference, generation = question.reference, question.generation
        if reference in self._state.pins(generation):  # The caller had looked just before the answer came.
            self._retries.settle(reference)
            return
        try:
            meaning = self._meaning(reference)
            self._state.pin(reference, meaning.digest, generation, meaning.note)
        except Exception as error:
            self._note_failure(question, error)
        else:
            log.info("kit.resolved", extra=_fields(reference, meaning))
            self._retries.settle(reference)

    def _note_failure(self, question: _Question, error: Exception) -> None:
        reference, generation = question.reference, question.generation
        reason, names = reason_of(error), {"kit": str(reference)}
        earlier = self._state.last_pin(reference) if isinstance(error, RegistryUnavailable) else None
        if earlier is not None:
            log.warning("registry.unavailable", extra={**names, "digest": str(earlier), "reason": reason})
            note = f"its registry did not answer, so this is what {reference} was before: {reason}"
            self._state.pin(reference, earlier, generation, note)
            self._retries.settle(reference)
            return
        passing = Passing.of(error)
        log.warning(
            "resolve.failed" if passing is None else "resolve.retried", extra={**names, "reason": reason}
        )
        if passing is None:
            self._state.fail(reference, generation, reason)
            self._retries.settle(reference)
        else:
            self._retries.fail(reference, host_of(reference), generation, reason, passing)

    def _follow(self, question: _Question) -> None:
        """Look whether a tag has moved; a registry that does not answer changes nothing."""
        reference, generation = question.reference, question.generation
        try:
            meaning = self._meaning(reference)
            pinned = self._state.pins(generation).get(reference)
            if self._state.desired().generation == generation and meaning.digest != pinned:
                log.info("tag.moved", extra=_fields(reference, meaning))
                self._state.pin(reference, meaning.digest, generation, meaning.note)
        except Exception as error:
            log.warning("follow.failed", extra={"kit": str(reference), "reason": reason_of(error)})
            passing = Passing.of(error)
            if passing is not None and passing.away_host:
                host = host_of(reference)
                self._retries.fail(question.follow, host, generation, reason_of(error), passing)
                return
        self._retries.settle(question.follow)

    def _meaning(self, reference: Reference) -> Meaning:
        return resolve(reference, self._home, self._state.desired(), self._state.last_pin(reference))


def resolve(reference: Reference, home: Path, desired: Desired, earlier: Digest | None = None) -> Meaning:
    """Return the kit that a reference names.

    It is asked for by the policy of the first model that may use it; each worker judges by its own model's.
    Where the variant is `auto`, the kit that it was before, `earlier`, is kept while its index has it: free
    memory changes all the time, and a version must not.

    Raises:
        KitserveError: when its registry does not answer, it is not a kit, or no model may use it.
    """
    kit = find_kit(open_library(home, desired), reference, desired, earlier)
    return Meaning(kit.digest, kit.choice.reason if kit.choice is not None else "")


def find_kit(library: Library, reference: Reference, desired: Desired, earlier: Digest | None = None) -> Kit:
    """Return the kit that a reference names, as `resolve` finds it; for what is raised, see there."""
    resources = (model.serving.resources for model in desired.models if reference in model.kits)
    gpus = max((each.gpus or float(not each.may_use_cpu) for each in resources), default=0.0)
    refusal: NotTrusted | None = None
    for use in desired.uses(reference):
        try:
            room = partial(Room.here, gpus, earlier)
            return library.describe(reference, use.policy, room, use.parent_references)
        except NotTrusted as error:
            refusal = error
    raise refusal or KitError(f"{reference}: no model uses it any more")


def _fields(reference: Reference, meaning: Meaning) -> dict[str, str]:
    """Return what an event says of a reference that was resolved."""
    fields = {"kit": str(reference), "digest": str(meaning.digest)}
    return {**fields, "note": meaning.note} if meaning.note else fields
