"""The names of the classes of a classifier's outputs, from its kit.

They are in the Kitfile as `model.parameters.labels`: a list of names, or an object with such a list for
each output. Else they are in a part of the model whose type or name is `labels`: a text file, one name on
each line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gateway.kits.declared import labels_fault
from gateway.kits.kitfile import Model, ModelPart
from gateway.kits.library import UnpackedKit
from gateway.kits.parents import model_of
from runtimes.base import LabelledModel, LoadedModel

_NAME = "labels"
_MAX_BYTES = 4 * 1024 * 1024

Labels = Mapping[str, tuple[str, ...]]


class UnusableLabels(ValueError):
    """A kit's labels cannot be read; the message says what is wrong, and where."""


def read_labels(kit: UnpackedKit) -> Labels:
    """Return the labels by output, those under "" being of every other output; empty where a kit has none.

    Raises:
        UnusableLabels: when there are labels that cannot be read.
    """
    model = model_of(kit.kit)
    return {} if model is None else labels_of(model, kit.path)


def combined(labels: Mapping[str, Sequence[str]], own: Labels) -> Labels:
    """Return the labels of a kit, with those that its model has itself where the kit has none that fit."""
    others = labels.get("", ())
    return {
        **{name: names for name, names in own.items() if len(names) != len(others)},
        **{name: tuple(names) for name, names in labels.items()},
    }


def own_labels(model: LoadedModel) -> Labels:
    """Return the labels that a model's file has, by output; what no JSON could hold in them is `?`."""
    labels = model.labels if isinstance(model, LabelledModel) else {}
    if labels_fault(labels.values()):
        return {}
    return {
        output: tuple(name.encode("utf-8", "replace").decode() for name in names)
        for output, names in labels.items()
    }


def labels_of(model: Model, root: Path) -> Labels:
    """Return the labels of a Kitfile's model, whose files are under `root`; see `read_labels`."""
    value = model.parameter(_NAME)
    if value is not None:
        by_output = value if isinstance(value, dict) else {"": value}
        return _bounded({name: _from_list(name, names) for name, names in by_output.items()})
    for part in model.parts:
        if _NAME in (part.type, part.name) and part.path:
            return _bounded({"": _from_file(part, root)})
    return {}


def _bounded(labels: Labels) -> Labels:
    """Return the same labels. Raises UnusableLabels where they are too many, or too long."""
    if fault := labels_fault(labels.values()):
        raise UnusableLabels(fault)
    return labels


def _from_list(output: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names):
        where = f"model.parameters.labels.{output}" if output else "model.parameters.labels"
        raise UnusableLabels(f"{where} in the Kitfile must be a list of names")
    return tuple(map(str, names))


def _from_file(part: ModelPart, root: Path) -> tuple[str, ...]:
    path = PurePosixPath(part.path or "")
    file = root / path
    if path.is_absolute() or ".." in path.parts or not file.is_file():
        raise UnusableLabels(f"the part {_NAME} of the model, {path}, is no file of the kit")
    if file.stat().st_size > _MAX_BYTES:
        raise UnusableLabels(f"the part {_NAME} of the model, {path}, is larger than {_MAX_BYTES} bytes")
    try:
        return tuple(line.strip() for line in file.read_text("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise UnusableLabels(f"the part {_NAME} of the model, {path}, is not UTF-8: {error}") from error
