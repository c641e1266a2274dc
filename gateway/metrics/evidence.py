"""What of a version's calls tells how good it is: counted apart, and no caller for more than its share.

A rollout is judged by these counts. They leave out what a caller decides and not the version: which version
a call names, a call that is wrong (4xx), a deadline that the caller shortened, a queue that callers filled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.metrics.counts import FIRST_TOKEN_BUCKETS, TOKEN_GAP_BUCKETS, Histogram
from gateway.metrics.tokens import Tokens

SHARE_SECONDS = 60.0
"""How long a caller's calls are remembered."""
FREE_CALLS = 100
"""So many calls of each caller count in a window, whatever others send."""
MAX_SHARING_CALLERS = 10_000
"""So many callers of a worker have a share of their own in a window of time; the others have one together.

More than stick to a version (`sticky_callers`), as every caller counts here, and each takes one number alone.
"""
_OTHERS = b"*"


@dataclass(slots=True)
class EvidenceCounts:
    """Calls that a rollout is judged by."""

    calls: int = 0
    errors: int = 0
    request: Histogram = field(default_factory=Histogram)
    """How long callers waited for the answer."""
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BUCKETS))
    """How long they waited for the first token, where the answer is text."""
    per_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_GAP_BUCKETS))
    """How long each token after it took, as the mean over a call."""

    def count(self, has_failed: bool, seconds: float, bucket: int) -> None:
        """Count one call; `bucket` is that of its seconds. As fast as can be: it is done for each call."""
        self.calls += 1
        self.errors += has_failed
        times = self.request
        times.counts[bucket] += 1
        times.total += seconds

    def count_tokens(self, tokens: Tokens) -> None:
        """Count how long the tokens of one call took, besides the call itself."""
        self.first_token.add(tokens.first)
        if tokens.output > 1 and tokens.between.total:
            self.per_token.observe(tokens.between.total / (tokens.output - 1))

    def add(self, other: EvidenceCounts) -> None:
        """Add another's counts to these."""
        self.calls += other.calls
        self.errors += other.errors
        self.request.add(other.request)
        self.first_token.add(other.first_token)
        self.per_token.add(other.per_token)


@dataclass(slots=True)
class PairedCalls:
    """Mirrored calls that the stable version answered: whether the canary did, and how long each took.

    Of tensors it is the time of decoding and inference, without any wait; of text, of the whole answer.
    """

    calls: int = 0
    failed: int = 0
    """Those that the canary failed; they have no times."""
    stable: Histogram = field(default_factory=Histogram)
    canary: Histogram = field(default_factory=Histogram)

    def count(self, seconds: PairSeconds) -> None:
        """Count one call."""
        self.calls += 1
        if seconds.canary is None:
            self.failed += 1
        else:
            self.stable.observe(seconds.stable)
            self.canary.observe(seconds.canary)

    def add(self, other: PairedCalls) -> None:
        """Add another's counts to these."""
        self.calls += other.calls
        self.failed += other.failed
        self.stable.add(other.stable)
        self.canary.add(other.canary)


@dataclass(frozen=True, slots=True)
class PairSeconds:
    """How long both versions took for the same call; `canary` is None where the canary failed it."""

    stable: float
    canary: float | None


class CallerShares:
    """Says how many calls of each caller count, so that no caller outweighs all others together.

    In a window of time, those of a caller count up to `FREE_CALLS` and the number of all others' that have
    counted. A caller that is alone, in this window and the last, is not bounded: nobody else is drowned.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._counted: dict[bytes, int] = {}
        self._total = 0
        self._was_shared = False

    def take(self, caller: bytes, now: float, calls: int = 1) -> int:
        """Return how many of a caller's calls count; `now` in seconds, of any clock that goes on."""
        if now - self._began > SHARE_SECONDS:
            self._was_shared = len(self._counted) > 1
            self._began, self._counted, self._total = now, {}, 0
        counted = self._counted
        if caller not in counted and len(counted) >= MAX_SHARING_CALLERS:
            caller = _OTHERS
        own = counted.get(caller, 0)
        if self._was_shared or len(counted) > (caller in counted):
            others = self._total - own
            calls = max(0, min(calls, FREE_CALLS + others - own))
        counted[caller] = own + calls
        self._total += calls
        return calls
