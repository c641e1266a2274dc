"""What a stable version's worker counts of pairs of answers: the text that two versions generate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FaultyAnswers:
    """Pairs in which an answer had one kind of fault; they add up.

    `canary` counts those in which the canary's answer alone had it, `stable` those with the stable version's
    alone. `asked` are the pairs in which there could be such a fault at all.
    """

    asked: int = 0
    canary: int = 0
    stable: int = 0
    both: int = 0

    def __add__(self, other: FaultyAnswers) -> FaultyAnswers:
        return FaultyAnswers(
            self.asked + other.asked,
            self.canary + other.canary,
            self.stable + other.stable,
            self.both + other.both,
        )

    def __neg__(self) -> FaultyAnswers:
        return FaultyAnswers(-self.asked, -self.canary, -self.stable, -self.both)


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over pairs of what the canary finds the stable version's answer less likely by; they add up.

    Of each pair it is the mean over the answer's tokens, in nats per token, within `MAX_LOSS` of zero.
    """

    pairs: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.pairs + other.pairs, self.total + other.total, self.squares + other.squares)

    def __neg__(self) -> Losses:
        return Losses(-self.pairs, -self.total, -self.squares)

    @classmethod
    def of(cls, loss: float) -> Losses:
        """Return the sums of one pair."""
        loss = max(-MAX_LOSS, min(MAX_LOSS, loss))
        return cls(1, loss, loss * loss)


MAX_LOSS = 1.0
"""One answer that is far less likely must not outweigh all others: e times for each token is enough."""


@dataclass(frozen=True, slots=True)
class AnswerPairs:
    """Pairs of generated answers; they add up.

    `greedy` are the calls whose answers chance has no part in, and `identical` those of them that both
    versions answer word for word the same: a number to read, as the same weights in another precision answer
    otherwise.
    """

    pairs: int = 0
    faults: Mapping[str, FaultyAnswers] = field(default_factory=dict)
    """By the words of `rollout.answers.Fault`."""
    greedy: int = 0
    identical: int = 0
    losses: Losses = Losses()

    def __add__(self, other: AnswerPairs) -> AnswerPairs:
        faults = {
            name: self.faults.get(name, FaultyAnswers()) + other.faults.get(name, FaultyAnswers())
            for name in {**self.faults, **other.faults}
        }
        return AnswerPairs(
            self.pairs + other.pairs,
            faults,
            self.greedy + other.greedy,
            self.identical + other.identical,
            self.losses + other.losses,
        )

    def __neg__(self) -> AnswerPairs:
        return AnswerPairs(
            -self.pairs,
            {name: -fault for name, fault in self.faults.items()},
            -self.greedy,
            -self.identical,
            -self.losses,
        )

    def __sub__(self, earlier: AnswerPairs) -> AnswerPairs:
        return self + -earlier


def add_pairs(one: AnswerPairs | None, other: AnswerPairs | None) -> AnswerPairs | None:
    """Add the pairs of versions or workers; None is of one that generates no text."""
    if one is None or other is None:
        return one if other is None else other
    return one + other
