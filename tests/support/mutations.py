"""Valid requests on a worker, and what a random mutator makes of them; all by one `random.Random`."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from runtimes.base import Datatype

SERVICE = "/inference.GRPCInferenceService"
_JSON = "application/json"
_INTERESTING: tuple[Any, ...] = (
    *(0, 1, -1, 2, 4, 255, 256, -(2**31), 2**31 - 1, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30),
    *(
        0.5,
        -0.0,
        1e308,
        1e400,
        None,
        True,
        False,
        "",
        "x",
        "\x00",
        "\ud83d\ude00" * 3,
        "FP32",
        "BYTES",
        "input",
    ),
    *([], {}, [[]], [[1], [1, 2]], {"a": {}}, [None], ["x", 1], [[[[[[[[[[[[[[[[[[1.0]]]]]]]]]]]]]]]]]]),
)
_HEADERS = (
    *("Inference-Header-Content-Length", "Content-Encoding", "Accept-Encoding", "X-Request-Timeout"),
    *("Content-Type", "Expect", "Connection", "Upgrade", "Transfer-Encoding", "X-Request-Id", "grpc-timeout"),
    *("grpc-encoding", "te", "Host", "ModelKit-Role", "Kitserve-Edge"),
)
_VALUES = (
    *(
        "",
        "0",
        "1",
        "-1",
        "2",
        "10",
        "18446744073709551616",
        "1e3",
        "gzip",
        "deflate",
        "br",
        "identity",
        "x, y",
    ),
    *("1u", "1n", "99999999H", "250ms", "chunked", "close", "keep-alive", "h2c", "100-continue", "trailers"),
    *("application/grpc", "application/grpc+proto", _JSON, "\xe9", "a" * 300, "stable", "canary"),
)


@dataclass(frozen=True)
class Request:
    """One HTTP request; `chunked` tells how its body is framed, None by its length."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    chunked: int | None = None
    damage: Callable[[bytes], bytes] = field(default=bytes)
    """What happens to the whole of it on the wire."""

    def wire(self) -> bytes:
        """The request as bytes."""
        headers = [("Host", "worker"), *self.headers]
        if self.chunked is not None:
            headers.append(("Transfer-Encoding", "chunked"))
            pieces = [
                self.body[start : start + self.chunked] for start in range(0, len(self.body), self.chunked)
            ]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            body = self.body
            if self.body or self.method == "POST":
                headers.append(("Content-Length", str(len(body))))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return self.damage("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def valid_requests() -> list[Request]:
    """Every kind of request on a model that takes an input `x_DATATYPE` of each datatype, shape [-1, 2]."""
    arrays = {datatype: _values(datatype) for datatype in Datatype}
    tensors = [
        {"name": f"x_{datatype}", "datatype": datatype.value, "shape": [1, 2], "data": _plain(array)}
        for datatype, array in arrays.items()
    ]
    raw = {datatype: _raw(array) for datatype, array in arrays.items()}
    pointers = [
        {
            "name": f"x_{datatype}",
            "datatype": datatype.value,
            "shape": [1, 2],
            "parameters": {"binary_data_size": len(raw[datatype])},
        }
        for datatype in arrays
    ]
    row = {tensor["name"]: tensor["data"] for tensor in tensors}
    columns = {name: [values] for name, values in row.items()}
    infer = "/v2/models/echo/infer"
    outputs = [
        {"name": "y_FP32", "parameters": {"classification": 2}},
        {"name": "y_BYTES", "parameters": {"binary_data": True}},
    ]
    called = {
        "id": "r",
        "inputs": tensors,
        "outputs": outputs,
        "parameters": {"timeout": 5_000_000, "own": "x"},
    }
    head = json.dumps({"inputs": pointers, "parameters": {"binary_data_output": True}}).encode()
    size = ("Inference-Header-Content-Length", str(len(head)))
    binary = head + b"".join(raw.values())
    text = json.dumps({"inputs": tensors}).encode()
    grpc = [("Content-Type", "application/grpc"), ("te", "trailers")]
    typed, message = _typed(arrays), _message(raw)
    return [
        Request("POST", infer, [("Content-Type", _JSON)], json.dumps(called).encode()),
        Request("POST", infer, [], text, chunked=100),
        Request("POST", infer, [size, ("Content-Type", "application/octet-stream")], binary),
        Request(
            "POST", infer, [("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip")], gzip.compress(text)
        ),
        Request("POST", "/v2/models/echo/versions/v1/infer", [("X-Request-Timeout", "5")], text),
        Request(
            "POST", "/v2/models/echo/predict", [("Content-Type", _JSON)], json.dumps({"rows": [row]}).encode()
        ),
        Request("POST", "/models/echo/invocations", [], json.dumps({"inputs": columns}).encode(), chunked=70),
        Request("GET", "/v2/models/echo"),
        Request("GET", "/v2/models/echo/versions/v1/config"),
        Request("GET", "/v2/health/ready"),
        Request("POST", f"{SERVICE}/ModelInfer", grpc, _framed(message)),
        Request("POST", f"{SERVICE}/ModelInfer", [*grpc, ("grpc-timeout", "5S")], _framed(typed), chunked=50),
        Request("POST", f"{SERVICE}/ModelStreamInfer", grpc, _framed(message) + _framed(typed), chunked=300),
        Request("POST", f"{SERVICE}/ModelMetadata", grpc, _framed(_named("ModelMetadataRequest"))),
        Request("POST", f"{SERVICE}/ModelReady", grpc, _framed(_named("ModelReadyRequest"))),
        Request("POST", f"{SERVICE}/ModelConfig", grpc, _framed(_named("ModelConfigRequest"))),
    ]


def mutated(request: Request, others: Sequence[Request], chance: random.Random) -> Request:
    """A request that is wrong in one way or in a few."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        request = chance.choice(_WAYS)(request, others, chance)
    return request


def _change_json(request: Request, others: Sequence[Request], chance: random.Random) -> Request:
    try:
        document, end = json.JSONDecoder().raw_decode(request.body.decode("latin-1"))
        if not isinstance(document, (dict, list)):
            return _change_bytes(request, others, chance)
        _change_node(document, chance)
        text = json.dumps(document).encode()
    # Bodies that nest too deep for Python's json are among those that are sent.
    except (ValueError, RecursionError):
        return _change_bytes(request, others, chance)
    if chance.random() < 0.1:
        text = text.replace(b"0", chance.choice((b"NaN", b"Infinity", b"1e999", b"00", b"-")), 1)
    rest = request.body[end:]
    if rest and chance.random() < 0.8:
        kept = [(name, value) for name, value in request.headers if not name.startswith("Inference")]
        headers = [*kept, ("Inference-Header-Content-Length", str(len(text)))]
        return replace(request, body=text + rest, headers=headers)
    return replace(request, body=text + rest)


def _change_node(node: Any, chance: random.Random) -> None:
    """Change one thing somewhere in a JSON document."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            if isinstance(node, list):
                node.append(deepcopy(chance.choice(_INTERESTING)))
            return
        key = chance.choice(keys)
        if isinstance(node[key], (dict, list)) and chance.random() < 0.75:
            node = node[key]
            continue
        way = chance.random()
        if way < 0.7:
            node[key] = deepcopy(chance.choice(_INTERESTING))
        elif way < 0.85:
            del node[key]
        elif isinstance(node, dict):
            node[chance.choice(("name", "data", "shape", "parameters", "datatype", "x"))] = node.pop(key)
        else:
            node += [node[key]] * chance.choice((1, 5, 100))
        return


def _change_bytes(request: Request, _others: Sequence[Request], chance: random.Random) -> Request:
    return replace(request, body=_damaged(request.body, chance))


def _splice(request: Request, others: Sequence[Request], chance: random.Random) -> Request:
    other = chance.choice(others).body
    end, start = chance.randrange(len(request.body) + 1), chance.randrange(len(other) + 1)
    return replace(request, body=request.body[:end] + other[start:])


def _change_headers(request: Request, _others: Sequence[Request], chance: random.Random) -> Request:
    headers = list(request.headers)
    if headers and chance.random() < 0.4:
        index = chance.randrange(len(headers))
        if chance.random() < 0.5:
            headers.pop(index)
        else:
            headers[index] = (headers[index][0], chance.choice(_VALUES))
    else:
        headers.append((chance.choice(_HEADERS), chance.choice(_VALUES)))
    return replace(request, headers=headers)


def _change_line(request: Request, others: Sequence[Request], chance: random.Random) -> Request:
    if chance.random() < 0.3:
        return replace(
            request, method=chance.choice(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "POST"))
        )
    path = chance.choice((request.path, chance.choice(others).path))
    way = chance.choice(
        ("", "/", "?x=1", "%00", "/../..", "/infer/infer", "\xe9", "/versions/v1", "//", "a" * 3000)
    )
    return replace(request, path=path + way)


def _change_chunks(request: Request, _others: Sequence[Request], chance: random.Random) -> Request:
    return replace(request, chunked=chance.choice((1, 3, 64, 5000)) if request.body else None)


def _change_frame(request: Request, _others: Sequence[Request], chance: random.Random) -> Request:
    """Change the prefix of a gRPC message, which is of any body here."""
    prefix = struct.pack(
        ">BI", chance.choice((0, 0, 1, 255)), chance.choice((0, 1, len(request.body), 2**31, 2**32 - 1))
    )
    return replace(request, body=prefix + request.body[chance.choice((0, 5)) :])


def _change_wire(request: Request, _others: Sequence[Request], chance: random.Random) -> Request:
    seed = chance.random()
    return replace(request, damage=lambda wire: _damaged(wire, random.Random(seed)))


_WAYS = (
    *(_change_json, _change_json, _change_json, _change_bytes, _splice, _change_headers, _change_headers),
    *(_change_line, _change_chunks, _change_frame, _change_wire),
)


def _damaged(data: bytes, chance: random.Random) -> bytes:
    """Data with some of its bytes changed, lost, repeated or put in."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        start = chance.randrange(len(result) + 1)
        end = min(len(result), start + chance.choice((1, 1, 4, 50)))
        way = chance.randrange(5)
        if way == 0 and start < len(result):
            result[start] ^= 1 << chance.randrange(8)
        elif way == 1:
            del result[start:end]
        elif way == 2:
            result[start:start] = chance.randbytes(chance.choice((1, 4, 30)))
        elif way == 3:
            result[start:start] = result[start:end] * chance.choice((1, 3, 50))
        else:
            del result[chance.choice((start, len(result) - 1)) :]
    return bytes(result)


def _values(datatype: Datatype) -> np.ndarray[Any, np.dtype[Any]]:
    if datatype is Datatype.BYTES:
        return np.array([[b"text", b""]], dtype=object)
    return np.array([[1, 0]]).astype(datatype.numpy)


def _plain(array: np.ndarray[Any, np.dtype[Any]]) -> list[Any]:
    return [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]


def _raw(array: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.reshape(-1).tolist())
    return array.tobytes()


def _message(raw: Mapping[Datatype, bytes]) -> bytes:
    message = service_pb2.ModelInferRequest(model_name="echo", model_version="v1", id="r")
    message.parameters["timeout"].int64_param = 5_000_000
    for datatype, data in raw.items():
        message.inputs.add(name=f"x_{datatype}", datatype=datatype.value, shape=[1, 2])
        message.raw_input_contents.append(data)
    return bytes(message.SerializeToString())


def _typed(arrays: Mapping[Datatype, np.ndarray[Any, np.dtype[Any]]]) -> bytes:
    """Contents of each input's own type; FP16 and BF16 have none, so this is refused once it is read."""
    message = service_pb2.ModelInferRequest(model_name="echo")
    fields = {
        "b": "bool_contents",
        "O": "bytes_contents",
        "f": "fp32_contents",
        "i": "int_contents",
        "u": "uint_contents",
    }
    own = {
        Datatype.FP64: "fp64_contents",
        Datatype.INT64: "int64_contents",
        Datatype.UINT64: "uint64_contents",
    }
    for datatype, array in arrays.items():
        tensor = message.inputs.add(name=f"x_{datatype}", datatype=datatype.value, shape=[1, 2])
        name = own.get(datatype) or fields.get(array.dtype.kind)
        if name:
            getattr(tensor.contents, name).extend(array.reshape(-1).tolist())
    return bytes(message.SerializeToString())


def _named(kind: str) -> bytes:
    return bytes(getattr(service_pb2, kind)(name="echo").SerializeToString())


def _framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message
