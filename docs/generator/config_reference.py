"""The reference of the config file: a table for each group of fields, made of the pydantic models.

What a field means is said by the docstring below it in its model, and what a group is by the model's own.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ByteSize
from pydantic.fields import FieldInfo

from gateway.config.config import Address
from gateway.config.field_docs import field_docs
from gateway.config.kits import Key, read_seconds
from gateway.config.models import ModelSettings
from gateway.oci.variant import Variant

# What people write in a form of its own.
_WORDS: Mapping[type, str] = {
    Address: "`HOST:PORT`",
    Key: "path of a PEM file",
    # What it may have is said of each model.
    ModelSettings: "mapping with the fields of a model, without `name`, `kit` and `canary`",
    Variant: "mapping of labels, or `auto`",
}
_SIMPLE: Mapping[type, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    ByteSize: "size",
}
_PLURALS: Mapping[str, str] = {
    "text": "texts",
    "whole number": "whole numbers",
    "mapping": "mappings",
    _WORDS[Key]: "paths of PEM files",
}
_SECONDS = ((3600.0, "h"), (60.0, "m"), (1.0, "s"), (0.001, "ms"))
_BYTES = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_KEY = "HOST"
"""What stands in a path for the key of a mapping; all mappings of the config are by registry host."""


def config_reference(root: type[BaseModel]) -> str:
    """Write a section for each model that is reached from `root`, with a row for each field."""
    places = _places(root)
    sections = []
    for model, paths in places.items():
        title = " and ".join(f"`{path}`" for path in paths) if paths[0] else "The file"
        rows = [_row(model, name, field, paths[0]) for name, field in model.model_fields.items()]
        about = " ".join((inspect.getdoc(model) or "").split())
        table = ["| field | takes | default | meaning |", "| --- | --- | --- | --- |", *rows]
        sections.append("\n".join([f"### {title}", "", about, "", *table]))
    return "\n\n".join(sections)


def undescribed(root: type[BaseModel]) -> list[str]:
    """Return the fields, as MODEL.FIELD, that have no docstring."""
    return [
        f"{model.__name__}.{name}"
        for model in _places(root)
        for name in model.model_fields
        if not field_docs(model).get(name)
    ]


def _places(root: type[BaseModel]) -> dict[type[BaseModel], list[str]]:
    """Return where each model stands, the shortest path first; they come in the order of these."""
    paths: dict[type[BaseModel], list[str]] = {}
    visits = list(_visit(root, ""))
    for model, path in visits:
        paths.setdefault(model, []).append(path)
    for several in paths.values():
        several.sort(key=len)
    return {model: paths[model] for model, path in visits if path == paths[model][0]}


def _visit(model: type[BaseModel], path: str) -> Iterator[tuple[type[BaseModel], str]]:
    yield model, path
    for name, field in model.model_fields.items():
        for inner, suffix in _models(field.annotation):
            yield from _visit(inner, _joined(path, (field.alias or name) + suffix))


def _models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the models within a type that have fields of their own, and what follows the path to each."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in _WORDS:
            yield annotation, ""
        return
    origin = get_origin(annotation)
    suffix = "[]" if origin is tuple else f".{_KEY}" if origin is dict else ""
    for argument in get_args(annotation) if origin is not Literal else ():
        yield from ((model, suffix + rest) for model, rest in _models(argument))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _row(model: type[BaseModel], name: str, field: FieldInfo, path: str) -> str:
    words = _words(field.annotation, field.metadata)
    meaning = " ".join(field_docs(model).get(name, "").split())
    cells = (f"`{_joined(path, field.alias or name)}`", words, _default(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _words(annotation: Any, metadata: Sequence[Any]) -> str:
    """Say what a field takes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        (some,) = (argument for argument in arguments if argument is not type(None))
        return _words(some, metadata)
    if origin is Literal:
        return _listed([str(value) for value in arguments])
    if origin is tuple:
        words = _words(arguments[0], [])
        is_choice = isinstance(arguments[0], type) and issubclass(arguments[0], Enum)
        return f"list of {words if is_choice else _PLURALS[words]}"
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is dict or issubclass(annotation, BaseModel):
        return "mapping"
    if issubclass(annotation, Enum):
        return _listed([str(value) for value in annotation])
    rules = list(_flat(metadata))
    is_duration = any(isinstance(rule, BeforeValidator) and rule.func is read_seconds for rule in rules)
    word = "duration" if is_duration else _SIMPLE[annotation]
    bounds = _bounds(rules, annotation, is_duration)
    return f"{word}, {bounds}" if bounds else word


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    for rule in metadata:
        yield from rule.metadata if isinstance(rule, FieldInfo) else (rule,)


def _bounds(rules: Sequence[Any], kind: type, is_duration: bool) -> str:
    """Say between which numbers a value must be; of two bounds on one side, the later one counts."""
    lower: Ge | Gt | None = None
    upper: Le | Lt | None = None
    for rule in rules:
        if isinstance(rule, Ge | Gt):
            lower = rule
        elif isinstance(rule, Le | Lt):
            upper = rule

    def number(limit: Any) -> str:
        return _number(limit, kind, is_duration)

    if isinstance(lower, Ge) and isinstance(upper, Le):
        return f"{number(lower.ge)} to {number(upper.le)}"
    words = []
    if isinstance(lower, Ge):
        words.append(f"at least {number(lower.ge)}")
    elif lower is not None and not (is_duration and lower.gt == 0):
        words.append(f"above {number(lower.gt)}")
    if isinstance(upper, Le):
        words.append(f"at most {number(upper.le)}")
    elif upper is not None:
        words.append(f"below {number(upper.lt)}")
    return ", ".join(words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "absent"
    if type(value) in _WORDS:
        return f"`{value}`"
    if isinstance(value, BaseModel):
        return "the defaults of its fields"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, dict)):
        return "empty"
    if value == "":
        return '`""`'
    rules = list(_flat(field.metadata))
    is_duration = any(isinstance(rule, BeforeValidator) and rule.func is read_seconds for rule in rules)
    return f"`{_number(value, type(value), is_duration)}`"


def _number(value: Any, kind: type, is_duration: bool) -> str:
    """Write a number as the config does."""
    if is_duration:
        whole = (pair for pair in _SECONDS if value and (value / pair[0]).is_integer())
        unit, name = next(whole, (1.0, "s"))
        return f"{value / unit:g}{name}"
    if issubclass(kind, ByteSize):
        return next((f"{value // unit}{name}" for unit, name in _BYTES if value % unit == 0), str(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(f'`{word}`' for word in words[:-1])} or `{words[-1]}`"
