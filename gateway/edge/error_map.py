"""The map in which HAProxy finds what it says of an error: its keys and its entries. Pure.

    STATUS/body      the body of the answer; one to a gRPC client has none
    STATUS/grpc      gRPC's message
    STATUS/gateway   gRPC's message where the gateway should have answered
    STATUS/code      gRPC's code

STATUS is HTTP's. The kind of a call's errors, `/grpc` or `/gateway`, is in HAProxy's variable `txn.family`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from gateway.wire import texts
from gateway.wire.grpc_status import CODES, Code

ERRORS = {
    400: "the request is not valid HTTP",
    408: "the request took too long to arrive",
    413: "the request body is too large",
    500: "the edge failed",
    502: "the worker answered no valid HTTP; if this lasts, see its log",
    503: "no worker of this version is up; one is being started",
    504: "the worker did not answer in time",
}
"""What the edge says where it fails, by HTTP's status."""


class ErrorKey(StrEnum):
    """What a status is followed by in a key."""

    BODY = "/body"
    GRPC = "/grpc"
    GATEWAY = "/gateway"
    CODE = "/code"


def error_entries() -> dict[str, str]:
    """Return the entries of the map."""
    entries = {f"{status}{ErrorKey.CODE}": str(code.value) for status, code in CODES.items()}
    for status, text in ERRORS.items():
        entries[f"{status}{ErrorKey.BODY}"] = json.dumps({"error": text}, separators=(",", ":"))
        entries[f"{status}{ErrorKey.GRPC}"] = text
        entries[f"{status}{ErrorKey.GATEWAY}"] = texts.GATEWAY_STARTS if status == 503 else text
    return entries


def error_body(path: Path, status: int) -> str:
    """Return HAProxy's expression for the body of an error; for gRPC it finds none."""
    return f"str({status}{ErrorKey.BODY}),concat(,txn.family),map({path})"


def error_message(path: Path) -> str:
    """Return HAProxy's expression for gRPC's message of an answer's status."""
    return f"status,concat(,txn.family),map({path})"


def error_code(path: Path) -> str:
    """Return HAProxy's expression for gRPC's code of an answer's status."""
    return f"status,concat({ErrorKey.CODE}),map({path},{Code.UNKNOWN:d})"
