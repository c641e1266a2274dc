"""The answers of gRPC as a client reads them: messages with raw contents, as `grpc` writes them."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from gateway.codec.tensors import from_bytes
from gateway.wire.grpc_frames import PREFIX_BYTES
from gateway.wire.grpc_messages import message
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

_RESPONSE = message("inference.ModelInferResponse")
_STREAM_RESPONSE = message("inference.ModelStreamInferResponse")


def read_response(body: bytes) -> dict[str, Array]:
    """Read a framed ModelInferResponse.

    Raises:
        InputError: when it is none.
    """
    return _outputs(_parse(_RESPONSE, body))


def read_stream_response(body: bytes) -> dict[str, Array]:
    """Read a framed ModelStreamInferResponse.

    Raises:
        InputError: when it is none, or has an error.
    """
    response = _parse(_STREAM_RESPONSE, body)
    if response.error_message:
        raise InputError("the answer is an error")
    return _outputs(response.infer_response)


def _parse(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body[PREFIX_BYTES:])
    except DecodeError as error:
        raise InputError(f"this is no answer of gRPC: {error}") from None


def _outputs(response: Any) -> dict[str, Array]:
    outputs = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = list(tensor.shape)
        flat = from_bytes(tensor.name, Datatype(tensor.datatype), shape, memoryview(raw))
        outputs[tensor.name] = flat.reshape(shape)
    return outputs
