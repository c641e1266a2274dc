"""The watch over a language model's engine: whether its process still runs, and whether it still works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from runtimes.engines import sockets

_ALIVE_SECONDS = 0.2
_PAUSE = 5.0

PATIENCE: Mapping[str, float] = {"/health": 30.0, "/lora-adapters": 300.0}
"""For how many seconds an engine may leave a path unanswered; any status is an answer.

A process that stands still answers nothing. llama.cpp answers `/health` also while what computes is caught in
a call, and `/lora-adapters` between two batches of tokens, of which a large one takes minutes on slow CPUs.
Other engines do not have it.
"""


class Child(Protocol):
    """A process of its own that is watched; `runtimes.base.ModelInChild` is one."""

    def is_alive(self) -> bool:
        """Whether its process still runs."""
        ...

    def failure(self) -> str:
        """Return why its process ended."""
        ...


class Engine(Child, Protocol):
    """What is watched; `runtimes.engines.base.OpenAIModel` is one."""

    @property
    def socket(self) -> Path:
        """Where it answers HTTP."""
        ...


async def end_of(engine: Engine, patience: Mapping[str, float] = PATIENCE, pause: float = _PAUSE) -> str:
    """Return why an engine is of no use any more, once it is not; `pause` is between two questions."""
    watches = [asyncio.create_task(ended(engine))]
    watches += [
        asyncio.create_task(_silent(engine, path, seconds, pause)) for path, seconds in patience.items()
    ]
    try:
        done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for watch in watches:
            watch.cancel()


async def ended(engine: Child) -> str:
    """Return why a process has ended, once it has."""
    while engine.is_alive():
        await asyncio.sleep(_ALIVE_SECONDS)
    return engine.failure()


async def _silent(engine: Engine, path: str, patience: float, pause: float) -> str:
    answered = time.monotonic()
    while (silence := time.monotonic() - answered) < patience:
        seconds = patience - silence
        if await asyncio.to_thread(sockets.status, engine.socket, path, seconds) is not None:
            answered = time.monotonic()
        await asyncio.sleep(min(pause, patience))
    return f"the engine hangs: for {silence:.0f} s it has not answered GET {path}"
