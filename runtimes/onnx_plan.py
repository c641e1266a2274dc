"""How much memory a graph takes for its activations, by the plan that ONNX Runtime makes for it. Pure.

As onnxruntime/core/framework/allocation_planner.cc has it for one stream: a tensor is computed in place of
an input that nobody needs any more, or in the buffer of an earlier one of the same shape, or gets a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from runtimes.arena import Arena, Pattern
from runtimes.onnx_graph import Graph, Node, Shape

_SHARING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators whose output is their first input with another shape."""
_IN_PLACE = frozenset(
    {
        "Clip",
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Tanh",
        "ThresholdedRelu",
    }
)
_FUSING = frozenset({"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"})
_FUSED = frozenset({"BatchNormalization", "Add", "Sub", "Mul", "Div"})
"""Operators that become a part of one of `_FUSING` before them, if all else that they take is constant."""


@dataclass(slots=True)
class _Plan:
    """Which buffer each tensor is in; a buffer has the name of its first tensor."""

    buffers: dict[str, str]
    uses: Counter[str]
    """How often a buffer is read, or is an output."""


def activation_bytes(graph: Graph, sizes: Mapping[str, int]) -> int:
    """Return the bytes that an arena takes beside weights, once a call has come twice.

    The first call takes tensor by tensor. For the second one there is a block for all of them.

    Args:
        graph: the graph.
        sizes: the bytes of each tensor in such a call; one that is not there takes none.
    """
    nodes = _without_constants(graph)
    plan = _plan(graph, nodes, sizes)
    left, arena, pattern = Counter(plan.uses), Arena(), Pattern()
    chunks: dict[str, tuple[int, int, int]] = {}
    blocks: dict[str, tuple[int, int]] = {}
    outputs = {plan.buffers[name] for name in graph.outputs if name in plan.buffers}

    def take(name: str, is_planned: bool) -> None:
        size = sizes[name]
        if plan.buffers[name] == name and size:
            chunks[name] = arena.allocate(size)
            if is_planned and name not in outputs:
                blocks[name] = pattern.allocate(size)

    def give_back(buffer: str) -> None:
        if buffer in chunks:
            arena.release(chunks.pop(buffer))
        if buffer in blocks:
            pattern.release(blocks.pop(buffer))

    for name in graph.inputs:
        if name in plan.buffers:
            take(name, False)
    for node in nodes:
        for name in node.outputs:
            if name in plan.buffers:
                take(name, True)
        for name in (*node.inputs, *node.outputs):
            buffer = plan.buffers.get(name)
            if buffer is None:
                continue
            left[buffer] -= 1
            if not left[buffer]:
                give_back(buffer)
    for buffer in list(chunks):
        give_back(buffer)
    if pattern.size:
        arena.allocate(pattern.size)
    return arena.taken


def _without_constants(graph: Graph) -> list[Node]:
    """Return the nodes that are computed for each call, and add what the others give to the constants."""
    nodes = []
    for node in graph.nodes:
        if all(name in graph.constants for name in node.inputs if name):
            graph.constants.update(node.outputs)
        else:
            nodes.append(node)
    return nodes


def _plan(graph: Graph, nodes: list[Node], sizes: Mapping[str, int]) -> _Plan:
    """Return the buffers of all tensors, as ONNX Runtime would plan them."""
    readers = Counter(name for node in nodes for name in node.inputs)
    readers.update(graph.outputs)
    plan = _Plan({}, Counter())
    left: Counter[str] = Counter()
    free: dict[Shape, list[str]] = {}
    computed: set[str] = set()  # by an operator of `_FUSING`, with what follows it
    kept = set(graph.outputs)
    for name in graph.inputs:
        if name in sizes:
            plan.buffers[name] = name
            plan.uses[name] = left[name] = readers[name]

    def place(node: Node, output: str) -> str:
        shape = graph.shapes.get(output)
        is_comparable = shape is not None and shape.is_comparable
        if output == node.outputs[0] and node.operator in _SHARING and node.inputs[0] in plan.buffers:
            return plan.buffers[node.inputs[0]]
        if output in kept:
            return output
        is_fused = output in computed and node.operator not in _FUSING
        if output == node.outputs[0] and (is_fused or (node.operator in _IN_PLACE and is_comparable)):
            for name in node.inputs:
                buffer = plan.buffers.get(name, "")
                is_free = left[buffer] == 1 and buffer not in graph.inputs
                if is_free and sizes[name] == sizes[output]:
                    return buffer
        if shape is not None and is_comparable and (released := free.get(shape)):
            return released.pop()
        return output

    for node in nodes:
        follows = all(name in computed or name in graph.constants for name in node.inputs if name)
        if node.operator in _FUSING or (node.operator in _FUSED and follows):
            computed.update(node.outputs[:1])
        for output in node.outputs:
            if output not in sizes:
                continue
            buffer = place(node, output)
            plan.buffers[output] = buffer
            # One for the node itself, which reads none of its outputs.
            plan.uses[buffer] += readers[output] + 1
            left[buffer] += readers[output] + 1
        for name in (*node.inputs, *node.outputs):
            used = plan.buffers.get(name)
            if used is None:
                continue
            left[used] -= 1
            is_free = not left[used] and used not in graph.inputs and used not in kept
            if is_free and (shape := graph.shapes.get(used)) is not None:
                free.setdefault(shape, []).append(used)
    return plan
