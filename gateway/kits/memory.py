"""How much memory a kit's model needs, as far as its files tell, and whether a machine has it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import NoMemory, UnusableModel
from gateway.kits.language import LanguageModel
from gateway.kits.library import UnpackedKit
from gateway.kits.model import naming
from gateway.metrics.machine import MachineMemory
from gateway.wording import counted, size
from runtimes.engines.base import EngineRuntime, MeasuringRuntime, Memory, OutliningRuntime
from runtimes.engines.task import Task
from runtimes.select import Choice

_ADVICE = (
    "set a smaller `context` or fewer `slots` in the model's `engine`, take a kit with fewer bits per weight"
)


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes, and for what."""

    memory: Memory
    slots: int = 0
    """How many calls a language model has room for; 0 for another model."""
    context: int | None = None
    """How many tokens each slot has; None where that is known only once it is loaded, or there are none."""
    tasks: tuple[Task, ...] = ()
    """What it can be asked for, as far as that is known."""
    is_guess: bool = False
    """Whether the buffers are guessed, as no shapes within the model are known."""

    @property
    def advice(self) -> str:
        """What makes the need smaller."""
        return _ADVICE if self.slots else "take a kit with a smaller model"

    def __str__(self) -> str:
        """Write the sum: "3.0 GiB: 2.0 GiB weights + 1.0 GiB key-value cache (4 slots of 8192 tokens)"."""
        slots = f"{counted(self.slots, 'slot')}"
        tokens = f" of {self.context} tokens" if self.context is not None else ""
        parts = [
            (self.memory.weights, "weights"),
            (self.memory.cache, f"key-value cache ({slots}{tokens})"),
            (self.memory.other, "buffers (a guess)" if self.is_guess else "buffers"),
        ]
        terms = [f"{size(number)} {name}" for number, name in parts if number]
        return f"{size(self.memory.total)}: {' + '.join(terms)}"


def need_of(kit: UnpackedKit, choice: Choice, language: LanguageModel) -> Need | None:
    """Return what a kit's model needs; None where that is not known before it is loaded.

    Raises UnusableModel where the file's header cannot be read.
    """
    runtime, options = choice.runtime, language.options
    if not isinstance(runtime, MeasuringRuntime):
        return None
    with naming(kit):
        memory = runtime.memory(choice.path, options)
        if not isinstance(runtime, EngineRuntime):
            return Need(memory)
        if not isinstance(runtime, OutliningRuntime):
            return Need(
                memory, options.slots, options.context, () if options.task is None else (options.task,)
            )
        outline = runtime.outline(choice.path, options)
        return Need(memory, options.slots, outline.context, tuple(sorted(outline.tasks)))


def check_total(kit: UnpackedKit, need: Need, machine: MachineMemory) -> None:
    """Raise UnusableModel where a machine never has the memory that a model needs."""
    if need.memory.total > machine.total - machine.reserve:
        raise UnusableModel(
            f"{kit.kit.reference}: needs {need}; this machine has {size(machine.total)}; "
            f"{need.advice}, or use a larger machine"
        )


def no_memory(kit: UnpackedKit, need: Need, machine: MachineMemory) -> NoMemory:
    """Return the error for a machine that lacks the memory now."""
    return NoMemory(
        f"{kit.kit.reference}: needs {need}; {free(machine)}; {need.advice}, or stop what takes the memory"
    )


def free(machine: MachineMemory) -> str:
    """Return how much memory is free: "6.1 GiB are free of 23.7 GiB"."""
    return f"{size(machine.free)} are free of {size(machine.total)}"
