"""A client of streamed chats that does as little as it can: it times each piece and counts tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

_EVENT = b"data: "
_DONE = b"data: [DONE]"
_SECONDS = 300.0

Address = Path | tuple[str, int]
"""A Unix socket, or a host and a port."""


class StreamFailed(Exception):
    """A call was not answered as it should have been; the message has the answer's beginning."""


@dataclass(slots=True)
class Stream:
    """What one call's caller saw; durations in seconds."""

    first: float = 0.0
    """From the call to the first event that has text."""
    gaps: list[float] = field(default_factory=list)
    """From one event with text to the next."""
    tokens: int = 0
    """Of the answer, as the server counts them."""


async def stream(address: Address, body: dict[str, Any]) -> Stream:
    """Call `/v1/chat/completions` on a new connection, and read its answer to the end.

    Raises StreamFailed for an answer that is no stream, or that says nothing of its tokens.
    """
    async with asyncio.timeout(_SECONDS):
        reader, writer = await _connect(address)
        try:
            return await _call(reader, writer, body)
        finally:
            writer.close()


async def streams(address: Address, bodies: Sequence[dict[str, Any]]) -> tuple[list[Stream], float]:
    """Make calls all at once; return what each saw, and how long all of them took together."""
    began = time.perf_counter()
    results = await asyncio.gather(*(stream(address, body) for body in bodies))
    return list(results), time.perf_counter() - began


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(str(address))
    return await asyncio.open_connection(*address)


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any]) -> Stream:
    payload = orjson.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    began = time.perf_counter()
    writer.write(head.encode() + payload)
    status = await reader.readline()
    if b" 200 " not in status:
        raise StreamFailed((status + await reader.read(2000)).decode("utf-8", "replace"))
    result, last, usage = Stream(), 0.0, b""
    while line := await reader.readline():
        if not line.startswith(_EVENT):
            continue
        now = time.perf_counter()
        if b'"usage":{' in line:
            usage = line
        if b'"content":"' not in line or b'"content":""' in line:
            if line.startswith(_DONE):
                break
            continue
        if last:
            result.gaps.append(now - last)
        else:
            result.first = now - began
        last = now
    if not usage:
        raise StreamFailed("the stream says nothing of its tokens")
    result.tokens = orjson.loads(usage[len(_EVENT) :])["usage"]["completion_tokens"]
    return result
