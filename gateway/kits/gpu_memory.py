"""What a kit's model takes of a GPU's memory, by its files, before it is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gateway.gpus.placement import Demand
from gateway.kits.language import LanguageModel
from gateway.kits.library import UnpackedKit
from gateway.kits.memory import Need, need_of
from gateway.kits.model import naming
from gateway.serving import Serving
from gateway.wording import size
from runtimes import onnx_external, onnx_file
from runtimes.base import Datatype, EstimatingRuntime, Resources, Signature, TensorSpec
from runtimes.cuda import CONTEXT_BYTES
from runtimes.engines.base import EngineRuntime, Memory
from runtimes.errors import LoadError
from runtimes.formats import Format, identify
from runtimes.select import Choice

_ALIVE = 14
"""How many times the size of a call's tensors an engine takes, where its runtime does not tell."""
LENGTH = 128
"""Of an axis whose length only calls tell, but for that of the batch."""
_TEXT_BYTES = 64  # of a text
_WIDE = 8  # bytes of a number whose datatype is the caller's


def gpu_need(kit: UnpackedKit, choice: Choice, language: LanguageModel, serving: Serving) -> Need:
    """Return what a model takes on a GPU, with CUDA's own part.

    Raises:
        UnusableModel: where the file's header cannot be read.
    """
    if isinstance(choice.runtime, EngineRuntime):
        need = need_of(kit, choice, language)
        if need is not None and need.memory.weights:
            memory = need.memory
            own = Memory(memory.weights, memory.cache, memory.other + CONTEXT_BYTES)
            return Need(own, need.slots, need.context, need.tasks)
    with naming(kit):
        signature = choice.runtime.signature(choice.path)
    rows = 1 if serving.batching is None else serving.batching.max_batch_size
    activations = None
    if isinstance(choice.runtime, EstimatingRuntime):
        activations = choice.runtime.activations(choice.path, rows, LENGTH)
    is_guess = activations is None
    if activations is None:
        activations = 0 if signature is None else activation_bytes(signature, rows)
    memory = Memory(weight_bytes(choice.path), 0, activations + CONTEXT_BYTES)
    return Need(memory, is_guess=is_guess)


def believed(measured: int | None, weights: int, room: int) -> int | None:
    """Return what a worker said that it took, as far as that can be; a kit's code may have said it.

    Args:
        measured: what it said, in bytes, on all its GPUs.
        weights: the least that the model takes, in bytes.
        room: what so many of the largest GPUs here have, in bytes; what is above that is no measurement.
    """
    return None if measured is None or measured > room else max(measured, weights)


def gpu_demand(resources: Resources, need: Need | None, measured: int | None) -> Demand:
    """Return what a worker is to get: what its config says, or what was measured, or what its files tell.

    Args:
        resources: as the config has them.
        need: what its files tell; None where they do not.
        measured: what a worker with the same kit and settings took, in bytes, on all its GPUs.
    """
    number = gpu_count(resources)
    whole = resources.gpus >= 1 and resources.gpu_memory is None
    if resources.gpu_memory is not None:
        terms = f"{size(resources.gpu_memory)} (`gpu_memory`)"
        return Demand(resources.gpu_memory, terms, resources.pinned)
    if measured is not None:
        terms = f"{size(measured)} (as measured)"
        return Demand(measured // number, terms, resources.pinned, whole)
    if need is None:
        return Demand(None, "a GPU of its own, as nobody knows its need", resources.pinned, whole)
    return Demand(need.memory.total // number, str(need), resources.pinned, whole)


def gpu_count(resources: Resources) -> int:
    """Return how many GPUs a worker gets."""
    return max(1, len(resources.pinned), math.ceil(resources.reserved_gpus))


def least_bytes(choice: Choice) -> int:
    """Return the least that a model takes of GPUs, whatever is said of it: its weights.

    An engine of language models may leave weights in the main memory, or load fewer bits of each.
    """
    return 0 if isinstance(choice.runtime, EngineRuntime) else weight_bytes(choice.path)


def weight_bytes(path: Path) -> int:
    """Return the bytes of a model's weights, as its files have them: a file's with the data beside it.

    Weights are on the GPU in the datatype of the file.
    """
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size + sum(file.stat().st_size for file in _beside(path))


def activation_bytes(signature: Signature, rows: int) -> int:
    """Return the bytes that an engine takes to compute a call of so many rows, about."""
    return _ALIVE * (_total(signature.inputs, rows) + _total(signature.outputs, rows))


def _beside(model: Path) -> Iterable[Path]:
    """Return the files that hold weights of an ONNX model, or the other parts of a model in safetensors."""
    if model.name.endswith((".safetensors", ".safetensors.index.json")):
        return [file for file in model.parent.glob("*.safetensors") if file != model and file.is_file()]
    if identify(model) is not Format.ONNX:
        return []
    with suppress(LoadError):
        return onnx_external.present(model, onnx_file.external_files(model))
    # What is wrong with it is told when it is loaded.
    return []


def _total(tensors: Iterable[TensorSpec], rows: int) -> int:
    return sum(_bytes(spec, rows) for spec in tensors)


def _bytes(spec: TensorSpec, rows: int) -> int:
    shape = spec.shape if spec.shape is not None else spec.likely_shape
    if shape is None:
        shape = (-1, LENGTH)
    first, others = (shape[0], shape[1:]) if shape else (1, ())
    count = (rows if first < 0 else max(first, 1)) * math.prod(LENGTH if n < 0 else n for n in others)
    usual = spec.usual
    width = _TEXT_BYTES if usual is Datatype.BYTES else usual.numpy.itemsize or _WIDE
    return count * width
