"""The map in which HAProxy finds what it says of an error: its keys and its entries. Pure.

    STATUS/body                 the body of the answer; one to a gRPC client has none
    STATUS/body/openai          the body of the answer to a call of the OpenAI API
    STATUS/gateway-body         the same two, where the gateway should have answered
    STATUS/gateway-body/openai
    503/full-body               the same two, where all callers together have too many calls
    503/full-body/openai
    STATUS/grpc                 gRPC's message
    STATUS/gateway              gRPC's message where the gateway should have answered
    STATUS/code                 gRPC's code

STATUS is HTTP's. The kind of a call's errors, `/grpc`, `/gateway` or `/openai`, is in HAProxy's variable
`txn.family`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from gateway.codec.openai import errors as openai_errors
from gateway.wire import texts
from gateway.wire.grpc_status import CODES, Code

ERRORS = {
    400: "the request is not valid HTTP",
    408: "the request took too long to arrive",
    413: "the request body is too large",
    429: texts.TOO_MANY_OF_ONE,
    500: "the edge failed",
    502: "the worker answered no valid HTTP; if this lasts, see its log",
    503: "no worker of this version is up; one is being started",
    504: "the worker did not answer in time",
}
"""What the edge says where it fails, by HTTP's status."""


class ErrorKey(StrEnum):
    """What a status is followed by in a key."""

    BODY = "/body"
    GATEWAY_BODY = "/gateway-body"
    FULL_BODY = "/full-body"
    OPENAI = "/openai"
    GRPC = "/grpc"
    GATEWAY = "/gateway"
    CODE = "/code"


def error_entries() -> dict[str, str]:
    """Return the entries of the map."""
    entries = {f"{status}{ErrorKey.CODE}": str(code.value) for status, code in CODES.items()}
    for status, text in ERRORS.items():
        gateway_text = texts.GATEWAY_STARTS if status == 503 else text
        sentences = {ErrorKey.BODY: text, ErrorKey.GATEWAY_BODY: gateway_text}
        if status == 503:
            sentences[ErrorKey.FULL_BODY] = texts.TOO_MANY_OF_ALL
        for key, sentence in sentences.items():
            entries[f"{status}{key}"] = json.dumps({"error": sentence}, separators=(",", ":"))
            entries[f"{status}{key}{ErrorKey.OPENAI}"] = openai_errors.error_body(status, sentence).decode()
        entries[f"{status}{ErrorKey.GRPC}"] = text
        entries[f"{status}{ErrorKey.GATEWAY}"] = gateway_text
    return entries


def error_body(path: Path, status: int, key: ErrorKey = ErrorKey.BODY) -> str:
    """Return HAProxy's expression for the body of an error; for gRPC it finds none."""
    return f"str({status}{key}),concat(,txn.family),map({path})"


def error_message(path: Path) -> str:
    """Return HAProxy's expression for gRPC's message of an answer's status."""
    return f"status,concat(,txn.family),map({path})"


def error_code(path: Path) -> str:
    """Return HAProxy's expression for gRPC's code of an answer's status."""
    return f"status,concat({ErrorKey.CODE}),map({path},{Code.UNKNOWN:d})"
