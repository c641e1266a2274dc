"""The names of the classes that a model tells apart, as its kit says them.

They stand in the Kitfile as `model.parameters.labels`: a list of names, or an object with such a list for
each output. Else they are a part of the model whose type or name is `labels`: a text file with a name on
each line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gateway.kits.kitfile import Model, ModelPart
from gateway.kits.library import UnpackedKit
from gateway.kits.parents import model_of

_NAME = "labels"
_MAX_BYTES = 4 * 1024 * 1024

Labels = Mapping[str, tuple[str, ...]]


class UnusableLabels(ValueError):
    """A kit's labels are not as they must be; the message says what is wrong, and where."""


def read_labels(kit: UnpackedKit) -> Labels:
    """Return the labels by output, those under "" being of every other output; empty where a kit has none.

    Raises:
        UnusableLabels: when they are there, but not as they must be.
    """
    model = model_of(kit.kit)
    return {} if model is None else labels_of(model, kit.path)


def labels_of(model: Model, root: Path) -> Labels:
    """Do as `read_labels` for what a Kitfile says of a model whose files are under `root`."""
    said = model.parameters.get(_NAME) if isinstance(model.parameters, dict) else None
    if said is not None:
        by_output = said if isinstance(said, dict) else {"": said}
        return {name: _listed(name, names) for name, names in by_output.items()}
    for part in model.parts:
        if _NAME in (part.type, part.name) and part.path:
            return {"": _lines(part, root)}
    return {}


def _listed(output: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names):
        where = f"model.parameters.labels.{output}" if output else "model.parameters.labels"
        raise UnusableLabels(f"{where} in the Kitfile must be a list of names")
    return tuple(map(str, names))


def _lines(part: ModelPart, root: Path) -> tuple[str, ...]:
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
