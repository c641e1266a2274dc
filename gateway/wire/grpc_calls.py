"""Calls of gRPC as they are on an exchange: which they are, their message, their errors."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from gateway.wire.exchange import Exchange, lines
from gateway.wire.grpc_frames import single_message
from gateway.wire.grpc_status import code_of, message_value
from runtimes.errors import InputError

CONTENT = lines([(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity")])
"""The headers of every answer."""
OK = ((b"grpc-status", b"0"),)
"""The trailers of an answer that is no error."""


def is_grpc(exchange: Exchange) -> bool:
    """Whether a call is one of gRPC, and not of gRPC-Web."""
    return is_grpc_type(exchange.headers.get(b"content-type", b""))


def is_grpc_type(content_type: bytes) -> bool:
    """Whether a content type is gRPC's, and not gRPC-Web's."""
    return content_type.startswith(b"application/grpc") and content_type[16:17] in b"+;"


def fail(exchange: Exchange, headers: bytes, status: int, text: str | bytes) -> None:
    """Answer with an error; `status` is HTTP's, bytes are the value of `grpc-message` already."""
    value = message_value(text) if isinstance(text, str) else text
    exchange.respond(status, headers + b"grpc-status: %d\r\ngrpc-message: %s\r\n" % (code_of(status), value))


def parse(kind: Any, exchange: Exchange) -> Any:
    """Return the message of class `kind` that a call's body is. Raises InputError."""
    try:
        return kind.FromString(b"".join(single_message(exchange.body)))
    except DecodeError as error:
        raise InputError(f"the message is no {kind.DESCRIPTOR.name}: {error}") from None
