"""What a TorchScript program returned, flattened to named outputs as torch.export names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from runtimes.torchscript_signature import NUMBERS


def name_outputs(result: Any, kind: Any) -> dict[str, Any]:
    """Return the leaves of what `forward` returned, by name; `kind` is the type that it declares.

    A dict of leaves keeps its keys. The leaves of anything else are numbered in their order, through all
    tuples, lists and dicts: `output_0`, `output_1` and so on. None is a leaf, too, so that the numbers of
    others do not depend on it. Unlike in torch.export, a list of numbers is one leaf.
    """
    if isinstance(result, Mapping) and not any(_is_container(value) for value in result.values()):
        return {str(key): value for key, value in result.items()}
    return {f"output_{index}": leaf for index, leaf in enumerate(_leaves(result, kind))}


def _leaves(value: Any, kind: Any) -> Iterator[Any]:
    if value is not None and _is(kind, "OptionalType"):
        kind = kind.getElementType()
    if isinstance(value, Mapping):
        inner = kind.getValueType() if _is(kind, "DictType") else None
        for item in value.values():
            yield from _leaves(item, inner)
    elif isinstance(value, tuple):
        kinds = kind.elements() if _is(kind, "TupleType") else [None] * len(value)
        for item, inner in zip(value, kinds, strict=True):
            yield from _leaves(item, inner)
    elif isinstance(value, list):
        inner = kind.getElementType() if _is(kind, "ListType") else None
        if inner is not None and inner.kind() in NUMBERS:
            yield np.array(value, NUMBERS[inner.kind()].numpy)
        else:
            for item in value:
                yield from _leaves(item, inner)
    else:
        yield value


def _is(kind: Any, name: str) -> bool:
    return kind is not None and kind.kind() == name


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))
