"""How much memory an ONNX model takes for its activations, before it is loaded.

ONNX Runtime itself infers the shapes, of the model without its weights, in a child process: a model may be
made so that this takes long, or more memory than there is.
"""

from __future__ import annotations

import logging
import math
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError
from runtimes.onnx_graph import Graph, read_graph
from runtimes.onnx_plan import activation_bytes
from runtimes.onnx_skeleton import skeleton, with_outputs, with_questions
from runtimes.protobuf import Malformed
from runtimes.trial import Trial

log = logging.getLogger(__name__)

_ELEMENT_BYTES = {
    "tensor(bool)": 1,
    "tensor(int8)": 1,
    "tensor(uint8)": 1,
    "tensor(bfloat16)": 2,
    "tensor(float16)": 2,
    "tensor(int16)": 2,
    "tensor(uint16)": 2,
    "tensor(float)": 4,
    "tensor(int32)": 4,
    "tensor(uint32)": 4,
    "tensor(string)": 32,
}
_WIDE = 8
_ROUNDS = 2
_COPY = "kitserve: copy "
_SECONDS = 30.0
_BYTES = 4 << 30
"""Of address space, beside that of the file; ONNX Runtime's libraries take half of it."""
_WRITTEN_BYTES = 256 << 20
"""Of a model as ONNX Runtime writes it, with the constants that it made of others."""


def activations(path: Path, rows: int, length: int) -> int | None:
    """Return the bytes of a call of so many rows beside the weights; None where the file does not tell.

    Why it does not is logged.

    Args:
        path: the model's file.
        rows: the length of the first axis of each input, where the file leaves it open.
        length: that of the other axes that the file leaves open.
    """
    size = _BYTES + path.stat().st_size
    with Trial("ONNX Runtime", f"{__name__}:estimate", size, path.parent, _SECONDS) as trial:
        try:
            answer = trial.ask([str(path.absolute()), rows, length])
        except LoadError as error:
            # What is wrong with the model, if anything is, is told when it is loaded.
            log.info("activations.not_told", extra={"path": str(path), "reason": str(error)})
            return None
    return answer if isinstance(answer, int) else None


def estimate(request: list[Any]) -> int:
    """Return the bytes for a path, rows and length; what the child process runs. Raises LoadError."""
    path, rows, length = request
    # The address space does not bound what is written to memory.
    resource.setrlimit(resource.RLIMIT_FSIZE, (_WRITTEN_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    bare = skeleton(Path(path))
    model = bare.model
    try:
        # What is fused in the first round has new names, which the second one asks for.
        for round_ in range(_ROUNDS):
            model = _optimised(_asking(model, bare.weights, round_))
        graph = read_graph(model, bare.weights)
    except Malformed as error:
        raise LoadError(f"{path} has shapes that are not known: {error}") from error
    graph.nodes = [node for node in graph.nodes if not any(map(_is_copy, node.outputs))]
    graph.outputs = [name for name in graph.outputs if not _is_copy(name)]
    lengths = {name: length if place else rows for name, place in bare.axes.items()}
    return activation_bytes(graph, _sizes(model, graph, lengths, length))


def _asking(model: bytes, weights: frozenset[str], round_: int) -> bytes:
    graph = read_graph(model, weights)
    if not graph.inputs:
        raise Malformed("it has no inputs")
    values = [name for node in graph.nodes for name in node.outputs if name and name not in graph.shapes]
    copies = f"{_COPY}{round_}", f"{_COPY}{round_} again"
    return with_questions(model, values, graph.inputs[0], copies)


def _is_copy(name: str) -> bool:
    return name.startswith(_COPY)


def _optimised(model: bytes) -> bytes:
    """Return the model as ONNX Runtime would compute it, with the shapes of its values. Raises LoadError."""
    import onnxruntime as ort

    options = _options()
    # Above it come layouts that CPUs alone have.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with _memory_file() as descriptor:
        options.optimized_model_filepath = f"/proc/self/fd/{descriptor}"
        _open(model, options)
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _sizes(model: bytes, graph: Graph, lengths: Mapping[str, int], length: int) -> dict[str, int]:
    """Return the bytes of all values of a graph for axes of these lengths. Raises LoadError."""
    import onnxruntime as ort

    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    for name, axis in lengths.items():
        options.add_free_dimension_override_by_name(name, axis)
    given = set(graph.outputs)
    values = dict.fromkeys(
        name for node in graph.nodes for name in node.outputs if name and name not in given
    )
    session = _open(with_outputs(model, values), options)
    sizes = {}
    for tensor in (*session.get_inputs(), *session.get_outputs()):
        if tensor.name in graph.constants or _is_copy(tensor.name):
            continue
        if not tensor.shape and tensor.name not in graph.shapes:
            raise LoadError(f"the rank of {tensor.name!r} is not known")
        axes = (axis if isinstance(axis, int) and axis >= 0 else length for axis in tensor.shape)
        sizes[tensor.name] = math.prod(axes) * _ELEMENT_BYTES.get(tensor.type, _WIDE)
    return sizes


def _options() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def _open(model: bytes, options: Any) -> Any:
    """Open a session. Raises LoadError."""
    import onnxruntime as ort

    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoadError(f"ONNX Runtime {ort.__version__} infers no shapes: {error}") from error


@contextmanager
def _memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("model")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
