"""Callers take turns, and who has most makes room."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from queue import Empty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.shares import Rounds, displaced


@dataclass(eq=False)
class Thing:
    source: bytes
    number: int = 0


SOURCES = st.sampled_from([b"a", b"b", b"c"])


def test_callers_take_turns() -> None:
    rounds: Rounds[Thing] = Rounds()
    for source in (b"a", b"a", b"a", b"b", b"c", b"b"):
        rounds.put(Thing(source))
    taken = [rounds.get() for _ in range(6)]
    assert b"".join(thing.source for thing in taken if thing) == b"abcaba"
    assert rounds.empty()


@given(st.lists(SOURCES, max_size=30), st.lists(st.booleans(), max_size=60))
def test_nothing_is_lost_and_each_caller_keeps_its_order(sources: list[bytes], takes: list[bool]) -> None:
    rounds: Rounds[Thing] = Rounds()
    left = [Thing(source, number) for number, source in enumerate(sources)]
    taken: list[Thing] = []
    for is_take in [*takes, *[False] * 30, *[True] * 30]:
        if not is_take and left:
            rounds.put(left.pop(0))
        elif is_take and not rounds.empty():
            thing = rounds.get_nowait()
            assert thing is not None
            taken.append(thing)
        assert rounds.qsize() == len(sources) - len(left) - len(taken)
    assert sorted(thing.number for thing in taken) == list(range(len(sources)))
    for source in set(sources):
        numbers = [thing.number for thing in taken if thing.source == source]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("things", [0, 1, 3])
def test_the_end_comes_last(things: int) -> None:
    rounds: Rounds[Thing] = Rounds()
    for number in range(things):
        rounds.put(Thing(b"%d" % (number % 2)))
    rounds.put(None)
    assert [rounds.get() is None for _ in range(things + 1)] == [*[False] * things, True]


def test_who_waits_gets_what_comes() -> None:
    rounds: Rounds[Thing] = Rounds()
    with pytest.raises(Empty):
        rounds.get(timeout=0.01)
    with pytest.raises(Empty):
        rounds.get_nowait()
    threading.Timer(0.05, rounds.put, (Thing(b"a", 7),)).start()
    thing = rounds.get(timeout=5)
    assert thing is not None
    assert thing.number == 7


@given(
    st.lists(st.tuples(SOURCES, st.integers(0, 9)), max_size=20),
    SOURCES,
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_only_who_has_more_makes_room(
    held: list[tuple[bytes, int]], source: bytes, size: int, lacking: int
) -> None:
    waiting = [(Thing(owner), thing_size) for owner, thing_size in held]
    sizes = dict(waiting)
    victims = displaced(waiting, source, size, lacking)
    if not victims:
        return
    sums: Counter[bytes] = Counter()
    for thing, thing_size in waiting:
        sums[thing.source] += thing_size
    (largest,) = {victim.source for victim in victims}
    assert sums[largest] == max(sums.values())
    assert largest != source
    assert sums[largest] > sums[source] + size
    assert sum(sizes[victim] for victim in victims) >= lacking
    newest = [thing for thing, _ in waiting if thing.source == largest][-len(victims) :]
    assert set(newest) == set(victims)
