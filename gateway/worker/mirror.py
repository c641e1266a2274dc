"""The stable version's half of mirroring: some of the answered calls go to the canary as well.

It happens after the caller has its answer, in a thread that takes two percent of a core at most. What
does not fit into its queue is dropped: no caller ever waits for the canary.
"""

from __future__ import annotations

import itertools
import logging
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from queue import SimpleQueue

import orjson

from gateway.metrics import Tally
from gateway.worker.jobs import Job
from gateway.worker.spec import Mirroring

MIRROR_PATH = "/kitserve/mirror"
MIRROR_HEADER = b"kitserve-mirror"

_MOST_WAITING = 64
_MOST_BYTES = 4 * 1024 * 1024
_SECONDS = 10.0
# How long the thread rests, for each second that it computes.
_REST = 49
_HEAD_END = b"\r\n\r\n"
_MOST_HEAD_BYTES = 65536
_OK = b"HTTP/1.1 200"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A call with its answer; the sizes say how much of either is JSON, see `Job`."""

    body: Sequence[bytes | memoryview]
    json_size: bytes
    answer: bytes
    answer_json_size: int | None


class Mirror:
    """Sends a share of calls to the canary's workers, until it is stopped."""

    def __init__(self, mirroring: Mirroring, tally: Tally, edge_key: bytes) -> None:
        self.mirroring = mirroring
        self._share = mirroring.share
        self._tally = tally
        self._edge_key = edge_key
        self._agreement = asdict(mirroring.agreement)
        self._waiting: SimpleQueue[_Copy | None] = SimpleQueue()
        self._targets = itertools.cycle(mirroring.targets)
        self._connection: socket.socket | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="mirror", daemon=True).start()

    def offer(self, job: Job) -> None:
        """Take a call that was answered, or do not."""
        if random.random() >= self._share:  # noqa: S311  a sample is no secret
            return
        if self._waiting.qsize() >= _MOST_WAITING or sum(map(len, job.body)) > _MOST_BYTES:
            self._tally.not_mirrored()
            return
        self._waiting.put(_Copy(job.body, job.json_size, job.answer, job.answer_json_size))

    def stop(self) -> None:
        """End the thread soon; what waits is dropped."""
        self._stopped.set()
        self._waiting.put(None)

    def _run(self) -> None:
        while (copy := self._waiting.get()) is not None and not self._stopped.is_set():
            began = time.thread_time()
            try:
                self._send(copy)
            except OSError as error:
                log.debug("mirror.failed", extra={"reason": str(error)})
                self._tally.not_mirrored()
                self._hang_up()
            self._stopped.wait(_REST * (time.thread_time() - began))
        self._hang_up()

    def _send(self, copy: _Copy) -> None:
        """Have one call compared. Raises OSError when there is nobody to do so."""
        if self._connection is None:
            self._connection = socket.create_connection(next(self._targets), _SECONDS)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = sum(map(len, copy.body))
        said = {
            "request": request,
            "json_size": copy.json_size.decode("latin-1"),
            "answer_json_size": copy.answer_json_size,
            "agreement": self._agreement,
        }
        head = (
            b"POST %s HTTP/1.1\r\nhost: canary\r\nkitserve-edge: %s\r\n%s: %s\r\ncontent-length: %d\r\n\r\n"
        )
        size = request + len(copy.answer)
        start = head % (MIRROR_PATH.encode(), self._edge_key, MIRROR_HEADER, orjson.dumps(said), size)
        self._connection.sendall(b"".join((start, *copy.body, copy.answer)))
        answer = b""
        while _HEAD_END not in answer:
            part = self._connection.recv(4096)
            if not part or len(answer) > _MOST_HEAD_BYTES:
                raise OSError("the canary's worker closed the connection")
            answer += part
        if not answer.startswith(_OK):
            raise OSError(f"the canary's worker answers {answer[:64]!r}")

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
