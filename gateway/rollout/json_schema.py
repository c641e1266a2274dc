"""Whether a value is as a JSON Schema asks: the part of JSON Schema that models are asked to answer by.

Of a schema, these words count: `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`,
`items`, `anyOf`, `oneOf`, `allOf`, and `$ref` within the schema (https://json-schema.org/draft/2020-12). All
others are passed over, so what is found wrong is wrong. Patterns are among them: a caller's pattern could
keep the worker busy for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MAX_DEPTH = 64
# A schema can refer to itself in many places at once, and nobody may wait for that.
_MAX_CHECKS = 5000

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
}


def is_valid(value: Any, schema: Any) -> bool:
    """Tell whether `value` is as `schema` asks, as far as is checked; what is no schema asks for nothing."""
    return _Checker(schema).is_valid(value, schema, 0)


@dataclass(slots=True)
class _Checker:
    root: Any
    checks: int = 0

    def is_valid(self, value: Any, schema: Any, depth: int) -> bool:
        self.checks += 1
        if depth > _MAX_DEPTH or self.checks > _MAX_CHECKS:
            return True
        if not isinstance(schema, dict):
            return schema is not False
        return (
            self._has_type(value, schema.get("type"))
            and ("const" not in schema or _is_same(value, schema["const"]))
            and _is_one_of(value, schema.get("enum"))
            and self._has_members(value, schema, depth)
            and self._has_items(value, schema.get("items"), depth)
            and self._keeps_others(value, schema, depth)
        )

    @staticmethod
    def _has_type(value: Any, types: Any) -> bool:
        names = types if isinstance(types, list) else [types]
        checks = [_TYPES[name] for name in names if isinstance(name, str) and name in _TYPES]
        return not checks or any(check(value) for check in checks)

    def _has_members(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        if not isinstance(value, dict):
            return True
        properties, required = schema.get("properties"), schema.get("required")
        properties = properties if isinstance(properties, dict) else {}
        if isinstance(required, list) and not all(
            name in value for name in required if isinstance(name, str)
        ):
            return False
        others = schema.get("additionalProperties", True)
        return all(
            self.is_valid(item, properties.get(name, others), depth + 1) for name, item in value.items()
        )

    def _has_items(self, value: Any, items: Any, depth: int) -> bool:
        if not isinstance(value, list) or not isinstance(items, dict | bool):
            return True
        return all(self.is_valid(item, items, depth + 1) for item in value)

    def _keeps_others(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        """Tell whether the value is as the schemas ask that this one is made of."""
        for word in ("anyOf", "oneOf"):
            choices = schema.get(word)
            if isinstance(choices, list) and choices:
                fitting = sum(self.is_valid(value, choice, depth + 1) for choice in choices)
                if not fitting or (word == "oneOf" and fitting > 1 and self.checks <= _MAX_CHECKS):
                    return False
        parts = schema.get("allOf")
        if isinstance(parts, list) and not all(self.is_valid(value, part, depth + 1) for part in parts):
            return False
        return self.is_valid(value, self._target(schema["$ref"]), depth + 1) if "$ref" in schema else True

    def _target(self, reference: Any) -> Any:
        """Return the schema that `#/…` refers to; True, which asks for nothing, where there is none."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        schema = self.root
        for name in reference[1:].split("/")[1:]:
            if not isinstance(schema, dict) or name not in schema:
                return True
            schema = schema[name]
        return schema


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_one_of(value: Any, values: Any) -> bool:
    return not isinstance(values, list) or any(_is_same(value, other) for other in values)


def _is_same(value: Any, other: Any) -> bool:
    """Tell whether two values are the same in JSON, where true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
