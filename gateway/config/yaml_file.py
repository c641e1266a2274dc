"""Reads YAML that people write into plain values, with the line of every field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml

from gateway.errors import ConfigError

# No real config comes near these limits; aliases of aliases, or an alias of itself, exceed them.
_MAX_DEPTH = 32
MAX_NODES = 100_000
"""So many fields and items a document may have."""
_SHOWN_LENGTH = 40
_TEXT = "tag:yaml.org,2002:str"
# What PyYAML raises for text and tags it cannot use, besides its own errors.
_YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, AttributeError)

FieldPath = tuple[str | int, ...]
"""The path of a field: the keys and indexes that lead to it."""
Fill = Callable[[str, FieldPath], str]
"""Returns the text of a value with what it names filled in."""


def read_yaml(
    text: str, source: str, fill: Fill | None = None
) -> tuple[Any, dict[FieldPath, int], list[str]]:
    """Return what a document says ({} for an empty one), the line of each field, and the faults in it.

    Args:
        text: the document.
        source: its name in errors.
        fill: fills in what values name, before it is decided what they are: `2` is a number, `"2"` a text.

    Raises:
        ConfigError: when the text is no YAML at all; it names `source`.
    """
    lines: dict[FieldPath, int] = {}
    faults: list[str] = []
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return {} if node is None else _Reader(lines, faults, fill).plain(node, ()), lines, faults
    except _YAML_ERRORS as error:
        raise ConfigError(source, [_syntax_fault(error, text)]) from error


def _syntax_fault(error: Exception, text: str) -> str:
    """Write in one line, and by the line of the file, why a text is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = " ".join(str(getattr(error, "problem", "")).split())
    advice = "see to indentation, quotes and brackets"
    if r"'\t'" in problem:
        advice = "indent with spaces, not with tabs"
    elif "${" in "".join(text.splitlines()[mark.line : mark.line + 1]):
        advice = "within {…} and […], put what has ${ in it in quotes"
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


class _Reader:
    """Makes plain values of YAML nodes; adds the line of each path to `lines`, and faults to `faults`."""

    def __init__(self, lines: dict[FieldPath, int], faults: list[str], fill: Fill | None) -> None:
        self._lines = lines
        self._faults = faults
        self._fill = fill

    def plain(self, node: yaml.Node, path: FieldPath) -> Any:
        """Return a node, which stands at a path, as plain values."""
        if len(path) > _MAX_DEPTH or len(self._lines) + len(self._faults) > MAX_NODES:
            raise yaml.MarkedYAMLError("this goes too deep, or has too many parts", node.start_mark)
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node, path)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key, str) or not key.isprintable():
                self._faults.append(f"line {line}: a field's name must be plain text")
                continue
            if key in mapping:
                self._faults.append(f"line {line}: {dotted((*path, key))}: written twice")
            mapping[key] = self.plain(value_node, (*path, key))
            self._lines[(*path, key)] = line
        return mapping

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        try:
            node.value.encode()
            return yaml.SafeLoader("").construct_object(self._filled(node, path))
        except _YAML_ERRORS:
            kind = node.tag.rpartition(":")[2]
            self._faults.append(
                f"line {self._lines[path]}: {dotted(path)}: {node.value!r} is not a valid {kind}"
            )
            return node.value

    def _filled(self, node: yaml.Node, path: FieldPath) -> yaml.Node:
        if self._fill is None or not isinstance(node, yaml.ScalarNode):
            return node
        text = self._fill(node.value, path)
        if text == node.value:
            return node
        tag = node.tag
        if node.style is None and tag == _TEXT:
            tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, node.style)
