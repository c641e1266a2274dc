"""Faults in what a user writes: each in one line, with the field, its line in the file, and advice."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from gateway.config.yaml_file import FieldPath, dotted


def faults_at(messages: Mapping[FieldPath, str]) -> ValidationError:
    """Return the error for faults of fields below the one that is validated, each by its path from there."""
    details = [
        InitErrorDetails(type=PydanticCustomError("fault", "{text}", {"text": text}), loc=where, input=None)
        for where, text in messages.items()
    ]
    return ValidationError.from_exception_data("config", details)


def describe_fault(detail: ErrorDetails, lines: Mapping[FieldPath, int], root: type[BaseModel]) -> str:
    """Write a fault that pydantic found in a config.

    Args:
        detail: what pydantic says of it.
        lines: the line of each field in the file, from 1.
        root: the model of the whole config.
    """
    path = detail["loc"]
    in_file = path
    while in_file not in lines and in_file:
        in_file = in_file[:-1]
    name = dotted(path)
    if detail["type"] == "extra_forbidden":
        names = field_names(root, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), names, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"
        return f"line {lines.get(in_file, 1)}: {name}: unknown field; {advice}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"line {lines.get(in_file, 1)}: {name + ': ' if name else ''}{message}"


def field_names(root: type[BaseModel], path: FieldPath) -> list[str]:
    """Return the names, as users write them, of the fields that stand at a path below `root`."""
    model = root
    for step in path:
        for name, field in model.model_fields.items():
            if step in (name, field.alias):
                model = _model_in(field.annotation) or model
                break
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation holds, at whatever depth: `tuple[Model, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
