"""What references in the config mean: resolved once for each config, and again where a tag is followed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.config.config import GatewayConfig
from gateway.control.loop.library import open_library
from gateway.control.loop.tasks import Tasks
from gateway.control.state.database import State
from gateway.control.state.snapshot import Known
from gateway.errors import KitError, KitserveError, NotTrusted, RegistryUnavailable
from gateway.oci.reference import parse_reference

# A registry that does not answer holds a thread for minutes; other models must find one.
_THREADS = 32
_RETRY_SECONDS = (2.0, 5.0, 10.0, 20.0, 40.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    """What a kit's reference means under one config."""

    kit: str
    generation: int


@dataclass(frozen=True, slots=True)
class _Retry:
    """The next try of a question whose registry does not answer."""

    attempt: int
    not_before: float


class Resolver:
    """Asks registries what references mean, in threads of its own, and notes in the state what they say.

    A registry that does not answer is asked again, later each time; where the state knows what the
    reference meant before, that is taken at once instead. Every other error is final until the next config.
    `finished` is called when there may be something new in the state.
    """

    def __init__(self, state: State, home: Path, finished: Callable[[], None]) -> None:
        self._state = state
        self._home = home
        self._tasks = Tasks(_THREADS, "resolve", finished)
        self._retries: dict[_Question, _Retry] = {}
        self._last_looks: dict[_Question, float] = {}

    def resolve(self, kits: Sequence[str], generation: int) -> None:
        """Begin to resolve references, unless it is too early to try again."""
        now = time.monotonic()
        for kit in kits:
            question = _Question(kit, generation)
            retry = self._retries.get(question)
            if retry is None or now >= retry.not_before:
                self._tasks.begin(("resolve", kit, generation), partial(self._resolve, question))

    def follow(self, known: Known) -> None:
        """Begin to look whether a tag has moved, for each model that follows its own and is due."""
        now = time.monotonic()
        generation = known.desired.generation
        self._last_looks = {
            question: last for question, last in self._last_looks.items() if question.generation == generation
        }
        for model in known.desired.config.models:
            if model.track is None or model.kit not in known.pins:
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
        kit, generation = question.kit, question.generation
        try:
            digest = self._digest(kit)
        except RegistryUnavailable as error:
            self._take_earlier_or_retry(question, error)
        except KitserveError as error:
            log.warning("resolve.failed", extra={"kit": kit, "reason": str(error)})
            self._state.fail(kit, generation, str(error))
        else:
            log.info("kit.resolved", extra={"kit": kit, "digest": digest})
            self._state.pin(kit, digest, generation)

    def _take_earlier_or_retry(self, question: _Question, error: RegistryUnavailable) -> None:
        kit, generation = question.kit, question.generation
        earlier = self._state.last_pin(kit)
        if earlier is not None:
            log.warning("registry.unavailable", extra={"kit": kit, "digest": earlier, "reason": str(error)})
            note = f"its registry did not answer, so this is what {kit} was before: {error}"
            self._state.pin(kit, earlier, generation, note)
            return
        last = self._retries.get(question)
        attempt = 1 if last is None else last.attempt + 1
        if attempt > len(_RETRY_SECONDS):
            self._state.fail(kit, generation, str(error))
            return
        log.warning("resolve.retried", extra={"kit": kit, "attempt": attempt, "reason": str(error)})
        self._retries[question] = _Retry(attempt, time.monotonic() + _RETRY_SECONDS[attempt - 1])

    def _follow(self, question: _Question) -> None:
        """Look whether a tag has moved; a registry that does not answer changes nothing."""
        kit, generation = question.kit, question.generation
        try:
            digest = self._digest(kit)
        except KitserveError as error:
            log.warning("follow.failed", extra={"kit": kit, "reason": str(error)})
            return
        if self._state.desired().generation == generation and digest != self._state.pins(generation).get(kit):
            log.info("tag.moved", extra={"kit": kit, "digest": digest})
            self._state.pin(kit, digest, generation)

    def _digest(self, kit: str) -> str:
        return resolve(kit, self._home, self._state.desired().config)


def resolve(kit: str, home: Path, config: GatewayConfig) -> str:
    """Return the digest of a kit, as the first of its models allows to; each worker judges for its own.

    Raises:
        KitserveError: when no model may ask, its place does not answer, or what it names is not a kit.
    """
    library = open_library(home, config)
    refusal: NotTrusted | None = None
    for policy in config.policies(kit):
        try:
            return str(library.describe(parse_reference(kit), policy).digest)
        except NotTrusted as error:
            refusal = error
    raise refusal or KitError(f"{kit}: no model uses it any more")
