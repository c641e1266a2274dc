"""A call that the activator holds: its head as the edge sent it, and the answers that need no worker.

Specifications: HAProxy, `doc/proxy-protocol.txt`, section 2.2 (version 2); gRPC, `PROTOCOL-HTTP2.md` (the
edge makes HTTP/2 trailers of those of chunked HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from dataclasses import dataclass

from gateway.control.web.errors import error_body
from gateway.errors import EdgeError
from gateway.wire import limits
from gateway.wire.grpc_status import Code, message_value
from gateway.wire.texts import INFERENCE

HEAD_BYTES = 2 * limits.HEAD_BYTES
"""The largest head that is read; the edge sends half of it at most."""
_PROXY_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY_HEADER = struct.Struct(">12sBBH")
_PROXY_VERSION_2 = 0x20
_ADDRESS_BYTES = {0x00: 0, 0x10: 12, 0x20: 36, 0x30: 216}
"""The size of the addresses, which come first, by address family: none, IPv4, IPv6, Unix."""
_TLV = struct.Struct(">BH")
_UNIQUE_ID = 0x05
_READY_PATH = re.compile(rb"/v2/models/[^/]+(/versions/[^/]+)?/ready")
_VERSION_PATH = re.compile(rb"/v2/models/[^/]+/versions/")
_VERSION_HEADER = re.compile(rb"\r\nmodelkit-version: *[^ \r]", re.IGNORECASE)
_READY_CALL = f"/{INFERENCE}/ModelReady".encode()
_GRPC_TYPE = re.compile(rb"\r\ncontent-type: *application/grpc", re.IGNORECASE)
# An uncompressed frame of 2 bytes: the message's field 1 (`ready`) is true.
_GRPC_READY = b"\x00\x00\x00\x00\x02\x08\x01"


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A call's head, and the part of its body that came with it."""

    backend: str
    """The edge's backend that it was sent to."""
    head: bytes
    """The request line and the headers, with the empty line that ends them."""
    rest: bytes

    @classmethod
    async def read(cls, loop: asyncio.AbstractEventLoop, client: socket.socket) -> HeldCall:
        """Read a call up to the end of its head.

        Raises:
            EdgeError: when it is no call, or ends before its head does.
        """
        data = b""
        while True:
            piece = await loop.sock_recv(client, HEAD_BYTES - len(data))
            data += piece
            proxy_end = proxy_length(data)
            head_end = -1 if proxy_end is None else data.find(b"\r\n\r\n", proxy_end)
            if proxy_end is not None and head_end >= 0:
                end = head_end + 4
                return cls(unique_id(data[:proxy_end]), data[proxy_end:end], data[end:])
            if not piece or len(data) == HEAD_BYTES:
                raise EdgeError("the edge's connection ended before a call's head did")

    @property
    def path(self) -> bytes:
        """The path without the query."""
        target = self.head.partition(b"\r\n")[0].partition(b" ")[2].partition(b" ")[0]
        return target.partition(b"?")[0]

    @property
    def is_grpc(self) -> bool:
        """Whether it is a call of gRPC."""
        return _GRPC_TYPE.search(self.head) is not None

    @property
    def asks_readiness(self) -> bool:
        """Whether it only asks if the version can be called."""
        if self.head.startswith((b"GET ", b"HEAD ")):
            return _READY_PATH.fullmatch(self.path) is not None
        return self.path == _READY_CALL

    @property
    def names_version(self) -> bool:
        """Whether its path, or a header, says which version is to answer, so that no other may.

        Of a call of the OpenAI API that names one, the edge makes it a header.
        """
        return _VERSION_PATH.match(self.path) is not None or _VERSION_HEADER.search(self.head) is not None

    def closing(self) -> bytes:
        """Return the call as a worker is to get it: the connection takes no second one."""
        return self.head[:-2] + b"connection: close\r\n\r\n" + self.rest


def proxy_length(data: bytes) -> int | None:
    """Return the length of the PROXY header that comes first; None while it is incomplete.

    Raises:
        EdgeError: when there is none.
    """
    if len(data) < _PROXY_HEADER.size:
        return None
    signature, version, _, length = _PROXY_HEADER.unpack_from(data)
    if signature != _PROXY_SIGNATURE or version & 0xF0 != _PROXY_VERSION_2:
        raise EdgeError("no PROXY header of version 2 comes first")
    end = _PROXY_HEADER.size + int(length)
    return end if len(data) >= end else None


def unique_id(header: bytes) -> str:
    """Return the unique id in a complete PROXY header.

    Raises:
        EdgeError: when it has none.
    """
    family = header[_PROXY_HEADER.size - 3] & 0xF0
    offset = _PROXY_HEADER.size + _ADDRESS_BYTES.get(family, 0)
    while offset + _TLV.size <= len(header):
        kind, length = _TLV.unpack_from(header, offset)
        offset += _TLV.size
        if kind == _UNIQUE_ID:
            return header[offset : offset + length].decode("ascii", "replace")
        offset += length
    raise EdgeError("the PROXY header has no unique id")


def refusal(call: HeldCall, reason: str) -> bytes:
    """Write the answer that says why a version is not called; the caller may ask again."""
    if call.is_grpc:
        fields = {"grpc-status": str(int(Code.UNAVAILABLE)), "grpc-message": message_value(reason).decode()}
        return _answer(200, "OK", {"content-type": "application/grpc", **fields}, b"")
    document = error_body(call.path.decode("latin-1"), 503, reason)
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    fields = {"content-type": "application/json", "retry-after": "1"}
    return _answer(503, "Service Unavailable", fields, body)


def readiness(call: HeldCall, model: str, version: str, digest: str) -> bytes:
    """Write the answer that a version is ready, as its workers do."""
    names = {"modelkit-version": version, "modelkit-digest": digest}
    if call.is_grpc:
        frame = b"%x\r\n%s\r\n" % (len(_GRPC_READY), _GRPC_READY)
        head = _head(200, "OK", {"content-type": "application/grpc", "transfer-encoding": "chunked", **names})
        return head + frame + b"0\r\ngrpc-status: 0\r\n\r\n"
    body = json.dumps({"name": model, "ready": True}, separators=(",", ":")).encode()
    answer = _answer(200, "OK", {"content-type": "application/json", **names}, body)
    return answer[: -len(body)] if call.head.startswith(b"HEAD ") else answer


def _answer(status: int, text: str, fields: dict[str, str], body: bytes) -> bytes:
    return _head(status, text, {**fields, "content-length": str(len(body))}) + body


def _head(status: int, text: str, fields: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {text}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1")
