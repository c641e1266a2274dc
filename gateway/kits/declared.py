"""Bounds on what a kit declares of its model: whoever reads it keeps all of it, and writes it into documents.

A file of three megabytes may declare 150,000 inputs, which are 126 MB in an OpenAPI document. How many there
may be is `MAX_TENSORS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.errors import UnusableModel
from gateway.kits.kit import Kit
from gateway.kits.parents import model_of
from runtimes.base import MAX_TENSORS, Signature, TensorSpec

MAX_NAME_CHARACTERS = 512
MAX_RANK = 32
MAX_SIZE = 2**40
"""The largest fixed length of a dimension."""
MAX_LABELS = 200_000
"""How many names of classes a model may have, for all of its outputs."""
MAX_LABEL_CHARACTERS = 1000


def check_declared(kit: Kit, signature: Signature) -> None:
    """Check that a model declares no more tensors, names and dimensions than may be.

    Raises:
        UnusableModel: where it does.
    """
    fault = _fault("inputs", signature.all_inputs) or _fault("outputs", signature.all_outputs)
    if fault:
        raise UnusableModel(f"{kit.reference}: {fault}; no model with such a signature is served")


def check_labels(kit: Kit) -> None:
    """Check that a Kitfile has no more labels than may be. Raises UnusableModel."""
    model = model_of(kit)
    labels = None if model is None else model.parameter("labels")
    fault = labels_fault(labels.values() if isinstance(labels, dict) else [labels])
    if fault:
        raise UnusableModel(f"{kit.reference}: {fault} in its Kitfile; leave them out of model.parameters")


def labels_fault(lists: Any) -> str:
    """Return what is too much of lists of labels, "" where nothing is; what is no list is left to others."""
    lists = [names for names in lists if isinstance(names, list | tuple)]
    if len(lists) > MAX_TENSORS or sum(map(len, lists)) > MAX_LABELS:
        return f"there are more than {MAX_LABELS:,} labels, or labels of more than {MAX_TENSORS:,} outputs"
    if any(len(name) > MAX_LABEL_CHARACTERS for names in lists for name in names if isinstance(name, str)):
        return f"there is a label of more than {MAX_LABEL_CHARACTERS:,} characters"
    return ""


def _fault(kind: str, specs: Sequence[TensorSpec]) -> str:
    """Return what is too much of the inputs or the outputs, "" where nothing is."""
    if len(specs) > MAX_TENSORS:
        return f"the model has {len(specs):,} {kind}, more than {MAX_TENSORS:,}"
    for position, spec in enumerate(specs):
        where = f"{kind}[{position}]"
        if len(spec.name) > MAX_NAME_CHARACTERS:
            return f"the name of {where} has more than {MAX_NAME_CHARACTERS} characters"
        for shape in (spec.shape or (), spec.likely_shape or ()):
            if len(shape) > MAX_RANK:
                return f"{where} has {len(shape):,} dimensions, more than {MAX_RANK}"
            if max(shape, default=0) > MAX_SIZE:
                return f"{where} has a dimension that is longer than {MAX_SIZE:,}"
    return ""
