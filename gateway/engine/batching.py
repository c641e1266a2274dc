"""Calls become batches: which belong together, which batch is next, and whether to wait for more of it.

A batch is made of calls whose inputs differ only in their rows (the first dimension) and that request the
same outputs; nothing is ever padded. The batch that has the oldest call is next, so that no call starves.

The calls that came while the model was busy make the next batch, without any waiting. To wait for more pays
only while calls come faster than the model could run them one by one; a call that comes later than that
finds the model free. And it pays only while more callers are expected: when as many calls wait as there were
callers lately (always so with a single caller), the batch is run at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.codec.call import Call
from gateway.engine.jobs import Job
from gateway.serving import Batching
from runtimes.base import Array, Signature, TensorSpec

Key = tuple[object, ...]

# The weight of the newest arrival or run in the estimates.
_NEWEST = 0.125
# After so many usual gaps without a call, no more is expected: of random arrivals, one in 50 is so late.
_GAPS = 4
# A caller that left is no longer waited for once the estimate of callers is this close to the calls.
_NEARLY = 0.5
_SINGLE = 1 + _NEARLY


class NotRowWise(Exception):
    """A model's outputs do not have one row for each row of its inputs."""


def obstacle(signature: Signature) -> str:
    """Return why a model's calls cannot be batched; "" when they can, as all first dimensions are free."""
    if not signature.all_outputs:
        return "the model does not say what its outputs are"
    unclear = tuple(spec for spec in signature.optional if spec.shape is None)
    for kind, specs in (("input", signature.inputs + unclear), ("output", signature.all_outputs)):
        for spec in specs:
            if not spec.shape or spec.shape[0] != -1:
                return f"{kind} {spec.name!r} {_no_rows(spec)}, so it has no batch axis"
    return ""


def _no_rows(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "has no known rank"
    return f"has shape {list(spec.shape)}, and its first dimension is not -1"


@dataclass(slots=True, eq=False)
class Item:
    """A decoded call that waits for its batch; `key` is None where it must be run alone."""

    job: Job
    call: Call
    key: Key | None
    rows: int


def rows_of(call: Call) -> int:
    """Return how many rows a call has that may be batched."""
    return max((array.shape[0] for array in call.inputs.values() if array.ndim), default=1)


def item_of(job: Job, call: Call) -> Item:
    """Return a call with the key of the calls that it may be run with."""
    rows = -1
    key: list[object] = []
    for name, array in call.inputs.items():
        shape = array.shape
        if not shape or rows not in (-1, shape[0]):
            return Item(job, call, None, 1)
        rows = shape[0]
        key.append((name, array.dtype.num, shape[1:]))
    if rows < 1:
        return Item(job, call, None, 1)
    if len(key) > 1:
        key = [frozenset(key)]
    if call.outputs:
        key.append(frozenset(call.outputs))
    return Item(job, call, tuple(key), rows)


def join_inputs(items: Sequence[Item]) -> dict[str, Array]:
    """Return the inputs of a batch; each is copied once."""
    return {name: np.concatenate([item.call.inputs[name] for item in items]) for name in items[0].call.inputs}


def split_outputs(outputs: Mapping[str, Array], items: Sequence[Item]) -> list[dict[str, Array]]:
    """Return each call's own rows of a batch's outputs, as views. Raises NotRowWise."""
    total = sum(item.rows for item in items)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise NotRowWise(f"output {name!r} has shape {list(array.shape)} for {total} rows of input")
    parts = []
    end = 0
    for item in items:
        begin, end = end, end + item.rows
        parts.append({name: outputs[name][begin:end] for name in item.call.outputs or outputs})
    return parts


class Batcher:
    """The calls that wait for a batch. It keeps no clock: times are given, in seconds."""

    def __init__(self, batching: Batching) -> None:
        self.max_rows = batching.max_batch_size
        """How many rows a batch may have."""
        self._delay = batching.max_delay
        self._groups: dict[Key, deque[Item]] = {}
        self._rows: dict[Key, int] = {}
        self._calls = 0
        # The group of the oldest call, which is the next batch's.
        self._next: Key | None = None
        # Estimates: the time between two arrivals, the time of a run, and how many callers there are.
        self._longest_gap = _GAPS * self._delay
        self._gap = self._longest_gap
        self._arrived = 0.0
        self._run = 0.0
        self._callers = 1.0

    def __len__(self) -> int:
        return self._calls

    def add(self, item: Item) -> None:
        """Have a call wait for its batch."""
        self._note_arrival(item.job.arrived)
        key = (item,) if item.key is None else item.key
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = deque((item,))
            self._rows[key] = item.rows
        else:
            group.append(item)
            self._rows[key] += item.rows
        self._calls += 1
        if self._next is None:
            self._next = key

    @property
    def is_full(self) -> bool:
        """Whether the next batch has all the rows that it may have, or takes no other call."""
        key = self._next
        return key is not None and (self._rows[key] >= self.max_rows or self._groups[key][0].key is None)

    def pause(self, now: float) -> float:
        """Return how long to wait for another call, in seconds; 0: run the next batch now."""
        if self._next is None:
            return 0.0
        left = self._groups[self._next][0].job.arrived + self._delay - now
        if self._calls >= self._callers - _NEARLY or self._gap >= min(left, self._run):
            return 0.0
        return max(0.0, min(left, self._arrived + _GAPS * self._gap - now))

    def take(self) -> list[Item]:
        """Return the next batch, oldest first. A call of more rows than a batch may have is run alone."""
        key = self._next
        if key is None:
            return []
        group, max_rows = self._groups[key], self.max_rows
        if self._rows[key] <= max_rows:
            batch = list(group)
            del self._groups[key], self._rows[key]
        else:
            batch = [group.popleft()]
            rows = batch[0].rows
            while group and rows + group[0].rows <= max_rows:
                batch.append(group.popleft())
                rows += batch[-1].rows
            self._rows[key] -= rows
            if not group:
                del self._groups[key], self._rows[key]
        self._calls -= len(batch)
        groups = self._groups
        self._next = min(groups, key=lambda key: groups[key][0].job.arrived) if groups else None
        return batch

    @property
    def is_idle(self) -> bool:
        """Whether no call waits and no more are expected: the next one may be run at once."""
        return not self._calls and self._callers < _SINGLE

    def note_single(self, arrived: float, waiting: int, seconds: float) -> None:
        """Learn from a call that was run at once, see `is_idle`."""
        self._note_arrival(arrived)
        self.note_run(1, waiting, seconds)

    def stop_batching(self) -> None:
        """Have every call run alone from now on, and at once."""
        self.max_rows = 1
        self._delay = 0.0

    def note_run(self, calls: int, waiting: int, seconds: float) -> None:
        """Learn from a run: its calls, how many more wait by now, and how long the model took."""
        callers = calls + waiting
        self._callers += (1.0 if callers > self._callers else _NEWEST) * (callers - self._callers)
        self._run += _NEWEST * (seconds - self._run) if self._run else seconds

    def _note_arrival(self, arrived: float) -> None:
        gap = arrived - self._arrived
        if gap > self._longest_gap:
            gap = self._longest_gap
        self._gap += _NEWEST * (gap - self._gap)
        self._arrived = arrived
