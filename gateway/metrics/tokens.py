"""What a worker counts of calls whose answers are made of tokens; the numbers add up over workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.metrics.counts import FIRST_TOKEN_BUCKETS, TOKEN_GAP_BUCKETS, Histogram


def _first() -> Histogram:
    return Histogram(FIRST_TOKEN_BUCKETS)


def _gaps() -> Histogram:
    return Histogram(TOKEN_GAP_BUCKETS)


@dataclass(slots=True)
class Tokens:
    """Tokens of calls, and how long callers waited for them; durations in seconds."""

    first: Histogram = field(default_factory=_first)
    """From a call's arrival to the first token of its answer."""
    between: Histogram = field(default_factory=_gaps)
    """From one token to the next."""
    per_token: Histogram = field(default_factory=_gaps)
    """The mean of these over a call; one for each call, as the tokens of one are fast or slow together."""
    input: int = 0
    """Of prompts, the cached ones included."""
    cached: int = 0
    """Of prompts: those whose work the engine had kept."""
    output: int = 0

    def add(self, other: Tokens) -> None:
        """Add another's numbers to these."""
        self.first.add(other.first)
        self.between.add(other.between)
        self.per_token.add(other.per_token)
        self.input += other.input
        self.cached += other.cached
        self.output += other.output
