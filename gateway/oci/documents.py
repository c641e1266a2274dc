"""JSON documents that others wrote: read strictly, so that no two readers can differ over them."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from gateway.errors import InvalidReference
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest

_FAULTS = 8
_FAULT = 300  # characters of one


def read_json(data: bytes) -> Any:
    """Read UTF-8 JSON; raises ValueError for a repeated key, NaN, Infinity, or too deep a nesting."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def faults(error: ValidationError) -> str:
    """Say in one line what pydantic found wrong, the first of it, without repeating the input."""
    found = error.errors(include_url=False, include_input=False)
    said = [
        f"{'.'.join(str(part) for part in fault['loc'])[:_FAULT] or 'document'}: {fault['msg'][:_FAULT]}"
        for fault in found[:_FAULTS]
    ]
    return "; ".join([*said, *([f"and {len(found) - _FAULTS} more"] if len(found) > _FAULTS else [])])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("has an object with a repeated key")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"has {constant}, which is not JSON")


def _digest(value: object) -> Digest:
    if isinstance(value, Digest):
        return value
    if not isinstance(value, str):
        raise ValueError("is not a string")  # noqa: TRY004 - pydantic reports ValueError only
    try:
        return Digest.parse(value)
    except InvalidReference as error:
        raise ValueError(str(error)) from error


DigestField = Annotated[Digest, PlainValidator(_digest), PlainSerializer(str)]
"""A digest in a document: a string there, a Digest here."""


class DescriptorDocument(BaseModel):
    """A descriptor as it is written (OCI image spec, "Descriptors"); other members are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    media_type: str = Field(alias="mediaType", max_length=255)
    digest: DigestField
    size: int = Field(ge=0, lt=2**63)
    annotations: dict[str, str] | None = None

    def descriptor(self) -> Descriptor:
        """Return it as a value."""
        return Descriptor(self.media_type, self.digest, self.size, self.annotations or {})
