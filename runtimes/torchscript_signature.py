"""The signature of a TorchScript program, as far as its types and its graph say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtimes.base import ANY, Datatype, Signature, TensorSpec
from runtimes.errors import LoadError

NUMBERS: Mapping[str, Datatype] = {
    "BoolType": Datatype.BOOL,
    "IntType": Datatype.INT64,
    "FloatType": Datatype.FP64,
}
"""The types of numbers, by the name of their kind, and their datatypes."""

# Which argument of an operator is of which datatype, so that an input that becomes it most likely is, too.
_ARGUMENTS: Mapping[str, tuple[int, Datatype]] = {
    "aten::embedding": (1, Datatype.INT64),
    "aten::embedding_bag": (1, Datatype.INT64),
    "aten::one_hot": (0, Datatype.INT64),
    "aten::gather": (2, Datatype.INT64),
    "aten::index_select": (2, Datatype.INT64),
    "aten::masked_fill": (1, Datatype.BOOL),
    "aten::masked_fill_": (1, Datatype.BOOL),
    "aten::where": (0, Datatype.BOOL),
}
# Operators whose result has the datatype of their first argument.
_KEEPING = frozenset(
    {
        "aten::clone",
        "aten::contiguous",
        "aten::detach",
        "aten::expand",
        "aten::flatten",
        "aten::permute",
        "aten::reshape",
        "aten::select",
        "aten::slice",
        "aten::squeeze",
        "aten::transpose",
        "aten::unsqueeze",
        "aten::view",
    }
)
_LONGEST_WAY = 32


class _Unknown(Exception):
    """How many outputs there are is known only after a run."""


def signature_of(module: Any, path: Path) -> Signature:
    """Return a compiled module's signature; `path` is named in errors.

    The format does not record the datatypes of tensors, nor any shape. Arguments that have a default, or may
    be None, are optional inputs, numbers among them.

    Raises:
        LoadError: for an argument that is no tensor and has no default.
    """
    schema = module.forward.schema
    arguments = schema.arguments[1:]
    likely = _likely_datatypes(module, [argument.name for argument in arguments])
    usual = _usual_datatype(module)
    required: list[TensorSpec] = []
    optional: list[TensorSpec] = []
    for argument in arguments:
        name, kind, has_default = argument.name, argument.type, argument.has_default_value()
        may_be_left_out = has_default
        if kind.kind() == "OptionalType":
            kind, may_be_left_out = kind.getElementType(), True
        if kind.kind() == "TensorType":
            spec = TensorSpec(name, ANY, likely=likely.get(name, usual).value)
            (optional if may_be_left_out else required).append(spec)
        elif kind.kind() in NUMBERS and may_be_left_out:
            optional.append(TensorSpec(name, NUMBERS[kind.kind()].value, (1,)))
        elif not may_be_left_out:
            raise LoadError(f"{path}: forward takes {name!r} of {argument.type}; only tensors can be served")
    try:
        outputs = tuple(
            TensorSpec(f"output_{index}", spec.datatype, spec.shape, spec.likely)
            for index, spec in enumerate(_leaves(schema.returns[0].type, usual))
            if spec is not None
        )
    except _Unknown:
        outputs = ()
    return Signature(tuple(required), outputs, tuple(optional))


def _leaves(kind: Any, usual: Datatype) -> Iterator[TensorSpec | None]:
    """Yield the leaves of a type, in the order of `torchscript_outputs.name_outputs`; None where it is None.

    Raises:
        _Unknown: where their number, or their names, are not fixed.
    """
    name = kind.kind()
    if name == "TupleType":
        for element in kind.elements():
            yield from _leaves(element, usual)
    elif name == "TensorType":
        yield TensorSpec("", ANY, likely=usual.value)
    elif name in NUMBERS:
        yield TensorSpec("", NUMBERS[name].value, ())
    elif name == "NoneType":
        yield None
    elif name == "OptionalType" and kind.getElementType().kind() in ("TensorType", *NUMBERS):
        yield from _leaves(kind.getElementType(), usual)
    elif name == "ListType" and kind.getElementType().kind() in NUMBERS:
        yield TensorSpec("", NUMBERS[kind.getElementType().kind()].value, None)
    else:
        raise _Unknown


def _usual_datatype(module: Any) -> Datatype:
    """Return the datatype of the first weight that is a fraction: inputs are most likely alike."""
    import torch

    names = {torch.float16: Datatype.FP16, torch.bfloat16: Datatype.BF16, torch.float64: Datatype.FP64}
    for weight in module.parameters():
        if weight.is_floating_point():
            return names.get(weight.dtype, Datatype.FP32)
    return Datatype.FP32


def _likely_datatypes(module: Any, names: list[str]) -> dict[str, Datatype]:
    """Return the datatypes of arguments that become an index or a mask, by name."""
    graph = module.inlined_graph
    inputs = dict(zip([value.debugName() for value in list(graph.inputs())[1:]], names, strict=False))
    likely: dict[str, Datatype] = {}
    for operator, (position, datatype) in _ARGUMENTS.items():
        for node in graph.findAllNodes(operator, recurse=True):
            name = inputs.get(_source(list(node.inputs())[position]))
            if name is not None:
                likely.setdefault(name, datatype)
    return likely


def _source(value: Any) -> str:
    """Return the name of the value that `value` has its datatype from."""
    for _ in range(_LONGEST_WAY):
        node = value.node()
        if node.kind() in _KEEPING:
            value = next(iter(node.inputs()))
        elif node.kind() == "prim::If":
            # Either branch will do: both have a value of one type.
            position = [output.debugName() for output in node.outputs()].index(value.debugName())
            value = list(list(node.blocks())[-1].outputs())[position]
        else:
            break
    name: str = value.debugName()
    return name
