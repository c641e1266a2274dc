"""Reads YAML that people write into plain values, with the line of every field."""

from __future__ import annotations

import json
from typing import Any

import yaml

from gateway.errors import ConfigError

# No real config comes near these limits; aliases of aliases, or an alias of itself, exceed them.
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_SHOWN_LENGTH = 40
# What PyYAML raises for text and tags it cannot use, besides its own errors.
_YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, AttributeError)

FieldPath = tuple[str | int, ...]
"""The path of a field: the keys and indexes that lead to it."""


def read_yaml(text: str, source: str) -> tuple[Any, dict[FieldPath, int], list[str]]:
    """Return what a document says ({} for an empty one), the line of each field, and the faults in it.

    Raises:
        ConfigError: when the text is no YAML at all; it names `source`.
    """
    lines: dict[FieldPath, int] = {}
    faults: list[str] = []
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return {} if node is None else _plain(node, (), lines, faults), lines, faults
    except _YAML_ERRORS as error:
        raise ConfigError(source, [_syntax_fault(error)]) from error


def _syntax_fault(error: Exception) -> str:
    """Write in one line, and by the line of the file, why a text is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = " ".join(str(getattr(error, "problem", "")).split())
    advice = (
        "indent with spaces, not with tabs"
        if r"'\t'" in problem
        else "see to indentation, quotes and brackets"
    )
    return f"line {mark.line + 1}: this is no YAML: {problem}; {advice}"


def dotted(path: FieldPath) -> str:
    """Write the path of a field for people: models[0].name."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def shown(value: object) -> str:
    """Write a value for people, as YAML has it, in one short line."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, float):
        text = f"{value:.15g}"
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
        text = text if text.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def _plain(node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int], faults: list[str]) -> Any:
    """Return a YAML node as plain values. Adds the line of each path to `lines`, and faults to `faults`."""
    if len(path) > _MAX_DEPTH or len(lines) + len(faults) > _MAX_NODES:
        raise yaml.MarkedYAMLError("this goes too deep, or has too many parts", node.start_mark)
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, faults) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            node.value.encode()
            return yaml.SafeLoader("").construct_object(node)
        except _YAML_ERRORS:
            kind = node.tag.rpartition(":")[2]
            faults.append(f"line {lines[path]}: {dotted(path)}: {node.value!r} is not a valid {kind}")
            return node.value
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key, str) or not key.isprintable():
            faults.append(f"line {line}: a field's name must be plain text")
            continue
        if key in mapping:
            faults.append(f"line {line}: {dotted((*path, key))}: written twice")
        mapping[key] = _plain(value_node, (*path, key), lines, faults)
        lines[(*path, key)] = line
    return mapping
