"""The signature of a TorchScript program, as far as its types and its graph say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtimes.base import ANY, Datatype, Signature, TensorSpec
from runtimes.errors import LoadError
from runtimes.torchscript_likely import likely

NUMBERS: Mapping[str, Datatype] = {
    "BoolType": Datatype.BOOL,
    "IntType": Datatype.INT64,
    "FloatType": Datatype.FP64,
}
"""The types of numbers, by the name of their kind, and their datatypes."""


class _Unknown(Exception):
    """How many outputs there are is known only after a run."""


def signature_of(module: Any, path: Path) -> Signature:
    """Return a compiled module's signature; `path` is named in errors.

    The format does not record the datatypes of tensors, nor any shape; what is likely is noted. Arguments
    that have a default, or may be None, are optional inputs, numbers among them.

    Raises:
        LoadError: where there is no `forward`, or an argument of it is no tensor and has no default.
    """
    if not hasattr(module, "forward"):
        raise LoadError(f"{path} has no method forward, which a call would run; save a module that has one")
    schema = module.forward.schema
    arguments = schema.arguments[1:]
    guess = likely(module, [argument.name for argument in arguments])
    usual = guess.usual
    required: list[TensorSpec] = []
    optional: list[TensorSpec] = []
    for argument in arguments:
        name, kind, has_default = argument.name, argument.type, argument.has_default_value()
        may_be_left_out = has_default
        if kind.kind() == "OptionalType":
            kind, may_be_left_out = kind.getElementType(), True
        if kind.kind() == "TensorType":
            datatype = guess.datatypes.get(name, usual)
            spec = TensorSpec(name, ANY, None, datatype.value, guess.shapes.get(name))
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
