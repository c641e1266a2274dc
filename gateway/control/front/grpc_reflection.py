"""The reflection service, for clients that have no proto files (grpc, doc/server-reflection.md)."""

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
    """Answer one request of a stream.

    Raises:
        DecodeError: protobuf's, when the request is malformed.
    """
    package = service.rpartition(".")[0]
    query = message(f"{package}.ServerReflectionRequest").FromString(request)
    response = message(f"{package}.ServerReflectionResponse")()
    response.valid_host = query.host
    response.original_request.CopyFrom(query)
    kind = query.WhichOneof("message_request")
    if kind == "list_services":
        for name in SERVICES:
            response.list_services_response.service.add(name=name)
    else:
        file = (
            _file(kind, getattr(query, kind))
            if kind in ("file_by_filename", "file_containing_symbol")
            else None
        )
        if file is None:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = "there is no such file, symbol or extension"
        else:
            response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
    serialized: bytes = response.SerializeToString()
    return serialized


def _file(kind: str, name: str) -> Any:
    """Return the file of that name, or that describes that symbol; None where there is none."""
    if kind == "file_by_filename":
        return _find(pool().FindFileByName, name)
    # The pool finds a service by its name, but not a method.
    return _find(pool().FindFileContainingSymbol, name) or _find(
        pool().FindFileContainingSymbol, name.rpartition(".")[0]
    )


def _find(find: Any, name: str) -> Any:
    try:
        return find(name)
    except KeyError:
        return None
