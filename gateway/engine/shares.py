"""Fairness between callers: whose turn it is, and who goes when there is no room for all.

A caller is what the edge says it is, in `wire.headers.SOURCE_HEADER`. Calls that did not come through the
edge are one caller, b"".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Protocol, TypeVar


class Sourced(Protocol):
    """Something of a caller's."""

    source: bytes


Item = TypeVar("Item", bound=Sourced)


def displaced(waiting: Iterable[tuple[Item, int]], source: bytes, size: int, lacking: int) -> list[Item]:
    """Return what makes room for one more thing of a caller: the newest of the caller who has most.

    Nothing is displaced where the caller itself would then have as much as any other, or where one caller's
    things are not enough.

    Args:
        waiting: what waits, oldest first, with the sizes of each.
        source: whose the new thing is.
        size: its size.
        lacking: how much room it lacks.
    """
    items = list(waiting)
    held: dict[bytes, int] = {}
    for item, item_size in items:
        held[item.source] = held.get(item.source, 0) + item_size
    own = held.get(source, 0) + size
    largest = max(held, key=held.__getitem__, default=source)
    spare = held.get(largest, 0) - own
    freed = 0
    victims: list[Item] = []
    for item, item_size in reversed(items):
        if freed >= lacking or freed >= spare:
            break
        if item.source == largest:
            victims.append(item)
            freed += item_size
    return victims if freed >= lacking and spare > 0 else []


class Rounds(SimpleQueue[Item | None]):
    """A queue from which one thread takes in turn what different callers have put there.

    None ends it, once all else is taken. While nobody waits it is as quick as the queue that it is made of,
    and nearly so while one caller does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._take = super().get
        self._has_none = super().empty
        self._run: deque[Item] = deque()
        """What was taken out of the queue, while all of it is one caller's."""
        self._by_source: dict[bytes, deque[Item]] = {}
        """The same where it is of several, who come in this order."""
        self._sorted = 0
        self._is_ending = False

    def get(self, block: bool = True, timeout: float | None = None) -> Item | None:
        """Take the next one. Raises Empty."""
        run = self._run
        if not run and not self._sorted:
            if self._is_ending:
                return None
            item = self._take(block, timeout)
            if item is None or self._has_none():
                return item
            run.append(item)
        while not self._has_none():
            item = self._take()
            if item is None:
                self._is_ending = True
            elif run and item.source == run[0].source:
                run.append(item)
            else:
                self._sort(item)
        return self._pop() if self._sorted else run.popleft()

    def get_nowait(self) -> Item | None:
        """Take the next one. Raises Empty."""
        run = self._run
        return run.popleft() if run and self._has_none() else self.get(False)

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._run and not self._sorted and self._has_none()

    def qsize(self) -> int:
        """Return how many there are."""
        return len(self._run) + self._sorted + super().qsize()

    def _sort(self, item: Item) -> None:
        run, by_source = self._run, self._by_source
        if run:
            by_source[run[0].source] = run.copy()
            self._sorted = len(run)
            run.clear()
        self._sorted += 1
        items = by_source.get(item.source)
        if items is None:
            by_source[item.source] = deque((item,))
        else:
            items.append(item)

    def _pop(self) -> Item:
        self._sorted -= 1
        by_source = self._by_source
        source = next(iter(by_source))
        items = by_source[source]
        item = items.popleft()
        if not items:
            del by_source[source]
        elif len(by_source) > 1:
            # The others come first now.
            by_source[source] = by_source.pop(source)
        return item
