"""The signature in an archive of torch.export.save, read without PyTorch.

The schema of its `models/model.json` is torch/_export/serde/schema.py.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtimes.base import Signature, TensorSpec
from runtimes.errors import LoadError
from runtimes.formats import zip_names
from runtimes.pt2_safety import check_program
from runtimes.zip_members import DAMAGE

MODEL = "models/model.json"

_MAX_MODEL = 256 * 1024 * 1024  # bytes

# ScalarType; the others (complex, 8 bit floats) have no datatype in the protocol.
_DATATYPES = {
    1: "UINT8",
    2: "INT8",
    3: "INT16",
    4: "INT32",
    5: "INT64",
    6: "FP16",
    7: "FP32",
    8: "FP64",
    12: "BOOL",
    13: "BF16",
    28: "UINT16",
    34: "UINT32",
    35: "UINT64",
}
# A number among the inputs is a constant, one among the outputs a tensor without axes.
_NUMBERS = {
    "as_bool": "BOOL",
    "as_int": "INT64",
    "as_float": "FP64",
    "as_sym_bool": "BOOL",
    "as_sym_int": "INT64",
    "as_sym_float": "FP64",
}
_FIXED = frozenset({"as_none", "as_bool", "as_int", "as_float", "as_string"})


def read(path: Path, *, any_operator: bool = False) -> Signature:
    """Return the signature of the program in the archive at `path`. Raises LoadError and UnsafeFormat.

    With `any_operator`, operators need not be on the list.
    """
    try:
        with path.open("rb") as file:
            members = [name for name in zip_names(file) if name.partition("/")[2] == MODEL]
            with zipfile.ZipFile(file) as archive:
                is_usable = len(members) == 1 and archive.getinfo(members[0]).file_size <= _MAX_MODEL
                text = archive.read(members[0]) if is_usable else None
    except DAMAGE as error:
        raise LoadError(f"{path} is not a usable exported program: {error}") from error
    if text is None:
        raise LoadError(f"{path} has no {MODEL} of a usable size; export it again with torch 2.9 or later")
    return parse(text, path, any_operator=any_operator)


def parse(text: bytes, path: Path, *, any_operator: bool = False) -> Signature:
    """Check the text of `model.json` and return its signature. Raises LoadError and UnsafeFormat.

    Inputs have their names in the graph. Outputs have the keys of the dict that `forward` returns, or are
    called `output_0`, `output_1` and so on. Inputs that are numbers or None are constants of the program, and
    outputs that are None are left out.
    """
    try:
        program = json.loads(text)
        check_program(program, path, any_operator=any_operator)
        return _signature(program["graph_module"])
    except (
        ValueError,
        KeyError,
        TypeError,
        LookupError,
        AttributeError,
        StopIteration,
        RecursionError,
    ) as error:
        raise LoadError(
            f"{path} has a {MODEL} that cannot be parsed: {error!r}; export it again with torch 2.9 or later"
        ) from error


def output_names(spec: Mapping[str, Any], count: int) -> Sequence[str]:
    """Return the names of `count` outputs, by the pytree of what `forward` returns."""
    if (
        spec["type"]
        and spec["type"].endswith("ict")
        and all(c["type"] is None for c in spec["children_spec"])
    ):
        return [str(key) for key in json.loads(spec["context"])]
    return [f"output_{index}" for index in range(count)]


def _signature(module: Mapping[str, Any]) -> Signature:
    tensors = module["graph"]["tensor_values"]
    inputs = [s["user_input"]["arg"] for s in module["signature"]["input_specs"] if "user_input" in s]
    outputs = [s["user_output"]["arg"] for s in module["signature"]["output_specs"] if "user_output" in s]
    root = next(entry for entry in module["module_call_graph"] if entry["fqn"] == "")
    names = output_names(json.loads(root["signature"]["out_spec"])[1], len(outputs))
    return Signature(
        tuple(_spec(_tensor(value), value, tensors) for value in inputs if not _is_fixed(value)),
        tuple(
            _spec(name, value, tensors)
            for name, value in zip(names, outputs, strict=True)
            if "as_none" not in value
        ),
    )


def _is_fixed(argument: Mapping[str, Any]) -> bool:
    """Tell whether an input is a constant of the program: whatever it was exported with."""
    return not _FIXED.isdisjoint(argument)


def _tensor(argument: Mapping[str, Any]) -> str:
    if "as_tensor" not in argument:
        raise LookupError(f"{next(iter(argument))} among its inputs or outputs; only tensors can be served")
    name: str = argument["as_tensor"]["name"]
    return name


def _spec(name: str, argument: Mapping[str, Any], tensors: Mapping[str, Any]) -> TensorSpec:
    number = next((_NUMBERS[key] for key in argument if key in _NUMBERS), None)
    if number is not None:
        return TensorSpec(name, number, ())
    meta = tensors[_tensor(argument)]
    if meta["dtype"] not in _DATATYPES:
        raise LookupError(f"{name!r} has scalar type {meta['dtype']}, which no datatype stands for; cast it")
    return TensorSpec(
        name, _DATATYPES[meta["dtype"]], tuple(size.get("as_int", -1) for size in meta["sizes"])
    )
