"""A record: one call of a model, as a line of JSON. What a line means is said in docs/operating.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

SCHEMA = 1
"""The form of a line that this release writes, and the only one that it reads."""
MAX_LINE = 64 * 1024 * 1024
"""A line that is longer is no record: two bodies of the largest size that a config may ask for, and more."""


class Protocol(StrEnum):
    """By which protocol a call came; its bodies are recorded as tensors for all but `OPENAI`."""

    REST = "rest"
    GRPC = "grpc"
    PREDICT = "predict"
    OPENAI = "openai"


class NoRecord(ValueError):
    """A line that is no record of a call that can be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """One call that was recorded."""

    request_id: str
    model: str
    digest: str
    protocol: Protocol
    path: str
    """Of the OpenAI API; "" for others."""
    status: int
    """HTTP's, over gRPC too."""
    seconds: float
    request: Mapping[str, Any] | None
    """None where it was left out."""
    answer: Mapping[str, Any] | None
    redacted: tuple[str, ...] = ()
    omitted: Mapping[str, str] = field(default_factory=dict)
    """Why a body was left out, by `request` and `answer`."""


def read_record(line: bytes) -> Record:
    """Read a line of a payload log; fields that are not known are passed over.

    Raises:
        NoRecord: when it is none, or of another release's form.
    """
    try:
        document = orjson.loads(line)
    except ValueError as error:
        raise NoRecord("it is not JSON: damaged, or cut off") from error
    if not isinstance(document, dict) or "schema" not in document:
        raise NoRecord("it is no record of a call")
    if document["schema"] != SCHEMA:
        raise NoRecord("another release of Kitserve wrote it, in another form")
    try:
        return Record(
            request_id=_text(document.get("request_id", "")),
            model=_text(document["model"]),
            digest=_text(document["digest"]),
            protocol=Protocol(document["protocol"]),
            path=_text(document.get("path", "")),
            status=_number(document["status"], int),
            seconds=float(_number(document["seconds"], int | float)),
            request=_body(document.get("request")),
            answer=_body(document.get("answer")),
            redacted=tuple(map(_text, document.get("redacted", ()))),
            omitted={_text(side): _text(reason) for side, reason in document.get("omitted", {}).items()},
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NoRecord("it has not the fields of a record") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _number(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError("not a number")
    return value


def _body(value: object) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise TypeError("not an object")
    return value
