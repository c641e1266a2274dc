"""A runtime for language models whose engine is made up."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from runtimes.base import Resources, Signature
from runtimes.engines.base import EngineOptions, Memory, OpenAIModel, Outline
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.formats import Format

GIB = 1024**3


class MadeUpEngine:
    """An engine that answers nobody; it remembers how it was started."""

    platform = "test_engine"
    device = "cpu"
    tasks = frozenset({Task.CHAT, Task.COMPLETION})
    slots = 4
    context = 2048
    has_tools = False

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.path = path
        self.options = options
        self.socket = path.with_suffix(".sock")
        self.is_closed = False

    def is_alive(self) -> bool:
        return not self.is_closed

    def failure(self) -> str:
        return "closed" if self.is_closed else ""

    def close(self) -> None:
        self.is_closed = True


class MadeUpEngines:
    """Starts made-up engines on GGUF files, each of which takes `needed` memory."""

    name: ClassVar[str] = "made-up"
    formats: ClassVar[tuple[Format, ...]] = (Format.GGUF,)

    def __init__(self, needed: Memory | None = None) -> None:
        self.needed = needed or Memory(GIB)
        self.started: list[MadeUpEngine] = []

    def load(self, path: Path, resources: Resources) -> OpenAIModel:
        return self.start(path, resources, EngineOptions())

    def start(self, path: Path, resources: Resources, options: EngineOptions) -> OpenAIModel:
        if path.read_bytes() == b"GGUF broken":
            raise LoadError(f"{path}: the engine refuses it")
        self.started.append(MadeUpEngine(path, options))
        return self.started[-1]

    def memory(self, path: Path, options: EngineOptions) -> Memory:
        return self.needed

    def outline(self, path: Path, options: EngineOptions) -> Outline:
        return Outline(MadeUpEngine.tasks, options.context or MadeUpEngine.context)

    def signature(self, path: Path) -> Signature | None:
        return None
