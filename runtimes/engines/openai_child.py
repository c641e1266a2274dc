"""A model whose engine is a child process that speaks the OpenAI API, as the worker sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtimes.engines.process import EngineProcess
from runtimes.engines.task import Task


@dataclass(frozen=True, slots=True)
class OpenAIChild:
    """An `OpenAIModel`: a process that answers, and what is known of it."""

    process: EngineProcess
    platform: str
    device: str
    tasks: frozenset[Task]
    slots: int
    context: int
    has_tools: bool
    can_score: bool = False
    """Whether it answers `POST /score`, see `runtimes.engines.transformers_scoring`."""

    @property
    def socket(self) -> Path:
        """The Unix socket on which the engine speaks HTTP/1.1."""
        return self.process.socket

    def is_alive(self) -> bool:
        """Whether its process still runs."""
        return self.process.is_alive()

    def failure(self) -> str:
        """Return why its process ended, with the end of its log; "" while it runs."""
        return self.process.failure()

    def close(self) -> None:
        """End the process."""
        self.process.close()
