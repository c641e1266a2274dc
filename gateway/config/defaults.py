"""The `defaults` of a config file: what every model has that does not say otherwise.

A model and the defaults are put together so, field by field:

    the model                the defaults       then the model has
    -----------------------  -----------------  ------------------------------------------
    says nothing             a value            that value
    a mapping                a mapping          both, put together by this same table
    any other value          any value          its own value; a list replaces a list
    null                     any value          nothing: what holds where nobody says it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config.yaml_file import MAX_NODES, FieldPath

DEFAULTS = "defaults"
"""The field of a config file."""
_MODELS = "models"


def with_defaults(
    config: dict[str, Any], lines: dict[FieldPath, int]
) -> tuple[Any, dict[FieldPath, FieldPath]]:
    """Give the models of a config, as YAML has it, its defaults.

    What is no mapping where one must be is left as it is: the check of the config tells of it.

    Args:
        config: the config, which stays as it is.
        lines: the line of each field; those of what models get from the defaults are added.

    Returns:
        The config, and where each field of a model is written that is from the defaults.

    Raises:
        ValueError: when that makes a config of more fields than any real one has.
    """
    defaults, models = config.get(DEFAULTS), config.get(_MODELS)
    written: dict[FieldPath, FieldPath] = {}
    if not isinstance(defaults, dict) or not isinstance(models, list):
        return config, written
    merged: list[Any] = []
    for index, model in enumerate(models):
        if not isinstance(model, dict):
            merged.append(model)
            continue
        merged.append(_merged(model, defaults, (_MODELS, index), (DEFAULTS,), written))
        if len(written) > MAX_NODES:
            raise ValueError("its models have too many fields from `defaults`")
    lines |= {path: lines[source] for path, source in written.items() if source in lines}
    return {**config, _MODELS: merged}, written


def _merged(
    own: Mapping[str, Any],
    defaults: Mapping[str, Any],
    path: FieldPath,
    source: FieldPath,
    written: dict[FieldPath, FieldPath],
) -> dict[str, Any]:
    merged = dict(own)
    for name, default in defaults.items():
        there, origin = (*path, name), (*source, name)
        if name not in own:
            merged[name] = default
            _note(default, there, origin, written)
        elif own[name] is None:
            del merged[name]
        elif isinstance(own[name], dict) and isinstance(default, dict):
            merged[name] = _merged(own[name], default, there, origin, written)
    return merged


def _note(value: Any, path: FieldPath, source: FieldPath, written: dict[FieldPath, FieldPath]) -> None:
    """Note where a value and all that is in it are written."""
    written[path] = source
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        _note(part, (*path, step), (*source, step), written)
