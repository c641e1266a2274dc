"""What is never recorded is taken out of a body, before the body leaves the worker that had the call.

A rule that a body does not fit is no reason to record it: the rule's field may be there in another form. So
such a body is left out whole, unless the rule says that the field need not be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.payloads.rules import ANY, Redaction

REDACTED = "[redacted]"
"""What stands in place of a field of a JSON body."""


class CannotRedact(Exception):
    """A body that a rule does not fit; the text says which, and never what the body holds."""


def redact_fields(document: Any, rules: Sequence[Redaction]) -> list[str]:
    """Take fields out of a JSON body, in place; return the rules that took something.

    Raises:
        CannotRedact: when the body is to be left out.
    """
    return [rule.text for rule in rules if _redact_field(document, rule)]


def redact_tensors(tensors: Sequence[dict[str, Any]], rules: Sequence[Redaction]) -> list[str]:
    """Take the values out of tensors of the Open Inference Protocol, in place; names and shapes stay.

    Raises:
        CannotRedact: when the body is to be left out.
    """
    return [rule.text for rule in rules if _redact_tensor(tensors, rule)]


def _redact_tensor(tensors: Sequence[dict[str, Any]], rule: Redaction) -> bool:
    _refuse_whole(rule)
    matches = [tensor for tensor in tensors if rule.tensor in (ANY, tensor["name"])] if rule.tensor else []
    for tensor in matches:
        tensor.pop("data", None)
        tensor["redacted"] = True
    if not matches and not rule.is_optional:
        raise CannotRedact(f"{rule.text}: there is none in this body, which is of tensors")
    return bool(matches)


def _redact_field(document: Any, rule: Redaction) -> bool:
    _refuse_whole(rule)
    if rule.tensor:
        if rule.is_optional:
            return False
        raise CannotRedact(f"{rule.text}: this body has no tensors")
    *parents, last = rule.path
    has_redacted = False
    for parent in _walk(document, tuple(parents), rule):
        for member in _members(parent, last, rule):
            parent[member] = REDACTED
            has_redacted = True
    return has_redacted


def _refuse_whole(rule: Redaction) -> None:
    if rule.is_whole:
        raise CannotRedact(rule.text)


def _walk(value: Any, path: tuple[str, ...], rule: Redaction) -> Iterator[Any]:
    """Yield each list or object that a path leads to."""
    if not path:
        yield value
        return
    for member in _members(value, path[0], rule):
        yield from _walk(value[member], path[1:], rule)


def _members(value: Any, name: str, rule: Redaction) -> list[Any]:
    """Return the keys or indexes of what a member's name stands for. Raises CannotRedact."""
    if isinstance(value, dict):
        names: list[Any] = list(value) if name == ANY else [name] if name in value else []
    elif isinstance(value, list):
        if name == ANY:
            names = list(range(len(value)))
        elif name.isdecimal() and name.isascii():
            names = [int(name)] if int(name) < len(value) else []
        else:
            raise CannotRedact(f"{rule.text}: {name} is to be a member of a list")
    else:
        raise CannotRedact(f"{rule.text}: {name} is to be in what is neither a list nor an object")
    if not names and not rule.is_optional:
        raise CannotRedact(f"{rule.text}: there is no {name} in this body")
    return names
