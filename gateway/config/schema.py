"""The JSON Schema of the config file (2020-12), made of the pydantic models, for editors and other tools.

It takes every config that the strict check takes, but for numbers and flags that are written as text. A value
may hold variables (see `variables`), and a model's field may be null, which takes a default away (see
`defaults`). What is wrong between fields, such as `canary` beside `rollout`, only the strict check finds.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, BeforeValidator, ByteSize
from pydantic.fields import FieldInfo

from gateway.config.checks import Agreement, Golden
from gateway.config.config import Address, GatewayConfig
from gateway.config.durations import DURATION_PATTERN
from gateway.config.field_docs import field_docs
from gateway.config.kits import SIZE_PATTERN, Key, Trust, read_seconds
from gateway.config.models import Canary, Model, ModelSettings, Replicas
from gateway.config.names import MODEL_NAME
from gateway.config.rollout import Rollout, Step
from gateway.oci.reference import REFERENCE_PATTERN
from gateway.oci.variant import Variant

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_REFERENCE: Schema = {"type": "string", "pattern": REFERENCE_PATTERN}
_NULL: Schema = {"type": "null"}
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}
_SIMPLE: Mapping[Any, Schema] = {
    str: _TEXT,
    Path: _TEXT,
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
}
_SHORT_FORMS: Mapping[type[BaseModel], Schema] = {
    Address: {"type": "string", "pattern": r"^.+:[0-9]{1,5}$"},
    Key: _TEXT,
    Replicas: {"type": "integer", "minimum": 1, "maximum": 256},
    Golden: _TEXT,
}
"""What may be written in place of a mapping."""
_FIELD_FORMS: Mapping[tuple[type[BaseModel], str], Schema] = {
    (GatewayConfig, "access_log"): {"const": False},
    (Trust, "allow_code"): _TEXT,
    (Step, "match"): {"type": "object", "additionalProperties": _TEXT},
    (Agreement, "min"): _NULL,
    (Agreement, "max"): _NULL,
}
"""What may be written in place of what a field's type says."""
_FIELDS: Mapping[tuple[type[BaseModel], str], Schema] = {
    (Model, "name"): {"type": "string", "pattern": f"^{MODEL_NAME.pattern}$"},
    (Model, "kit"): _REFERENCE,
    (Canary, "kit"): _REFERENCE,
    (Model, "parents"): {"type": "array", "items": _REFERENCE},
    (Canary, "parents"): {"type": "array", "items": _REFERENCE},
}
"""Fields of text that has a form."""
_RULES: Mapping[type[BaseModel], Schema] = {
    Rollout: {
        "anyOf": [{"required": ["steps"]}, {"required": ["surge"], "properties": {"surge": {"const": 0}}}]
    }
}
"""What a mapping must have besides."""


def config_schema() -> Schema:
    """Return the schema of the whole file."""
    models = list(dict.fromkeys(_reached(GatewayConfig)))
    return {
        "$schema": DIALECT,
        "title": "Kitserve's config",
        **_object(GatewayConfig),
        "$defs": {model.__name__: _object(model) for model in models if model is not GatewayConfig},
    }


def _reached(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            yield from _reached(inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _models(argument)


def _object(model: type[BaseModel]) -> Schema:
    """Return the schema of a mapping: unknown members are refused."""
    docs = field_docs(model)
    properties = {
        field.alias or name: _field(model, name, field, docs.get(name, ""))
        for name, field in model.model_fields.items()
    }
    rules = _RULES.get(model, {})
    required = [field.alias or name for name, field in model.model_fields.items() if field.is_required()]
    return {
        "description": " ".join((inspect.getdoc(model) or "").split()),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
        **rules,
    }


def _field(model: type[BaseModel], name: str, field: FieldInfo, about: str) -> Schema:
    place = (model, name)
    schema = _FIELDS.get(place) or _type(field.annotation, field.metadata)
    if place in _FIELD_FORMS:
        schema = _any_of(_FIELD_FORMS[place], schema)
    if not field.is_required() and model in _with_defaults():
        schema = _any_of(schema, _NULL)
    described = {"description": " ".join(about.split()), **_or_variable(schema)}
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    if isinstance(default, Enum):
        default = default.value
    return {**described, "default": default} if isinstance(default, str | int | float) else described


@cache
def _with_defaults() -> frozenset[type[BaseModel]]:
    """Return the mappings whose fields may come from `defaults`."""
    return frozenset((Model, *_reached(ModelSettings)))


def _or_variable(schema: Schema) -> Schema:
    """Return a schema that takes a variable wherever it takes a value that is not any text."""
    if "anyOf" in schema:
        parts = schema["anyOf"]
        return {**schema, "anyOf": parts + [_VARIABLE] * (_TEXT not in parts and any(map(_is_value, parts)))}
    if "items" in schema:
        return {**schema, "items": _or_variable(schema["items"])}
    if isinstance(schema.get("additionalProperties"), dict):
        return {**schema, "additionalProperties": _or_variable(schema["additionalProperties"])}
    return _any_of(schema, _VARIABLE) if _is_value(schema) else schema


def _is_value(schema: Schema) -> bool:
    """Tell whether a schema is of one value, and not of any text."""
    return "enum" in schema or "pattern" in schema or schema.get("type") in ("integer", "number", "boolean")


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> Schema:
    """Return the schema of a type, and of the rules beside it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], [*arguments[1:], *metadata])
    rules = list(_flat(metadata))
    if any(isinstance(rule, BeforeValidator) and rule.func is read_seconds for rule in rules):
        duration: Schema = {"type": "string", "pattern": DURATION_PATTERN}
        schema = _any_of(duration, {"type": "number", **_bounds(rules)})
        return _any_of(schema, _NULL) if type(None) in arguments else schema
    if origin in (Union, types.UnionType):
        return _any_of(*(_type(argument, metadata) for argument in arguments))
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0]), **_bounds(rules)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if annotation is Variant:
        return _any_of({"const": "auto"}, {"type": "object", "minProperties": 1})
    if annotation is type(None):
        return _NULL
    if issubclass(annotation, BaseModel):
        reference: Schema = {"$ref": f"#/$defs/{annotation.__name__}"}
        return _any_of(_SHORT_FORMS[annotation], reference) if annotation in _SHORT_FORMS else reference
    if issubclass(annotation, Enum):
        return {"enum": [member.value for member in annotation]}
    if annotation is ByteSize:
        return _any_of({"type": "string", "pattern": SIZE_PATTERN}, {"type": "number", **_bounds(rules)})
    return {**_SIMPLE[annotation], **_bounds(rules)}


def _any_of(*schemas: Schema) -> Schema:
    """Return the schema of what one of these takes."""
    parts = [
        part for schema in schemas for part in (schema["anyOf"] if set(schema) == {"anyOf"} else [schema])
    ]
    return {"anyOf": parts}


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    """Yield rules, also those within a Field."""
    for rule in metadata:
        if isinstance(rule, FieldInfo):
            yield from _flat(rule.metadata)
        else:
            yield rule


def _bounds(rules: Sequence[Any]) -> Schema:
    """Return the bounds of a number, or of the length of a list."""
    bounds: Schema = {}
    for rule in rules:
        match rule:
            case Ge(ge):
                bounds["minimum"] = ge
            case Gt(gt):
                bounds["exclusiveMinimum"] = gt
            case Le(le):
                bounds["maximum"] = le
            case Lt(lt):
                bounds["exclusiveMaximum"] = lt
            case MinLen(length):
                bounds["minItems"] = length
            case MaxLen(length):
                bounds["maxItems"] = length
    return bounds
