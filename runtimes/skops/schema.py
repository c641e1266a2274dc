"""The check of what a skops file makes instances of, before skops reads it.

Such a file is a zip of arrays and of `schema.json`, a tree of nodes. Each names a class or a function, and
the loader that makes the object. All that is named must be on the allow-list of pickles. Loaders that look up
an attribute of an object or call an operator are refused, whatever they name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.pickles.known import is_known
from runtimes.zip_members import DAMAGE, read_json

SCHEMA = "schema.json"

_MAX_SCHEMA = 256 * 1024 * 1024
# They make a value of JSON, and an object that is there already; neither looks at what it names.
_NAMELESS = frozenset({"JsonNode", "CachedNode"})
# By what skops makes each of these of; the loaders that are not here are refused.
_VALUES: Mapping[str, frozenset[str]] = {
    "DictNode": frozenset(),
    "DefaultDictNode": frozenset({"collections.defaultdict"}),
    "ListNode": frozenset(),
    "SetNode": frozenset(),
    "TupleNode": frozenset(),
    "BytesNode": frozenset({"builtins.bytes"}),
    "BytearrayNode": frozenset({"builtins.bytearray"}),
    "SliceNode": frozenset({"builtins.slice"}),
    "NdArrayNode": frozenset({"numpy.ndarray"}),
    "MaskedArrayNode": frozenset({"numpy.ma.MaskedArray"}),
    "DTypeNode": frozenset({"numpy.dtype"}),
    "RandomStateNode": frozenset({"numpy.random.mtrand.RandomState"}),
    "RandomGeneratorNode": frozenset({"numpy.random._generator.Generator"}),
    "SparseMatrixNode": frozenset(),
    "ObjectNode": frozenset(),
    "TreeNode": frozenset(),
    "LossNode": frozenset(),
    "TypeNode": frozenset(),
    "FunctionNode": frozenset(),
}

# What skops calls by name to make a generator of random numbers; the name is within its state.
_BIT_GENERATORS = frozenset({"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"})


def check(path: Path) -> list[str]:
    """Check the skops file at `path` without skops; return all that it names.

    Raises:
        UnsafeFormat: where it names something that is not on the allow-list, or has a loader that is refused.
        LoadError: where it is damaged.
    """
    try:
        schema = read_json(path, SCHEMA, _MAX_SCHEMA)
        names = [_checked(path, node) for node in _nodes(schema)]
    except (*DAMAGE, TypeError, AttributeError) as error:
        raise LoadError(
            f"{path} is no whole skops file: {str(error) or repr(error)}; save the model again"
        ) from error
    return sorted({name for name in names if name})


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "__loader__" in part or "__class__" in part:
                yield part
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _checked(path: Path, node: Mapping[str, Any]) -> str:
    """Return what a node names, "" where nothing looks at it. Raises UnsafeFormat."""
    loader, module, name = (node.get(key) for key in ("__loader__", "__module__", "__class__"))
    if loader in _NAMELESS:
        return ""
    full = f"{module}.{name}"
    if loader == "RandomGeneratorNode":
        bits = node["content"]["bit_generator"]["content"]["bit_generator"]
        if bits.get("__loader__") != "JsonNode" or json.loads(bits["content"]) not in _BIT_GENERATORS:
            full = f"numpy.random.{bits.get('content')}"
    allowed = _VALUES.get(str(loader))
    if allowed is None:
        raise UnsafeFormat(
            f"{path} has a {str(loader)[:80]!r} of {full[:120]!r}, which looks up or calls more than a model "
            "needs, and is never loaded; save the model without methods, operators and partial functions"
        )
    if full not in allowed and not is_known(full):
        raise UnsafeFormat(
            f"{path} names {full[:120]!r}, which is not on the list of what is known to do no harm, and is "
            "never loaded; save the model without it, or export it to ONNX"
        )
    return full
