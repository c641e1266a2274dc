"""The interfaces of a runtime whose engine is a process of its own, and how such an engine is started.

The engine speaks HTTP/1.1 on a Unix socket, by the OpenAI API (https://platform.openai.com/docs/api-reference).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from runtimes.base import LoadedModel, Resources, Runtime
from runtimes.engines.task import Task


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that is applied to a model when it is loaded."""

    path: Path
    """A GGUF file, or a directory of PEFT's."""
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine loads a language model; None leaves a value to the model's file, or to the engine."""

    name: str = ""
    """What answers call the model; "" leaves it to the engine."""
    context: int | None = None
    """How many tokens a call may have, its prompt and its answer together."""
    slots: int = 4
    """How many calls run at a time."""
    batch: int = 512
    """How many tokens of prompts are computed at a time: a call is cancelled between two of these."""
    task: Task | None = None
    """EMBEDDING or RERANK for a model that does not say so itself."""
    chat_template: str | None = None
    """A Jinja template in place of the model's own."""
    projector: Path | None = None
    """The file that makes images into tokens (llama.cpp: mmproj)."""
    draft: Path | None = None
    """A smaller model that guesses what this one says (speculative decoding)."""
    adapters: tuple[Adapter, ...] = ()


DEFAULT_OPTIONS = EngineOptions()


@dataclass(frozen=True, slots=True)
class Memory:
    """How many bytes of memory a model takes, before it is loaded."""

    weights: int
    cache: int = 0
    """The key-value cache of all slots together."""
    other: int = 0
    """Buffers of the engine, and its own process."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.other


@dataclass(frozen=True, slots=True)
class Outline:
    """What a model will be once it is loaded, by its files and the options."""

    tasks: frozenset[Task]
    context: int
    """How many tokens a call will have, its prompt and its answer together."""


@runtime_checkable
class OpenAIModel(LoadedModel, Protocol):
    """The capability to answer calls of the OpenAI API, in a process of its own."""

    @property
    def socket(self) -> Path:
        """The Unix socket on which the engine speaks HTTP/1.1; no other user of the machine can open it."""
        ...

    @property
    def tasks(self) -> frozenset[Task]:
        """What it can be asked for."""
        ...

    @property
    def slots(self) -> int:
        """How many calls run at a time."""
        ...

    @property
    def context(self) -> int:
        """How many tokens a call may have, its prompt and its answer together."""
        ...

    @property
    def has_tools(self) -> bool:
        """Whether its chat template knows tools."""
        ...

    def is_alive(self) -> bool:
        """Whether its process still runs."""
        ...

    def failure(self) -> str:
        """Return why its process ended, with the end of its log; "" while it runs."""
        ...


@runtime_checkable
class ScoringModel(OpenAIModel, Protocol):
    """The capability to say how likely an answer is that is given, by `POST /score` on the same socket.

    The call is `{"prompt" or "messages": …, "answer": …}` with what else the prompt is made of (`tools`,
    `chat_template_kwargs`). What comes back is `{"logprob": …, "tokens": …}`: the sum over the tokens of the
    answer, and their number.
    """

    @property
    def can_score(self) -> bool:
        """Whether this model's engine does."""
        ...


@runtime_checkable
class MeasuringRuntime(Runtime, Protocol):
    """A runtime that can tell what memory a model takes before it is loaded."""

    def memory(self, path: Path, options: EngineOptions) -> Memory:
        """Return what loading the model takes on a CPU, from its files' headers. Raises LoadError."""
        ...


@runtime_checkable
class EngineRuntime(MeasuringRuntime, Protocol):
    """A runtime whose engine is a process of its own; its `load` is `start` with the default options."""

    def start(self, path: Path, resources: Resources, options: EngineOptions) -> OpenAIModel:
        """Start the engine on the model at `path`, and return once it answers.

        Raises LoadError, with the engine's own reason, where it refuses the file or the options.
        """
        ...


@runtime_checkable
class OutliningRuntime(EngineRuntime, Protocol):
    """A runtime that can tell what a model will be before it is loaded."""

    def outline(self, path: Path, options: EngineOptions) -> Outline:
        """Return what `start` will make of the model. Raises LoadError."""
        ...
