"""What the soak of attacks goes by: which kinds of attack came to their end, and how often."""

from __future__ import annotations

import pytest

from tests.support.attack import Attack
from tests.support.ports import free_port

KINDS = {
    "streams",
    "idle_connections",
    "slow_bodies",
    "large_bodies",
    "unfinished_messages",
    "inflating_bodies",
    "tiny_values",
}


def test_a_kind_of_attack_that_never_ran_is_told() -> None:
    attack = Attack(free_port(), seconds=-1)
    attack.run(())
    assert attack.rounds == dict.fromkeys(KINDS, 0)


def test_a_kind_of_attack_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Failing()
    monkeypatch.setattr(Attack, "streams", streams)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    attack = Attack(free_port(), seconds=10)
    attack.run(["streams"])
    assert (streams.count, attack.rounds) == (1, {"streams": 0})


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no kind of attack: stream$"):
        Attack(free_port(), seconds=0).run(["stream", "slow_bodies"])


class Failing:
    """A kind of attack that cannot run."""

    __name__ = "streams"

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        raise OSError
