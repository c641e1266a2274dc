"""How much memory ONNX Runtime's arena takes for tensors that come and go. Pure.

As onnxruntime/core/framework/bfc_arena.cc and mem_pattern_planner.h have it, with an arena that extends by
what is asked for.
"""

from __future__ import annotations

from bisect import bisect_left, insort

_ALIGNMENT = 256
_MAX_DEAD_BYTES = 128 * 1024 * 1024
"""A chunk is split if it is twice as large as what is asked for, or so much would be left of it."""


class Arena:
    """An arena of regions, each of chunks; addresses are (region, offset)."""

    def __init__(self) -> None:
        self.taken = 0
        """Bytes of all regions."""
        self._regions = 0
        self._free: list[tuple[int, int, int]] = []  # (size, region, offset), sorted
        self._starts: dict[tuple[int, int], int] = {}  # of free chunks: their size
        self._ends: dict[tuple[int, int], int] = {}  # of free chunks: where they start

    def allocate(self, size: int) -> tuple[int, int, int]:
        """Return a chunk as (region, offset, its size) for `size` bytes, at least 1."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        place = bisect_left(self._free, (size, -1, -1))
        if place == len(self._free):
            self.taken += size
            self._regions += 1
            return self._regions, 0, size
        whole, region, offset = self._free[place]
        self._remove(whole, region, offset)
        if whole >= 2 * size or whole - size >= _MAX_DEAD_BYTES:
            self._insert(whole - size, region, offset + size)
            whole = size
        return region, offset, whole

    def release(self, chunk: tuple[int, int, int]) -> None:
        """Give a chunk back; it becomes one with its free neighbours."""
        region, offset, size = chunk
        if (after := self._starts.get((region, offset + size))) is not None:
            self._remove(after, region, offset + size)
            size += after
        if (start := self._ends.get((region, offset))) is not None:
            self._remove(offset - start, region, start)
            offset, size = start, size + offset - start
        self._insert(size, region, offset)

    def _insert(self, size: int, region: int, offset: int) -> None:
        insort(self._free, (size, region, offset))
        self._starts[region, offset] = size
        self._ends[region, offset + size] = offset

    def _remove(self, size: int, region: int, offset: int) -> None:
        del self._free[bisect_left(self._free, (size, region, offset))]
        del self._starts[region, offset]
        del self._ends[region, offset + size]


class Pattern:
    """One block for all tensors of a call, each at an offset that is free while it lives."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of the block."""
        self._blocks: list[tuple[int, int]] = []  # (offset, size), sorted

    def allocate(self, size: int) -> tuple[int, int]:
        """Return the smallest gap that is enough, as (offset, size)."""
        current, waste, best = 0, None, None
        for offset, taken in self._blocks:
            gap = offset - current
            if gap >= size and (waste is None or gap - size < waste):
                waste, best = gap - size, current
            current = offset + taken
        block = (current if best is None else best, size)
        insort(self._blocks, block)
        self.size = max(self.size, block[0] + size)
        return block

    def release(self, block: tuple[int, int]) -> None:
        """Give a tensor's place back."""
        del self._blocks[bisect_left(self._blocks, block)]
