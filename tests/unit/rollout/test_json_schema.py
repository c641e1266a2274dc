"""Whether a value is as a schema asks: the words that count, and what a caller could do with them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rollout.json_schema import is_valid

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
}


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ({"name": "Ada"}, PERSON, True),
        ({"name": "Ada", "age": 36, "tags": ["a"]}, PERSON, True),
        ({"name": "Ada", "age": 36.0}, PERSON, True),
        ({"age": 36}, PERSON, False),
        ({"name": 1}, PERSON, False),
        ({"name": "Ada", "age": 36.5}, PERSON, False),
        ({"name": "Ada", "age": True}, PERSON, False),
        ({"name": "Ada", "other": 1}, PERSON, False),
        ({"name": "Ada", "tags": ["a", 1]}, PERSON, False),
        ([], PERSON, False),
        ({"next": {"next": None}}, TREE, True),
        ({"next": {"next": 1}}, TREE, False),
        ("red", {"enum": ["red", "green"]}, True),
        ("blue", {"enum": ["red", "green"]}, False),
        (True, {"enum": [1]}, False),
        (1, {"const": 1}, True),
        (True, {"const": 1}, False),
        (None, {"type": ["string", "null"]}, True),
        (1, {"type": ["string", "null"]}, False),
        (float("inf"), {"type": "integer"}, False),
        (1, {"oneOf": [{"type": "integer"}, {"type": "number"}]}, False),
        (1.5, {"oneOf": [{"type": "integer"}, {"type": "number"}]}, True),
        (1, {"allOf": [{"type": "integer"}, {"enum": [1, 2]}]}, True),
        (3, {"allOf": [{"type": "integer"}, {"enum": [1, 2]}]}, False),
        ([1], {"items": False}, False),
    ],
)
def test_the_words_that_count(value: Any, schema: Any, expected: bool) -> None:
    assert is_valid(value, schema) is expected


@pytest.mark.parametrize(
    "schema",
    [
        *(True, {}, None, 7, "x", []),
        *({"type": "nonsense"}, {"type": 3}, {"required": "name"}, {"properties": 1}),
        *({"$ref": "#/nowhere"}, {"$ref": "https://example.com/schema"}, {"$ref": 5}),
        *({"pattern": "(a*)*b"}, {"anyOf": 1}, {"allOf": {}}, {"items": 4}, {"enum": "red"}),
    ],
)
def test_what_says_nothing_that_is_checked_asks_for_nothing(schema: Any) -> None:
    assert is_valid("a" * 1000, schema) is True


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert is_valid(1, {"$ref": "#"})
    doubled = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "type": "integer"}
    assert is_valid(1, doubled)
    deep: Any = None
    for _ in range(500):
        deep = [deep]
    assert is_valid(deep, {"type": ["array", "null"], "items": {"$ref": "#"}})
