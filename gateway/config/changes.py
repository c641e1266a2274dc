"""What a config changes of the one in force, in a line for each model and setting. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what is added, changed and removed, of two configs as JSON has them; models come first."""
    models_before, models_after = _by_name(before), _by_name(after)
    lines = [
        *(
            f"{name}: added, {model['kit']}"
            for name, model in models_after.items()
            if name not in models_before
        ),
        *_changed_models(models_before, models_after),
        *(f"{name}: removed" for name in models_before if name not in models_after),
    ]
    settings = {**dict.fromkeys(before), **dict.fromkeys(after)}
    for setting in settings:
        if setting != "models":
            lines += _differences(setting, before.get(setting, _ABSENT), after.get(setting, _ABSENT))
    return lines


def _by_name(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in config.get("models", ())}


def _changed_models(
    before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]
) -> Iterator[str]:
    for name, model in after.items():
        if name in before:
            fields = {**before[name], **model}
            differences = [
                line
                for field in fields
                for line in _differences(field, before[name].get(field, _ABSENT), model.get(field, _ABSENT))
            ]
            if differences:
                yield f"{name}: changed, {', '.join(differences)}"


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    """Yield what is different at a path; mappings on both sides are compared field by field."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for field in {**before, **after}:
            yield from _differences(f"{path}.{field}", before.get(field, _ABSENT), after.get(field, _ABSENT))
    elif before in (_ABSENT, None):
        yield f"{path} {_value(after)}" if _is_plain(after) else f"{path} added"
    elif after in (_ABSENT, None):
        yield f"{path} removed"
    elif _is_plain(before) and _is_plain(after):
        yield f"{path} {_value(before)} -> {_value(after)}"
    else:
        yield f"{path} changed"


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
