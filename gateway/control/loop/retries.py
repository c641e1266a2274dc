"""What failed for a reason that may pass, tried again for ever, after longer and longer pauses.

What is tried is a subject: a reference that is resolved, a tag that is followed, a version whose workers
fetch a kit. What each waits for:

    it failed because                                       it waits for
    ------------------------------------------------------  -----------------------------------------------
    a registry answers nobody (`Passing.away_host`)         the registry: one subject asks it at each try,
                                                            and once it answers, all are tried at once
    anything else: no such tag, a refused password, a disk  itself

Rules:

1. A pause grows from `_PAUSES[0]` to `_PAUSES[-1]` with each try that fails, and is as long as the registry
   asks for at least. Chance makes it up to a fifth longer, so that not all gateways come back at once.
2. Tries that began before the last one failed count as the same try.
3. Of one registry, `_AT_ONCE` references are resolved at once: one that is away leaves threads to others.
4. Another config begins anew, as does another start of the gateway: nothing of this is stored.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from gateway.contract import Passing
from gateway.control.state.status import RetryStatus
from gateway.control.state.versions import Kind
from gateway.oci.reference import Reference, RegistryReference

Subject = Hashable
"""What is tried."""

_PAUSES = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 250.0)
_MAX_JITTER = 0.2
# After so many tries, a minute and more, a registry is not only away for a moment.
_PATIENT_TRIES = 4
_AT_ONCE = 8


@dataclass(slots=True)
class _Pause:
    """What waits until `not_before`: one subject, or all of one registry. Seconds of the clock."""

    tries: int = 0
    failed: float = 0.0
    not_before: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class _Entry:
    """A subject that is being tried, or failed."""

    host: str
    reason: str = ""
    """Why it failed; "" before it did."""
    began: float | None = None
    """When the try began that is not over; None where none is on its way."""
    is_limited: bool = False
    waits_for: Subject = ""
    """Whose pause ends before the next try: that of a registry that is away, or its own."""


class Retries:
    """Says what may be tried now; safe to use from several threads.

    Args:
        clock: a monotonic clock, in seconds.
        jitter: gives a number from 0 to 1.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._generation = 0
        self._entries: dict[Subject, _Entry] = {}
        self._pauses: dict[Subject, _Pause] = {}
        """By subject, or by the host of a registry."""

    def use(self, generation: int) -> None:
        """Begin anew, if this is another config than before."""
        with self._lock:
            if generation != self._generation:
                self._generation = generation
                self._entries.clear()
                self._pauses.clear()

    def begin(self, subject: Subject, host: str, is_limited: bool = False) -> bool:
        """Tell whether to try a subject now; its try is then on its way until `fail` or `settle`.

        Of tries that are `is_limited`, `_AT_ONCE` are on their way to one registry at most (rule 3).
        """
        with self._lock:
            now = self._clock()
            entry = self._entries.get(subject)
            if entry is not None and entry.began is not None:
                return False
            keys = {host, subject, "" if entry is None else entry.waits_for}
            pauses = [pause for key in keys if key and (pause := self._pauses.get(key))]
            if any(now < pause.not_before for pause in pauses):
                self._wait(subject, host)
                return False
            if is_limited and host and self._trying(host) >= _AT_ONCE:
                return False
            for pause in pauses:
                # This try stands for all that wait for the same.
                pause.not_before = now + self._length(pause.tries)
            entry = self._entries.setdefault(subject, _Entry(host))
            entry.began, entry.is_limited = now, is_limited
            return True

    def fail(self, subject: Subject, host: str, generation: int, reason: str, passing: Passing) -> None:
        """Note why a try failed, and when the next one is."""
        with self._lock:
            if generation != self._generation:
                return
            now = self._clock()
            entry = self._entries.setdefault(subject, _Entry(host))
            began, entry.began, entry.reason = entry.began, None, reason
            entry.waits_for = passing.away_host or subject
            # Its own registry answers, unless that is the one that is away.
            for key in {host, subject} - {entry.waits_for}:
                self._pauses.pop(key, None)
            pause = self._pauses.setdefault(entry.waits_for, _Pause())
            if pause.tries == 0 or (began is not None and began > pause.failed):
                pause.tries += 1
            pause.failed, pause.reason = now, reason
            pause.not_before = now + max(self._length(pause.tries), passing.retry_after)

    def settle(self, subject: Subject) -> None:
        """Note that what was tried has succeeded, or failed for good; either way its registry answers."""
        with self._lock:
            entry = self._entries.pop(subject, None)
            if entry is not None:
                for key in (subject, entry.host, entry.waits_for):
                    self._pauses.pop(key, None)

    def forget(self, is_wanted: Callable[[Subject], bool]) -> None:
        """Forget the subjects that wait and are not wanted any more."""
        with self._lock:
            for subject, entry in list(self._entries.items()):
                if entry.began is None and not is_wanted(subject):
                    del self._entries[subject]
                    self._pauses.pop(subject, None)

    def waiting(self) -> Mapping[Subject, RetryStatus]:
        """Return what failed, and when it is tried again; without versions whose next try is on its way."""
        with self._lock:
            now = self._clock()
            return {
                subject: self._retry(subject, entry, now)
                for subject, entry in self._entries.items()
                if entry.reason and (entry.began is None or not isinstance(subject, Kind))
            }

    def _retry(self, subject: Subject, entry: _Entry, now: float) -> RetryStatus:
        pause = self._pauses.get(entry.waits_for, _Pause(tries=1))
        is_trying = entry.began is not None
        return RetryStatus(
            reason=entry.reason,
            tries=pause.tries,
            seconds=0.0 if is_trying else max(0.0, round(pause.not_before - now, 1)),
            is_trying=is_trying,
            has_failed=entry.waits_for == subject or pause.tries > _PATIENT_TRIES,
        )

    def _wait(self, subject: Subject, host: str) -> None:
        """Have a subject that was not tried wait for its registry, and say so."""
        if subject not in self._entries:
            reason = f"its registry does not answer, as another kit of it found: {self._pauses[host].reason}"
            self._entries[subject] = _Entry(host, reason, waits_for=host)

    def _trying(self, host: str) -> int:
        return sum(
            entry.host == host and entry.is_limited and entry.began is not None
            for entry in self._entries.values()
        )

    def _length(self, tries: int) -> float:
        """Return the seconds of the pause after so many tries."""
        return _PAUSES[min(tries, len(_PAUSES)) - 1] * (1 + _MAX_JITTER * self._jitter())


def failures_among(retries: Mapping[Subject, RetryStatus]) -> Mapping[Reference | Kind, str]:
    """Return why each reference cannot be resolved, and each version cannot be served, as it is now."""
    return {
        subject: retry.reason
        for subject, retry in retries.items()
        if isinstance(subject, Kind) or (isinstance(subject, Reference) and retry.has_failed)
    }


def host_of(reference: Reference) -> str:
    """Return the host of a reference's registry; "" for a kit on this machine."""
    return reference.host if isinstance(reference, RegistryReference) else ""
