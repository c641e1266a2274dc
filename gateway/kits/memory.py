"""How much memory a kit's language model needs, known before it is loaded, and whether a machine has it."""

from __future__ import annotations

from gateway.errors import NoMemory, UnusableModel
from gateway.kits.language import LanguageModel
from gateway.kits.library import UnpackedKit
from gateway.kits.model import naming
from gateway.metrics.machine import MachineMemory
from runtimes.engines.base import EngineOptions, EngineRuntime, Memory
from runtimes.select import Choice

_GIB, _MIB = 1024**3, 1024**2
_ADVICE = (
    "set a smaller `context` or fewer `slots` in the model's `engine`, take a kit with fewer bits per weight"
)


def needed_memory(kit: UnpackedKit, choice: Choice, language: LanguageModel) -> Memory | None:
    """Return how much memory a kit's language model takes; None for another model, of which it is not known.

    Raises UnusableModel where the file's header cannot be read.
    """
    if not isinstance(choice.runtime, EngineRuntime):
        return None
    with naming(kit):
        return choice.runtime.memory(choice.path, language.options)


def check_total(kit: UnpackedKit, need: Memory, options: EngineOptions, machine: MachineMemory) -> None:
    """Raise UnusableModel where a machine never has the memory that a model needs."""
    if need.total > machine.total:
        raise UnusableModel(
            f"{kit.kit.reference}: needs {arithmetic(need, options)}; this machine has "
            f"{size(machine.total)}; {_ADVICE}, or use a larger machine"
        )


def no_memory(kit: UnpackedKit, need: Memory, options: EngineOptions, machine: MachineMemory) -> NoMemory:
    """Return the error for a machine that lacks the memory now."""
    return NoMemory(
        f"{kit.kit.reference}: needs {arithmetic(need, options)}; {free(machine)}; {_ADVICE}, or stop what "
        "takes the memory"
    )


def arithmetic(need: Memory, options: EngineOptions) -> str:
    """Return a need and its parts: "3 GiB: 2 GiB weights + 1 GiB key-value cache (4 slots of 512 tokens)"."""
    slots = f"{options.slots} slot{'' if options.slots == 1 else 's'}"
    tokens = f" of {options.context} tokens" if options.context is not None else ""
    parts = [
        (need.weights, "weights"),
        (need.cache, f"key-value cache ({slots}{tokens})"),
        (need.other, "buffers"),
    ]
    return f"{size(need.total)}: {' + '.join(f'{size(number)} {name}' for number, name in parts if number)}"


def free(machine: MachineMemory) -> str:
    """Return how much memory is free: "6.1 GiB are free of 23.7 GiB"."""
    return f"{size(machine.free)} are free of {size(machine.total)}"


def size(number: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / _MIB:.0f} MiB"
