"""The nodes of an ONNX graph and the shapes of its values, as ONNX Runtime writes them.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from runtimes.protobuf import Malformed, Reader, Span

_CAST = "InsertedPrecisionFreeCast_"
"""Before the name of a value that ONNX Runtime computes in FP32, as CPUs lack the operator in FP16."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a tensor and the number of its datatype; None for a length that nobody knows."""

    axes: tuple[int | str | None, ...]
    element: int

    @property
    def is_comparable(self) -> bool:
        """Whether it can be known to be the same as another one."""
        return bool(self.axes) and None not in self.axes


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with the names of its values; "" stands for one that is left out."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(slots=True)
class Graph:
    """A graph in the order in which it is computed, without the bodies of loops and branches."""

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Those of which the rank is known."""
    constants: set[str] = field(default_factory=set)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def read_graph(data: bytes, weights: Collection[str]) -> Graph:
    """Return the graph of a model.

    Args:
        data: the model.
        weights: the inputs that stand for weights.

    Raises:
        Malformed: where it is none.
    """
    reader = Reader(data)
    graph = Graph(constants=set(weights))
    for _, whole in reader.messages(reader.whole, 7):
        for number, span in reader.messages(whole, 1, 5, 11, 12, 13):
            if number == 1:
                node = _node(reader, span)
                if node.inputs != node.outputs:
                    graph.nodes.append(node)
                continue
            name = reader.string(span, 8 if number == 5 else 1)
            if number == 5:
                graph.constants.add(name)
                continue
            if number == 11 and name not in graph.constants:
                graph.inputs.append(name)
            elif number == 12:
                graph.outputs.append(name)
            if (shape := _shape(reader, span)) is not None:
                graph.shapes[name] = shape
    if not graph.nodes:
        raise Malformed("it has no nodes")
    return graph


def _node(reader: Reader, span: Span) -> Node:
    names: dict[int, list[str]] = {1: [], 2: [], 4: [""]}
    for number, inner in reader.messages(span, 1, 2, 4):
        names[number].append(reader.text(inner).removeprefix(_CAST))
    return Node(names[4][-1], tuple(names[1]), tuple(names[2]))


def _shape(reader: Reader, span: Span) -> Shape | None:
    """Return what a ValueInfoProto says of a tensor; None where it is none, or of no known rank."""
    for _, kind in reader.messages(span, 2):
        for _, tensor in reader.messages(kind, 1):
            for _, shape in reader.messages(tensor, 2):
                axes = tuple(_axis(reader, axis) for _, axis in reader.messages(shape, 1))
                return Shape(axes, reader.integer(tensor, 1) or 0)
    return None


def _axis(reader: Reader, span: Span) -> int | str | None:
    length = reader.integer(span, 1)
    return length if length is not None and length >= 0 else reader.string(span, 2) or None
