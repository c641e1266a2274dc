"""What a config changes of the one in force: fields with their values, and lines for people. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ABSENT = object()
_NOTHING: tuple[Any, ...] = (None, [], {})
"""What a field has that is not written, and has no other default."""

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that is different, by its dotted path, and its values as JSON has them; None where absent."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.field} {_value(self.after)}" if _is_plain(self.after) else f"{self.field} added"
        if self.after is None:
            return f"{self.field} removed"
        if _is_plain(self.before) and _is_plain(self.after):
            return f"{self.field} {_value(self.before)} -> {_value(self.after)}"
        return f"{self.field} changed"


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what is added, changed and removed, of two configs as JSON has them; models come first."""
    models_before, models_after = _by_name(before), _by_name(after)
    return [
        *(
            f"{name}: added, {model['kit']}"
            for name, model in models_after.items()
            if name not in models_before
        ),
        *(
            f"{name}: changed, {', '.join(map(str, changes))}"
            for name, changes in model_changes(before, after).items()
        ),
        *(f"{name}: removed" for name in models_before if name not in models_after),
        *map(str, setting_changes(before, after)),
    ]


def model_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[FieldChange]]:
    """Return the changed fields of each model that is in both configs, and differs, by its name."""
    models = _by_name(before)
    changes = {
        name: list(_changes(models[name], model)) for name, model in _by_name(after).items() if name in models
    }
    return {name: fields for name, fields in changes.items() if fields}


def setting_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChange]:
    """Return the changed fields that are of no model."""
    return list(
        _changes(
            {name: value for name, value in before.items() if name != "models"},
            {name: value for name, value in after.items() if name != "models"},
        )
    )


def _by_name(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in config.get("models", ())}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[FieldChange]:
    for name in {**before, **after}:
        place = f"{path}.{name}" if path else name
        yield from _differences(place, before.get(name, _ABSENT), after.get(name, _ABSENT))


def _differences(path: str, before: Any, after: Any) -> Iterator[FieldChange]:
    """Yield what is different at a path; mappings on both sides are compared field by field."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _changes(before, after, path)
        return
    if before is _ABSENT and after in _NOTHING:
        # What an earlier release wrote does not have the fields of this one.
        return
    before, after = (None if value is _ABSENT else value for value in (before, after))
    yield FieldChange(path, before, after)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= _MIB and not value % _MIB:
        # Only sizes in bytes are that large and round.
        return f"{value // _MIB // 1024}GiB" if not value % (_MIB * 1024) else f"{value // _MIB}MiB"
    return value if isinstance(value, str) else json.dumps(value)
