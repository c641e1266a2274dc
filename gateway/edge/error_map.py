"""The map in which HAProxy finds what it says where it fails."""

from __future__ import annotations

import json

from gateway.wire import texts
from gateway.wire.grpc_status import CODES

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


def error_entries() -> dict[str, str]:
    """What HAProxy looks up to tell of an error, by HTTP's status and by who is told.

    Keys: `STATUS/body` (REST's; gRPC's is empty), `STATUS/grpc` and `STATUS/gateway` (gRPC's message, the
    latter where the gateway should have answered), `STATUS/code` (gRPC's code).
    """
    entries = {f"{status}/code": str(code.value) for status, code in CODES.items()}
    for status, text in ERRORS.items():
        entries[f"{status}/body"] = json.dumps({"error": text}, separators=(",", ":"))
        entries[f"{status}/grpc"] = text
        entries[f"{status}/gateway"] = texts.GATEWAY_STARTS if status == 503 else text
    return entries
