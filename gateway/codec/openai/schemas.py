"""Bounds of the JSON Schemas that llama.cpp gets: it has none of its own.

It makes a grammar of a schema and tries every token of the vocabulary on every alternative of that, in the
one thread that computes all calls: a schema with too many alternatives stops them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.codec.openai.errors import RefusedCall

MAX_PROPERTIES = 300
"""Of all objects of a schema together; OpenAI allows 5000, and llama.cpp's time grows with their square."""
MAX_ALTERNATIVES = 500
"""Values of `enum` and branches of `anyOf` and the like, of all places together; OpenAI allows 1000."""
MAX_BRANCHES = 10_000
"""Ways that lead from one place to its values by `anyOf` and `$ref`, which multiply."""

_BRANCHING = ("anyOf", "oneOf", "allOf")


def check_schemas(form: Any, tools: Any, name: str) -> None:
    """Check the schema of a `response_format` and those of tools. Raises RefusedCall, which names `name`."""
    if isinstance(form, Mapping):
        wrapped = form.get("json_schema")
        _check(wrapped.get("schema") if isinstance(wrapped, Mapping) else form.get("schema"), name)
    total = 0
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping):
            total += _check(function.get("parameters"), "tools")
    _require(total, MAX_PROPERTIES, "properties", "tools")


def _check(schema: Any, name: str) -> int:
    """Return how many properties a schema has."""
    properties = alternatives = 0
    for part in _parts(schema):
        members = part.get("properties")
        properties += len(members) if isinstance(members, Mapping) else 0
        for word in (*_BRANCHING, "enum"):
            values = part.get(word)
            alternatives += len(values) if isinstance(values, list) else 0
    _require(properties, MAX_PROPERTIES, "properties", name)
    _require(alternatives, MAX_ALTERNATIVES, "alternatives (enum, anyOf, oneOf, allOf)", name)
    if isinstance(schema, Mapping):
        counts: dict[int, int] = {}
        try:
            branches = max((_branches(schema, part, counts) for part in _parts(schema)), default=0)
        except RecursionError as error:
            raise RefusedCall("the JSON Schema has too long a chain of $ref", name) from error
        _require(branches, MAX_BRANCHES, "branches where anyOf and $ref are followed", name)
    return properties


def _require(count: int, maximum: int, what: str, name: str) -> None:
    if count > maximum:
        raise RefusedCall(f"the JSON Schema has {count:,} {what}, and may have {maximum:,}", name)


def _parts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Return all objects of a schema, those that hold schemas by name among them."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _branches(root: Mapping[str, Any], part: Any, counts: dict[int, int]) -> int:
    """Return how many ways lead on from a schema; `counts` has those of the schemas that were counted."""
    if not isinstance(part, Mapping):
        return 1
    if id(part) in counts:
        return counts[id(part)]
    counts[id(part)] = 1  # a schema that leads back to itself
    total = 0
    for word in _BRANCHING:
        values = part.get(word)
        total += sum(_branches(root, value, counts) for value in values) if isinstance(values, list) else 0
    reference = part.get("$ref")
    if isinstance(reference, str):
        total += _branches(root, _target(root, reference), counts)
    counts[id(part)] = max(1, total)
    return counts[id(part)]


def _target(root: Mapping[str, Any], reference: str) -> Any:
    """Return the schema that a reference within the document names, None where there is none."""
    target: Any = root
    for word in reference.removeprefix("#").split("/")[1:]:
        target = target.get(word) if isinstance(target, Mapping) else None
    return target
