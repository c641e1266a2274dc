"""HAProxy's access log on its way out: each line as it is, but in an outage only some of them.

HAProxy writes into a pipe, and never waits for it: lines that nobody reads in time are lost, and no call is
late for them. A thread reads the lines and hands them on. Of the warnings about calls with one status to one
model, it hands on a few a second (`gateway.logs.limits`), and a line of its own says how many were left out.
Calls are warnings where only errors are logged. Where all calls are, nothing is left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import select
import threading
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime

from gateway.edge.traced_lines import TracedLines
from gateway.logs.limits import LineLimiter

OMITTED = "access.omitted"
_TELL_SECONDS = 2.0
_STOP_SECONDS = 2.0
_READ_BYTES = 256 * 1024
_PIPE_BYTES = 1024 * 1024
_FEW_BYTES = 32 * 1024
_GATHER_SECONDS = 0.05
# Of each proxy of a process that ends, as at each reload; `serve` itself says that it stops or moves.
_ORDERLY = re.compile(rb"Proxy \S+ stopped \(cumulated conns: ")
# Of lines: see templates/access_log.cfg.j2.
_WARNING = b'"level":"warning"'
_KIND = re.compile(rb'"status":(-?\d+),"model":"((?:[^"\\]|\\.)*)"')

log = logging.getLogger(__name__)


class AccessLog:
    """The pipe and the thread; `write` is given whole lines, one or more at a time.

    `traced` takes its part of the lines first, where calls are traced.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        limiter: LineLimiter | None = None,
        traced: TracedLines | None = None,
    ) -> None:
        self._write = write
        self._limiter = limiter or LineLimiter()
        self._traced = traced
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._rest = b""
        self._told_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def file(self) -> int:
        """What HAProxy is to write to."""
        return self._write_end

    def stop(self) -> None:
        """Hand on what was written so far, and end; every HAProxy must have ended."""
        if self._write_end < 0:
            return
        os.close(self._write_end)
        self._write_end = -1
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            while True:
                is_readable, _, _ = select.select([self._read_end], [], [], _TELL_SECONDS)
                piece = os.read(self._read_end, _READ_BYTES) if is_readable else None
                if piece == b"":
                    break
                if piece:
                    self._take(piece)
                    if self._traced is not None and len(piece) < _FEW_BYTES:
                        # To wake up for each line of its own would take longer than all that is done with it.
                        time.sleep(_GATHER_SECONDS)
                self._tell_omitted(is_due=time.monotonic() - self._told_at >= _TELL_SECONDS)
            self._tell_omitted(is_due=True)
        except OSError as error:
            # Nobody reads our standard output any more; HAProxy goes on without a log.
            log.warning("access.lost", extra={"reason": str(error)})
        finally:
            os.close(self._read_end)

    def _take(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        # Bounded, should HAProxy ever write without end.
        self._rest = self._rest[-_READ_BYTES:]
        lines = [line for line in lines if line and not _ORDERLY.match(line)]
        if self._traced is not None:
            lines = self._traced.take(lines)
        lines = [line if line.startswith(b"{") else _as_event(line) for line in lines]
        lines = [line for line in lines if _WARNING not in line or self._limiter.allows(_kind(line))]
        if lines:
            self._write(b"\n".join(lines) + b"\n")

    def _tell_omitted(self, is_due: bool) -> None:
        if not self._limiter.has_omitted or not is_due:
            return
        self._told_at = time.monotonic()
        omitted = self._limiter.take_omitted()
        details = [{**_names(kind), "lines": lines} for kind, lines in omitted.items()]
        self._write(_line({"event": OMITTED, "lines": sum(omitted.values()), "calls": details}))


def _kind(line: bytes) -> Hashable:
    """Return what a line is limited by: status and model."""
    match = _KIND.search(line)
    return ("", "") if match is None else (match[1].decode(), match[2].decode(errors="replace"))


def _names(kind: Hashable) -> dict[str, object]:
    if not isinstance(kind, tuple):
        return {"model": str(kind)}
    status, model = kind
    return {"status": int(status or 0), "model": json.loads(f'"{model}"')}


def _as_event(line: bytes) -> bytes:
    """Return as an event what HAProxy says of itself, and not of a call."""
    return _line({"event": "haproxy", "text": line.decode(errors="replace")}).rstrip(b"\n")


def _line(fields: dict[str, object]) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = {"time": now, "level": "warning", "process": "edge", **fields}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
