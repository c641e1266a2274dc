"""What the references in a config mean: resolved once for each config, and again where a tag is tracked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.control.loop.library import open_library
from gateway.control.loop.tasks import Tasks
from gateway.control.state.database import State
from gateway.control.state.desired import Desired
from gateway.control.state.snapshot import Recorded
from gateway.errors import KitError, KitserveError, NotTrusted, RegistryUnavailable
from gateway.oci.reference import Digest, Reference

# A registry that does not answer holds a thread for minutes; other models must find one.
_THREADS = 32
_RETRY_SECONDS = (2.0, 5.0, 10.0, 20.0, 40.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    """What a kit's reference means under one config."""

    reference: Reference
    generation: int


@dataclass(frozen=True, slots=True)
class _Retry:
    """How often a registry did not answer, and when to ask it again (by the monotonic clock)."""

    attempts: int
    not_before: float


class Resolver:
    """Asks registries what references mean, in threads of its own, and notes in the state what they say.

    Where a registry does not answer, what the reference meant under an earlier config holds; where nobody
    knows that, the registry is asked again, each time after a longer pause. Every other error is final
    until the next config. `finished` is called after each question.
    """

    def __init__(self, state: State, home: Path, finished: Callable[[], None]) -> None:
        self._state = state
        self._home = home
        self._tasks = Tasks(_THREADS, "resolve", finished)
        self._retries: dict[_Question, _Retry] = {}
        self._last_looks: dict[_Question, float] = {}

    def resolve(self, references: Sequence[Reference], generation: int) -> None:
        """Begin to resolve references, but for those that are to be retried later."""
        now = time.monotonic()
        for reference in references:
            question = _Question(reference, generation)
            retry = self._retries.get(question)
            if retry is None or now >= retry.not_before:
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
            if now - self._last_looks.setdefault(question, now) >= model.track:
                self._last_looks[question] = now
                self._tasks.begin(("follow", model.kit, generation), partial(self._follow, question))

    def stop(self) -> None:
        """Ask no more."""
        self._tasks.stop()

    def _resolve(self, question: _Question) -> None:
        """Find what a reference means, and that it is a kit; note it, or why not."""
        reference, generation = question.reference, question.generation
        try:
            digest = self._digest(reference)
        except RegistryUnavailable as error:
            self._take_earlier_or_retry(question, error)
        except KitserveError as error:
            log.warning("resolve.failed", extra={"kit": str(reference), "reason": str(error)})
            self._state.fail(reference, generation, str(error))
        else:
            log.info("kit.resolved", extra={"kit": str(reference), "digest": str(digest)})
            self._state.pin(reference, digest, generation)

    def _take_earlier_or_retry(self, question: _Question, error: RegistryUnavailable) -> None:
        reference, generation, reason = question.reference, question.generation, str(error)
        earlier = self._state.last_pin(reference)
        if earlier is not None:
            names = {"kit": str(reference), "digest": str(earlier)}
            log.warning("registry.unavailable", extra={**names, "reason": reason})
            note = f"its registry did not answer, so this is what {reference} was before: {reason}"
            self._state.pin(reference, earlier, generation, note)
            return
        last = self._retries.get(question)
        attempts = 1 if last is None else last.attempts + 1
        if attempts > len(_RETRY_SECONDS):
            self._state.fail(reference, generation, reason)
            return
        log.warning("resolve.retried", extra={"kit": str(reference), "attempt": attempts, "reason": reason})
        self._retries[question] = _Retry(attempts, time.monotonic() + _RETRY_SECONDS[attempts - 1])

    def _follow(self, question: _Question) -> None:
        """Look whether a tag has moved; a registry that does not answer changes nothing."""
        reference, generation = question.reference, question.generation
        try:
            digest = self._digest(reference)
        except KitserveError as error:
            log.warning("follow.failed", extra={"kit": str(reference), "reason": str(error)})
            return
        pinned = self._state.pins(generation).get(reference)
        if self._state.desired().generation == generation and digest != pinned:
            log.info("tag.moved", extra={"kit": str(reference), "digest": str(digest)})
            self._state.pin(reference, digest, generation)

    def _digest(self, reference: Reference) -> Digest:
        return resolve(reference, self._home, self._state.desired())


def resolve(reference: Reference, home: Path, desired: Desired) -> Digest:
    """Return the digest of the kit that a reference names.

    It is asked for by the policy of the first model that may use it; each worker judges by its own model's.

    Raises:
        KitserveError: when its registry does not answer, it is not a kit, or no model may use it.
    """
    library = open_library(home, desired)
    refusal: NotTrusted | None = None
    for policy in desired.policies(reference):
        try:
            return library.describe(reference, policy).digest
        except NotTrusted as error:
            refusal = error
    raise refusal or KitError(f"{reference}: no model uses it any more")
