"""The reflection service: a client that has no proto files asks for them (grpc, doc/server-reflection.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.wire.grpc_messages import message, pool
from gateway.wire.grpc_status import Code
from gateway.wire.texts import HEALTH, INFERENCE, REFLECTION

SERVICES = (INFERENCE, HEALTH, *REFLECTION)
PATHS: Mapping[str, str] = {f"/{service}/ServerReflectionInfo": service for service in REFLECTION}
"""The method of each version of the service."""


def answer(service: str, request: bytes) -> bytes:
    """Answer one request of a stream. Raises protobuf's DecodeError."""
    package = service.rpartition(".")[0]
    asked = message(f"{package}.ServerReflectionRequest").FromString(request)
    found = message(f"{package}.ServerReflectionResponse")()
    found.valid_host = asked.host
    found.original_request.CopyFrom(asked)
    kind = asked.WhichOneof("message_request")
    if kind == "list_services":
        for name in SERVICES:
            found.list_services_response.service.add(name=name)
    else:
        file = (
            _file(kind, getattr(asked, kind))
            if kind in ("file_by_filename", "file_containing_symbol")
            else None
        )
        if file is None:
            found.error_response.error_code = Code.NOT_FOUND
            found.error_response.error_message = "there is no such file, symbol or extension"
        else:
            found.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
    written: bytes = found.SerializeToString()
    return written


def _file(kind: str, name: str) -> Any:
    """The file of that name, or that describes that symbol; None where there is none."""
    if kind == "file_by_filename":
        return _find(pool().FindFileByName, name)
    # protobuf knows services by their names, but not their methods
    return _find(pool().FindFileContainingSymbol, name) or _find(
        pool().FindFileContainingSymbol, name.rpartition(".")[0]
    )


def _find(find: Any, name: str) -> Any:
    try:
        return find(name)
    except KeyError:
        return None
