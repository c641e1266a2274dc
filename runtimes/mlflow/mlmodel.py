"""The file `MLmodel` of a directory of MLflow, read within bounds.

It is YAML. Here every scalar of it is a string, so that the version 1.10 stays one; what an alias stands for
is not copied, and what is not known is left alone. Written by `mlflow.models.Model.save`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from runtimes.errors import LoadError

NAME = "MLmodel"

_MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 32
_MAX_NODES = 50_000
# What YAML has for no value.
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_FACTS = ("mlflow_version", "run_id", "model_uuid", "utc_time_created")
_MAX_FACT = 100
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True, slots=True)
class MLmodel:
    """What a file `MLmodel` says."""

    path: Path
    flavors: Mapping[str, Mapping[str, Any]]
    """The forms that the model is in, by name, each with its members."""
    inputs: str = ""
    """The JSON text of its signature's inputs, "" without one; see `schema`."""
    example: Mapping[str, str] = field(default_factory=dict)
    """Where an example of a call is, and in which form (`saved_input_example_info`); {} without one."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """`mlflow_version`, `run_id`, `model_uuid` and `utc_time_created`, as far as they are there."""

    @property
    def directory(self) -> Path:
        """The directory of the model."""
        return self.path.parent


def read_mlmodel(path: Path) -> MLmodel | None:
    """Return what the file says; None where it is no regular file, or none of MLflow's.

    Raises:
        LoadError: where it cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        return None
    document = _document(path)
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        return None
    signature = _object(document.get("signature"))
    example = _object(document.get("saved_input_example_info"))
    return MLmodel(
        path,
        MappingProxyType({str(name): _object(members) for name, members in flavors.items()}),
        inputs=text(signature.get("inputs")),
        example={str(name): text(value) for name, value in example.items()},
        facts={name: fact[:_MAX_FACT] for name in _FACTS if (fact := text(document.get(name)))},
    )


def text(value: Any) -> str:
    """Return the text of a scalar, "" for null and for anything else."""
    return value if isinstance(value, str) and value not in _NULLS else ""


def _document(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if len(data) > _MAX_BYTES:
        raise LoadError(f"{path} is larger than {_MAX_BYTES} bytes, too large for what it is")
    try:
        content = data.decode("utf-8-sig")
        _check_size(path, content)
        return yaml.load(content, _LOADER)  # noqa: S506 - makes strings, lists and objects of them only
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise LoadError(f"{path} is no YAML: {reason}; save the model again") from error


def _check_size(path: Path, content: str) -> None:
    """Raise LoadError where there are too many parts, or parts within parts; nothing is made of them yet."""
    depth = 0
    for nodes, event in enumerate(yaml.parse(content, _LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            raise LoadError(f"{path} goes too deep, or has too many parts, for what it is")


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
