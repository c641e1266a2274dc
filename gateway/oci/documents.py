"""JSON documents that others wrote, read strictly, so that no two readers understand them differently."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from gateway.errors import InvalidReference
from gateway.foreign_text import foreign_text
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest

_ERRORS_SHOWN = 8


def read_json(data: bytes) -> Any:
    """Parse UTF-8 JSON. Raises ValueError, also for a repeated key, NaN, Infinity and too deep a nesting."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def describe_errors(error: ValidationError) -> str:
    """Return pydantic's first errors in one line, without the values that caused them."""
    details = error.errors(include_url=False, include_input=False)
    lines = [
        f"{foreign_text('.'.join(map(str, detail['loc']))) or 'document'}: {foreign_text(detail['msg'])}"
        for detail in details[:_ERRORS_SHOWN]
    ]
    if len(details) > _ERRORS_SHOWN:
        lines.append(f"and {len(details) - _ERRORS_SHOWN} more")
    return "; ".join(lines)


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
"""A digest: a string in the document, a Digest in the model."""


class DescriptorDocument(BaseModel):
    """A descriptor in a document (OCI image spec, "Descriptors"); other members are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    media_type: str = Field(alias="mediaType", max_length=255)
    digest: DigestField
    size: int = Field(ge=0, lt=2**63)
    annotations: dict[str, str] | None = None

    def descriptor(self) -> Descriptor:
        """Return the descriptor that the document states."""
        return Descriptor(self.media_type, self.digest, self.size, self.annotations or {})
