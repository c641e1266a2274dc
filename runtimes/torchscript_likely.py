"""What a TorchScript program most likely takes, by what it does with its arguments first.

The format records neither datatypes nor shapes. Nothing here binds callers: it serves to make up values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.base import Datatype

# Which argument of an operator is of which datatype, so that an input that becomes it most likely is, too.
_DATATYPES: Mapping[str, tuple[int, Datatype]] = {
    "aten::embedding": (1, Datatype.INT64),
    "aten::embedding_bag": (1, Datatype.INT64),
    "aten::one_hot": (0, Datatype.INT64),
    "aten::gather": (2, Datatype.INT64),
    "aten::index_select": (2, Datatype.INT64),
    "aten::masked_fill": (1, Datatype.BOOL),
    "aten::masked_fill_": (1, Datatype.BOOL),
    "aten::where": (0, Datatype.BOOL),
}
# Operators whose result has the datatype of their first argument, or a shape that says what it had.
_RESHAPING = ("aten::flatten", "aten::reshape", "aten::view")
_KEEPING_DATATYPE = frozenset(
    {
        *_RESHAPING,
        "aten::clone",
        "aten::contiguous",
        "aten::detach",
        "aten::expand",
        "aten::permute",
        "aten::select",
        "aten::slice",
        "aten::squeeze",
        "aten::transpose",
        "aten::unsqueeze",
    }
)
_KEEPING_SHAPE = frozenset(
    {
        *_RESHAPING,
        "aten::add",
        "aten::clone",
        "aten::contiguous",
        "aten::detach",
        "aten::div",
        "aten::dropout",
        "aten::mul",
        "aten::sub",
        "aten::to",
    }
)
_LONGEST_WAY = 32

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likely:
    """What the arguments of a program most likely are, by their names; where nothing is known, none is."""

    datatypes: Mapping[str, Datatype]
    shapes: Mapping[str, Shape]
    usual: Datatype
    """The datatype of the weights."""


def likely(module: Any, names: Sequence[str]) -> Likely:
    """Return what a compiled module's arguments, called `names`, most likely are."""
    graph = module.inlined_graph
    inputs = dict(zip([value.debugName() for value in list(graph.inputs())[1:]], names, strict=False))
    datatypes: dict[str, Datatype] = {}
    for operator, (position, datatype) in _DATATYPES.items():
        for node in graph.findAllNodes(operator, recurse=True):
            name = inputs.get(_source(list(node.inputs())[position], _KEEPING_DATATYPE))
            if name is not None:
                datatypes.setdefault(name, datatype)
    shapes: dict[str, Shape] = {}
    for operator, (position, weight_position, shape_of) in _SHAPES.items():
        for node in graph.findAllNodes(operator, recurse=True):
            arguments = list(node.inputs())
            name = inputs.get(_source(arguments[position], _KEEPING_SHAPE))
            weight = _weight(arguments[weight_position], module)
            if name is not None and weight is not None:
                shapes.setdefault(name, shape_of(tuple(weight.shape), arguments))
    return Likely(datatypes, shapes, _usual_datatype(module))


def _linear(weight: Shape, _arguments: Sequence[Any]) -> Shape:
    return (-1, weight[-1])


def _product(weight: Shape, _arguments: Sequence[Any]) -> Shape:
    return (-1, weight[0])


def _convolution(weight: Shape, arguments: Sequence[Any]) -> Shape:
    groups = arguments[8 if len(arguments) > 8 else 6].toIValue()
    channels = weight[1] * (groups if isinstance(groups, int) else 1)
    return (-1, channels, *([-1] * (len(weight) - 2)))


def _table(_weight: Shape, _arguments: Sequence[Any]) -> Shape:
    return (-1, -1)


def _recurrent(weight: Shape, _arguments: Sequence[Any]) -> Shape:
    return (-1, -1, weight[-1])


# Which argument is the input, which the weight (or a list that begins with it), and the shape by that.
_SHAPES: Mapping[str, tuple[int, int, Callable[[Shape, Sequence[Any]], Shape]]] = {
    "aten::linear": (0, 1, _linear),
    "aten::matmul": (0, 1, _product),
    "aten::mm": (0, 1, _product),
    "aten::conv1d": (0, 1, _convolution),
    "aten::conv2d": (0, 1, _convolution),
    "aten::conv3d": (0, 1, _convolution),
    "aten::_convolution": (0, 1, _convolution),
    "aten::embedding": (1, 0, _table),
    "aten::embedding_bag": (1, 0, _table),
    "aten::gru": (0, 2, _recurrent),
    "aten::lstm": (0, 2, _recurrent),
    "aten::rnn_relu": (0, 2, _recurrent),
    "aten::rnn_tanh": (0, 2, _recurrent),
}


def _usual_datatype(module: Any) -> Datatype:
    """Return the datatype of the first weight that is a fraction: inputs are most likely alike."""
    import torch

    names = {torch.float16: Datatype.FP16, torch.bfloat16: Datatype.BF16, torch.float64: Datatype.FP64}
    for weight in module.parameters():
        if weight.is_floating_point():
            return names.get(weight.dtype, Datatype.FP32)
    return Datatype.FP32


def _source(value: Any, keeping: frozenset[str]) -> str:
    """Return the name of the value that `value` was made of by operators that are `keeping`."""
    for _ in range(_LONGEST_WAY):
        node = value.node()
        if node.kind() in keeping:
            value = next(iter(node.inputs()))
        elif node.kind() == "prim::If":
            # Either branch will do: both have a value of one type.
            position = [output.debugName() for output in node.outputs()].index(value.debugName())
            value = list(list(node.blocks())[-1].outputs())[position]
        else:
            break
    name: str = value.debugName()
    return name


def _weight(value: Any, module: Any) -> Any:
    """Return the module's tensor that a value is, or the first of its list; None where it is none."""
    import torch

    path: list[str] = []
    if value.node().kind() == "prim::ListConstruct":
        value = next(iter(value.node().inputs()), value)
    while value.node().kind() == "prim::GetAttr":
        path.append(value.node().s("name"))
        value = next(iter(value.node().inputs()))
    weight = value.toIValue() if not path else module
    for name in reversed(path):
        weight = getattr(weight, name, None)
    if isinstance(weight, list) and weight:
        weight = weight[0]
    return weight if isinstance(weight, torch.Tensor) and weight.ndim > 1 else None
