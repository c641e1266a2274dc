"""What an engine says of its key-value cache, asked on its own socket: at most once a second, while it works.

Only the engines' own formats are known here:

    llama.cpp   `GET /slots`     of each slot, the tokens that it has and those that it has room for
    vLLM        `GET /metrics`   `vllm:kv_cache_usage_perc`, from 0 to 1

An engine that has neither is asked no more.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from gateway.worker.engine_socket import ask_engine

_SECONDS = 1.0
_VLLM = re.compile(rb"^vllm:kv_cache_usage_perc(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)

log = logging.getLogger(__name__)


def usage_of_slots(body: bytes) -> float | None:
    """Return the part of llama.cpp's cache that its calls of this moment have; None where it is not said."""
    slots: list[dict[str, Any]] = orjson.loads(body)
    room = sum(slot["n_ctx"] for slot in slots)
    used = sum(slot.get("n_prompt_tokens", 0) for slot in slots if slot["is_processing"])
    return min(1.0, used / room) if room else None


def usage_of_metrics(body: bytes) -> float | None:
    """Return the part of vLLM's cache in use, the largest where it has several; None where it is not said."""
    values = [float(value) for value in _VLLM.findall(body)]
    return max(values) if values else None


_Reader = Callable[[bytes], float | None]
_PLACES: tuple[tuple[str, _Reader], ...] = (("/slots", usage_of_slots), ("/metrics", usage_of_metrics))


class EngineNumbers:
    """Knows the numbers of one engine, some moments old; for one event loop."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._places = list(_PLACES)
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -_SECONDS
        self._usage: float | None = None

    def kv_cache_usage(self, generating: int) -> float | None:
        """Return the part of the cache in use, None while it is not known; `generating` calls run now.

        It never waits: the engine is asked meanwhile, for the next time.
        """
        now = time.monotonic()
        is_asking = self._asking is not None and not self._asking.done()
        if generating and self._places and not is_asking and now - self._asked_at >= _SECONDS:
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask())
        return self._usage if generating or self._usage is None else 0.0

    async def _ask(self) -> None:
        while self._places:
            path, read = self._places[0]
            try:
                status, body = await asyncio.to_thread(ask_engine, self._socket, path)
                usage = read(body) if status == http.client.OK else None
            except (OSError, http.client.HTTPException) as error:
                # It is busy, or ends; another place would not answer either.
                log.debug("engine.silent", extra={"path": path, "reason": str(error)})
                return
            except (ValueError, LookupError, TypeError, AttributeError):
                usage = None
            if usage is not None:
                self._usage = usage
                return
            del self._places[0]
