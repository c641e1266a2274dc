"""One call on a model, as each protocol's decoder makes it and each encoder answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtimes.base import Array


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an output is to be answered: as raw bytes or in JSON; all of it, or its `classes` largest."""

    binary: bool = False
    classes: int = 0


IN_JSON = Wanted()
IN_BINARY = Wanted(binary=True)


# Not frozen: one is made for each call, and freezing makes that three times as slow.
@dataclass(slots=True)
class Call:
    """One decoded request. `outputs` is empty when all are wanted; `others` is how they are then.

    `timeout_us` is how long its caller waits for it, in microseconds; 0 is for ever.
    """

    id: str
    inputs: dict[str, Array]
    outputs: Mapping[str, Wanted] = field(default_factory=dict)
    others: Wanted = IN_JSON
    timeout_us: int = 0
