"""One call on a model, as each protocol's decoder makes it and each encoder answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtimes.base import Array


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """How an output is to be answered: as raw bytes or in JSON; all of it, or its `classes` largest."""

    binary: bool = False
    classes: int = 0


IN_JSON = RequestedOutput()
IN_BINARY = RequestedOutput(binary=True)


# Not frozen: one is made for each call, and freezing makes that three times as slow.
@dataclass(slots=True)
class Call:
    """One decoded request."""

    id: str
    inputs: dict[str, Array]
    outputs: Mapping[str, RequestedOutput] = field(default_factory=dict)
    """The outputs that are requested by name; empty where all are requested."""
    others: RequestedOutput = IN_JSON
    """How outputs are answered that are not named."""
    timeout_us: int = 0
    """How long the caller waits, in microseconds; 0: for ever."""
