"""One recorded call, sent again: to the candidate, or to a version that is served elsewhere."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.codec.openai.members import Endpoint
from gateway.codec.read_answers import read_answer
from gateway.codec.tensor_documents import read_tensor_documents
from gateway.codec.tensors import to_bytes
from gateway.foreign_text import foreign_text
from gateway.payloads.record import Record
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

OK = 200
_GENERATING = frozenset(endpoint.value for endpoint in Endpoint if endpoint.is_generating)
_JSON_SIZE = "Inference-Header-Content-Length"


class CannotReplay(ValueError):
    """A record whose request cannot be sent again; the text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: tensors, or a document of the OpenAI API; neither where the call failed."""

    status: int
    seconds: float
    tensors: Mapping[str, Array] | None = None
    document: Mapping[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReplayedCall:
    """A call as it is sent; `path` is that of the OpenAI API, "" for a call on tensors."""

    body: bytes
    headers: Mapping[str, str]
    is_text: bool
    path: str = ""


def replayed_call(record: Record) -> ReplayedCall:
    """Return a record's request, as it is sent again.

    Raises:
        CannotReplay: when it cannot be.
    """
    request = record.request
    assert request is not None
    if record.path:
        if record.path not in _GENERATING:
            raise CannotReplay(f"answers of {foreign_text(record.path)} are not compared")
        call = {**request, "stream": False}
        call.pop("stream_options", None)
        try:
            body = orjson.dumps(call)
        except TypeError as error:
            raise CannotReplay("its request is nested too deep") from error
        return ReplayedCall(body, {"Content-Type": "application/json"}, True, record.path)
    try:
        inputs = read_tensor_documents(request["inputs"])
        names = [_plain_name(output) for output in request.get("outputs", ())]
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise CannotReplay("its request cannot be read") from error
    if request.get("parameters"):
        raise CannotReplay("it asks for classes, which are not compared")
    body, size = _raw_request(inputs, names)
    return ReplayedCall(body, {_JSON_SIZE: str(size)}, False)


def recorded_reply(record: Record) -> Reply | None:
    """Return the answer that was recorded; None where there is none to compare with."""
    if record.status != OK:
        return Reply(record.status, record.seconds)
    answer = record.answer
    if answer is None or any(rule.startswith(("outputs.", "answer")) for rule in record.redacted):
        return None
    if record.path:
        return Reply(record.status, record.seconds, document=answer)
    try:
        return Reply(record.status, record.seconds, read_tensor_documents(answer["outputs"]))
    except (InputError, KeyError, TypeError):
        return None


class Target:
    """A server that is called, one call at a time."""

    def __init__(
        self, url: str, tensor_path: str, headers: Mapping[str, str], seconds: float, text_path: str = ""
    ) -> None:
        """Take the server's address and the headers of each call.

        `tensor_path` is the path of calls on tensors, `text_path` what stands before one of the OpenAI API.
        """
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        self._prefix = parts.path.rstrip("/")
        self._tensor_path = tensor_path
        self._text_path = text_path
        self._headers = headers

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> tuple[int, http.client.HTTPMessage]:
        """Return the status and the headers of a document. Raises OSError or HTTPException."""
        self._connection.request("GET", self._prefix + path, headers=dict(self._headers))
        response = self._connection.getresponse()
        response.read()
        return response.status, response.headers

    def call(self, call: ReplayedCall) -> Reply:
        """Send a call; raises OSError or HTTPException where there is no answer."""
        path = self._prefix + (self._text_path + call.path if call.is_text else self._tensor_path)
        started = time.perf_counter()
        self._connection.request("POST", path, call.body, {**self._headers, **call.headers})
        response = self._connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        if response.status != OK:
            return Reply(response.status, seconds, error=body[:300].decode("utf-8", "replace"))
        try:
            if call.is_text:
                document = orjson.loads(body)
                return Reply(OK, seconds, document=document if isinstance(document, dict) else {})
            size = response.headers.get(_JSON_SIZE)
            return Reply(OK, seconds, read_answer(memoryview(body), None if size is None else int(size)))
        except (ValueError, InputError) as error:
            return Reply(502, seconds, error=f"its answer cannot be read: {error}")


def _plain_name(output: Mapping[str, Any]) -> str:
    if output.get("parameters"):
        raise CannotReplay("it asks for classes, which are not compared")
    return str(output["name"])


def _raw_request(inputs: Mapping[str, Array], outputs: list[str]) -> tuple[bytes, int]:
    """Return a body of the Open Inference Protocol, and how much of it is JSON; BYTES are raw as well."""
    raw = {name: to_bytes(array) for name, array in inputs.items()}
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "datatype": Datatype.of(array.dtype).value,
                "shape": array.shape,
                "parameters": {"binary_data_size": len(raw[name])},
            }
            for name, array in inputs.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    if outputs:
        document["outputs"] = [{"name": name} for name in outputs]
    head = orjson.dumps(document)
    return b"".join((head, *raw.values())), len(head)
