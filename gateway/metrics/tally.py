"""What a worker counts, and the counting itself: cheap, and safe from several threads."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.metrics.counts import (
    BUCKETS,
    MAX_BATCH_ROWS,
    MIRRORED,
    CallTimes,
    Histogram,
    MirroredCalls,
    Runs,
)
from gateway.metrics.evidence import CallerShares, EvidenceCounts, PairedCalls, PairSeconds
from gateway.metrics.evidence_windows import ToldWindows, WindowCutter
from gateway.metrics.pairs import AnswerPairs, Losses
from gateway.metrics.sticky_callers import StickyCallers
from gateway.metrics.tokens import Tokens

_FAILURES = _WRONG = 400
_ERRORS = 500


@dataclass(slots=True)
class Numbers:
    """What one worker, or all of one version, did since it started."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by role and HTTP status."""
    evidence: EvidenceCounts = field(default_factory=EvidenceCounts)
    """What a rollout is judged by."""
    bound: EvidenceCounts = field(default_factory=EvidenceCounts)
    """Those of these calls whose callers stick to the version."""
    unfit: int = 0
    """Callers' calls whose inputs the model found unfit only while it ran; they are answered with 400."""
    request: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    succeeded: CallTimes = field(default_factory=CallTimes)
    failed: CallTimes = field(default_factory=CallTimes)
    last_call: float = 0.0
    """When the last call was answered, in seconds since 1970; 0 before the first."""
    mirrored: MirroredCalls = field(default_factory=MirroredCalls)
    pairs: AnswerPairs = field(default_factory=AnswerPairs)
    """Of the mirrored calls, those whose answers are generated."""
    paired: PairedCalls = field(default_factory=PairedCalls)
    """Of the mirrored calls, those that the stable version answered."""
    pulled_bytes: int = 0
    cache_hits: int = 0
    unpacks: int = 0
    unpack_seconds: float = 0.0
    loads: int = 0
    load_seconds: float = 0.0
    load_failures: Counter[str] = field(default_factory=Counter)
    """Failed starts, by the words of `LOAD_STEPS`."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls that the model never answered, by the words of `DROPPED`."""
    batches: dict[int, Runs] = field(default_factory=dict)
    """Runs by the rows of their batch; empty where calls are not batched."""
    tokens_by_role: dict[str, Tokens] = field(default_factory=dict)
    """Of calls whose answers are made of tokens; those of `MIRRORED` calls, too."""
    refused_bodies: int = 0
    """Calls for whose bodies there was no room."""
    log_lines: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Warnings and errors in the log, by level and event."""

    @property
    def tokens(self) -> Tokens:
        """The tokens of callers' calls, whatever the role."""
        total = Tokens()
        for role, tokens in self.tokens_by_role.items():
            if role != MIRRORED:
                total.add(tokens)
        return total

    def add(self, other: Numbers) -> None:
        """Add another's numbers to these."""
        self.requests.update(other.requests)
        self.evidence.add(other.evidence)
        self.bound.add(other.bound)
        self.unfit += other.unfit
        self.request.add(other.request)
        self.queue.add(other.queue)
        self.compute.add(other.compute)
        self.succeeded.add(other.succeeded)
        self.failed.add(other.failed)
        self.last_call = max(self.last_call, other.last_call)
        self.mirrored = (self.mirrored + other.mirrored).with_few_labels()
        self.pairs = self.pairs + other.pairs
        self.paired.add(other.paired)
        self.pulled_bytes += other.pulled_bytes
        self.cache_hits += other.cache_hits
        self.unpacks += other.unpacks
        self.unpack_seconds += other.unpack_seconds
        self.loads += other.loads
        self.load_seconds += other.load_seconds
        self.load_failures.update(other.load_failures)
        self.dropped.update(other.dropped)
        for rows, runs in other.batches.items():
            self.batches.setdefault(rows, Runs()).add(runs)
        for role, tokens in other.tokens_by_role.items():
            self.tokens_by_role.setdefault(role, Tokens()).add(tokens)
        self.refused_bodies += other.refused_bodies
        self.log_lines.update(other.log_lines)


class Tally:
    """The numbers of a running worker; safe to use from several threads.

    `clock` is a monotonic clock, and `wall` gives seconds since 1970.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = Numbers()
        self._shares = CallerShares()
        self._windows = WindowCutter(self._numbers, clock, wall)
        self._sticky = StickyCallers()
        self.ongoing = 0
        self.generating = 0
        """Calls whose answers a language model makes now."""

    def generated(self, role: str, tokens: Tokens) -> None:
        """Count the tokens of one call, besides the call itself (`answered`)."""
        with self._lock:
            total = self._numbers.tokens_by_role.setdefault(role, Tokens())
            total.add(tokens)
            if tokens.output > 1 and tokens.between.total:
                total.per_token.observe(tokens.between.total / (tokens.output - 1))

    def answered(
        self,
        role: str,
        status: int,
        request: float,
        queue: float,
        compute: float,
        infer: float = 0.0,
        encode: float = 0.0,
        is_unfit: bool = False,
    ) -> None:
        """Count one answered call; durations in seconds, `infer` and `encode` being parts of `compute`."""
        with self._lock:
            numbers = self._numbers
            numbers.requests[role, status] += 1
            if role == MIRRORED:
                return
            numbers.unfit += is_unfit
            numbers.request.observe(request)
            numbers.queue.observe(queue)
            numbers.compute.observe(compute)
            numbers.last_call = time.time()
            steps = numbers.succeeded if status < _FAILURES else numbers.failed
            steps.calls += 1
            steps.total += request
            steps.queue += queue
            steps.decode += compute - infer - encode
            steps.infer += infer
            steps.encode += encode

    def judged(
        self,
        caller: bytes,
        status: int,
        seconds: float,
        is_unfit: bool = False,
        tokens: Tokens | None = None,
        sticky: bytes = b"",
    ) -> None:
        """Count one call as evidence, besides the call itself, as far as its caller has not had its share.

        A wrong call (4xx) tells nothing of the version. What a model found unfit only while it ran does: the
        other version may take it. `sticky` is the hash of what keeps the caller on this version, if anything
        does.
        """
        if _WRONG <= status < _ERRORS and not is_unfit:
            return
        has_failed = is_unfit or status >= _ERRORS
        with self._lock:
            now = self._clock()
            if not self._shares.take(caller, now):
                return
            if now >= self._windows.end:
                self._windows.cut()
            numbers, bucket = self._numbers, bisect_left(BUCKETS, seconds)
            numbers.evidence.count(has_failed, seconds, bucket)
            if tokens is not None:
                numbers.evidence.count_tokens(tokens)
            if sticky:
                numbers.bound.count(has_failed, seconds, bucket)
                if tokens is not None:
                    numbers.bound.count_tokens(tokens)
                self._sticky.count(sticky, self._windows.number, has_failed, seconds)

    def refused(self, role: str, status: int) -> None:
        """Count one call that never reached the model."""
        with self._lock:
            self._numbers.requests[role, status] += 1
            self._numbers.failed.calls += role != MIRRORED

    def dropped(self, reason: str) -> None:
        """Count one call that the model never answered; `reason` is one of `DROPPED`."""
        with self._lock:
            self._numbers.dropped[reason] += 1

    def compared(
        self,
        agreeing: float,
        failed: bool,
        stable: Mapping[str, int],
        canary: Mapping[str, int],
        seconds: PairSeconds | None = None,
    ) -> None:
        """Count one mirrored call, see `MirroredCalls`; `seconds` where the stable version answered it."""
        with self._lock:
            self._count(MirroredCalls(1, agreeing, int(failed), 0, stable, canary))
            if seconds is not None:
                self._numbers.paired.count(seconds)

    def compared_answers(
        self, pairs: AnswerPairs, is_worse: bool, failed: bool, seconds: PairSeconds | None = None
    ) -> None:
        """Count one mirrored call whose answers are generated; it agrees where the canary is no worse.

        `seconds` only where the stable version answered.
        """
        with self._lock:
            self._count(MirroredCalls(1, float(not is_worse), int(failed)))
            self._numbers.pairs = self._numbers.pairs + pairs
            if seconds is not None:
                self._numbers.paired.count(seconds)

    def scored(self, losses: Losses) -> None:
        """Count how likely two versions find an answer."""
        with self._lock:
            self._cut()
            self._numbers.pairs = self._numbers.pairs + AnswerPairs(losses=losses)

    def not_mirrored(self) -> None:
        """Count one call that was to be mirrored, and was not."""
        with self._lock:
            self._count(MirroredCalls(dropped=1))

    def told_windows(self, after: int) -> ToldWindows:
        """What was counted as evidence in each half second after the one with the number `after`."""
        with self._lock:
            self._cut()
            return replace(self._windows.after(after), callers=tuple(self._sticky.after(after)))

    def _cut(self) -> None:
        if self._clock() >= self._windows.end:
            self._windows.cut()

    def _count(self, calls: MirroredCalls) -> None:
        self._cut()
        self._numbers.mirrored = (self._numbers.mirrored + calls).with_few_labels()

    def executed(self, rows: int, decode: float, infer: float, encode: float) -> None:
        """Count one run of the model on a batch, of however many calls it was made; durations in seconds."""
        # Callers must not make entries without end.
        size = rows if rows <= MAX_BATCH_ROWS else 1 << (rows - 1).bit_length()
        with self._lock:
            runs = self._numbers.batches.get(size)
            if runs is None:
                runs = self._numbers.batches[size] = Runs()
            runs.runs += 1
            runs.rows += rows
            runs.decode += decode
            runs.infer += infer
            runs.encode += encode

    def opened(self, pulled_bytes: int, from_cache: bool, unpack_seconds: float) -> None:
        """Count a kit that was brought to this node, or found there."""
        with self._lock:
            self._numbers.pulled_bytes += pulled_bytes
            self._numbers.cache_hits += from_cache
            self._numbers.unpacks += not from_cache
            self._numbers.unpack_seconds += unpack_seconds

    def loaded(self, seconds: float) -> None:
        """Count a model that was loaded."""
        with self._lock:
            self._numbers.loads += 1
            self._numbers.load_seconds += seconds

    def failed_to(self, step: str) -> None:
        """Count a start that failed; `step` is one of `LOAD_STEPS`."""
        with self._lock:
            self._numbers.load_failures[step] += 1

    @property
    def last_call(self) -> float:
        """When the last call was answered, in seconds since 1970; 0 before the first."""
        return self._numbers.last_call

    def numbers(self) -> Numbers:
        """A copy of the numbers so far."""
        with self._lock:
            copy = Numbers()
            copy.add(self._numbers)
            return copy
