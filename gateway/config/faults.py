"""Faults in what a user writes: each in one line, with the field, its line in the file, and advice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails

from gateway.config.kits import fault
from gateway.config.yaml_file import FieldPath, dotted, shown

_KEY = "[key]"
"""How pydantic ends the path of a mapping's key."""
_TOO_SHORT = "too_short"
_MIB = 1024 * 1024
_OWN = ("fault", "value_error")
"""The types of faults whose text Kitserve writes itself."""
_MODEL = ("model_type", "model_attributes_type")
_LIST = ("tuple_type", "list_type")
_EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(("dict_type", "mapping_type", *_MODEL), "a mapping"),
    **dict.fromkeys(_LIST, "a list"),
    **dict.fromkeys(("string_type", "string_unicode"), "text; put it in quotes if it is meant as text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("byte_size", "byte_size_unit"), "a size, such as 256MiB or 20GB"),
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    "duration_type": "a duration, such as 500ms, 30s, 5m or 2h",
    "path_type": "a path",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt:.15g}",
    "less_than_equal": "at most {le}",
    _TOO_SHORT: "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
"""What a field takes, by the type of pydantic's error."""


def faults_at(messages: Mapping[FieldPath, str]) -> ValidationError:
    """Return the error for faults of fields below the one that is validated, each by its path from there."""
    details = [InitErrorDetails(type=fault(text), loc=where, input=None) for where, text in messages.items()]
    return ValidationError.from_exception_data("config", details)


AS_IT_STANDS: Mapping[FieldPath, FieldPath] = MappingProxyType({})
"""Where fields are written, of a config in which each stands where it is written."""


def describe_faults(
    details: Sequence[ErrorDetails],
    lines: Mapping[FieldPath, int],
    root: type[BaseModel],
    written: Mapping[FieldPath, FieldPath] = AS_IT_STANDS,
) -> list[str]:
    """Write the faults that pydantic found in a config, in plain words, each once.

    Args:
        details: what pydantic says of them.
        lines: the line of each field in the file, from 1.
        root: the model of the whole config.
        written: where fields are written that are written elsewhere, see `defaults`.
    """
    paths = [detail["loc"] for detail in details]
    faults = (
        _describe(detail, lines, root, written)
        for detail in details
        if not (detail["type"] == _TOO_SHORT and _has_fault_below(detail["loc"], paths))
    )
    return list(dict.fromkeys(faults))


def name_written(
    path: FieldPath, lines: Mapping[FieldPath, int], written: Mapping[FieldPath, FieldPath] = AS_IT_STANDS
) -> tuple[str, int]:
    """Return the name of a field as it is written, and its line, or the line of what it is missing in."""
    in_file = path
    while in_file not in lines and in_file:
        in_file = in_file[:-1]
    return dotted((*written.get(in_file, in_file), *path[len(in_file) :])), lines.get(in_file, 1)


def _has_fault_below(path: FieldPath, paths: Iterable[FieldPath]) -> bool:
    """Tell whether a part of a field is faulty: pydantic does not count it as an item of the list then."""
    return any(len(other) > len(path) and other[: len(path)] == path for other in paths)


def _describe(
    detail: ErrorDetails,
    lines: Mapping[FieldPath, int],
    root: type[BaseModel],
    written: Mapping[FieldPath, FieldPath],
) -> str:
    path = detail["loc"]
    if path and path[-1] == _KEY:
        path = path[:-1]
    name, line = name_written(path, lines, written)
    words = f"{name + ': ' if name else ''}{_words(detail, path, root)}"
    # What a user wrote may be quoted in it: a fault stays one line, and controls no terminal.
    return f"line {line}: " + "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in words)


def _words(detail: ErrorDetails, path: FieldPath, root: type[BaseModel]) -> str:
    """Say what is wrong with a field, and what it takes."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        names = field_names(root, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), names, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"
        return f"unknown field; {advice}"
    if kind in _OWN:
        return detail["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return "is missing, and must be written"
    bounds = {name: _as_size(bound) for name, bound in context.items() if name in ("ge", "le")}
    expected = _EXPECTED.get(kind, "another value").format_map({**context, **bounds})
    if kind in _MODEL:
        expected += f"; known in it: {', '.join(field_names(root, path))}"
    if value is None:
        return f"is empty; it must be {expected}"
    if kind in _LIST and isinstance(value, str) and value.isprintable():
        expected += f"; write [{value}]"
    wanted, separator, note = expected.partition("; ")
    return f"must be {wanted}, not {shown(value)}{separator}{note}"


def _as_size(bound: float) -> str:
    """Write a bound as people do; only sizes in bytes have bounds of whole MiB."""
    return f"{bound:.15g}" if bound < _MIB or bound % _MIB else f"{bound // _MIB:.0f}MiB"


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
