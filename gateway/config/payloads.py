"""What a user writes about the payload log of a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import ByteSize, Field, field_validator

from gateway.config.faults import faults_at
from gateway.config.kits import Strict
from gateway.config.yaml_file import FieldPath
from gateway.payloads.rules import MAX_BODY, MAX_BYTES, SAMPLE, Keep, PayloadRules, read_redaction

_KIB = 1024
_MIB = 1024 * 1024


class Payloads(Strict):
    """Which calls are recorded in `payloads/` of the home, for `kitserve replay` and for other programs."""

    sample: Annotated[float, Field(gt=0, le=1)] = SAMPLE
    """The share of the calls that is recorded, chosen at random: 0.01 is one in a hundred."""
    keep: Keep = Keep.BOTH
    """Which bodies are recorded: of both, or of the `request` alone."""
    max_body: Annotated[ByteSize, Field(ge=_KIB, le=8 * _MIB)] = ByteSize(MAX_BODY)
    """How large a body may be in a record. A larger one is left out, and the record says so."""
    max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(MAX_BYTES)
    """How much disk the model's records may take; for more, the oldest file is deleted."""
    redact: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """What is never recorded: `inputs.NAME` and `outputs.NAME` (the values of a tensor), paths in bodies of
    the OpenAI API, such as `request/messages/*/content`, and whole bodies (`request`, `answer`). A body that
    has not what is named is left out whole; a `?` at the end allows that it has not."""

    @field_validator("redact")
    @classmethod
    def _rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        faults: dict[FieldPath, str] = {}
        for index, text in enumerate(value):
            try:
                read_redaction(text)
            except ValueError as error:
                faults[(index,)] = str(error)
        if faults:
            raise faults_at(faults)
        return value

    def rules(self) -> PayloadRules:
        """Return what is recorded, as workers take it."""
        return PayloadRules(self.sample, self.keep, int(self.max_body), int(self.max_bytes), self.redact)
