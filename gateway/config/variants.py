"""Which kit of an index a model is, as a user writes it: its labels, or `auto`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from gateway.config.kits import fault
from gateway.errors import InvalidReference
from gateway.oci.reference import Reference, parse_reference
from gateway.oci.variant import AUTO, Variant

_AUTO = "auto"


def _read(value: object) -> Variant:
    if isinstance(value, Variant):
        return value
    if value == _AUTO:
        return AUTO
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise fault("write labels of one kit of the index, such as {quantization: q4_0}, or auto")
    try:
        return Variant.of({name: _label(label) for name, label in value.items()})
    except InvalidReference as error:
        raise ValueError(str(error)) from None


def _label(value: Any) -> str:
    """Return a label as a text; those that kit writes as JSON may be written so: 4, true, [cuda]."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write(variant: Variant) -> str | dict[str, str]:
    return _AUTO if variant.is_auto else dict(variant.labels)


WrittenVariant = Annotated[Variant, PlainValidator(_read), PlainSerializer(_write)]
"""A variant: a mapping of labels or the word `auto` in the config, a Variant in the model."""


def reference_of(kit: str, variant: Variant | None) -> Reference:
    """Return the reference of a kit, with its variant."""
    return replace(parse_reference(kit), variant=variant)
