"""The stable version's half of mirroring tensors: a share of the answered calls goes to the canary as well.

The canary's worker answers them anew and compares, see `mirrored`.
"""

from __future__ import annotations

import ssl
from dataclasses import asdict

import orjson

from gateway.contract import Mirroring
from gateway.engine.jobs import Job
from gateway.metrics.tally import Tally
from gateway.tracing.call_trace import CallTrace
from gateway.wire.exchange import lines
from gateway.worker.mirror_sender import MIRROR_PATH, Copy, MirrorSender

MIRROR_HEADER = b"kitserve-mirror"

_TIMEOUT_SECONDS = 10.0
_OK = 200


class Mirror:
    """Sends a share of calls to the canary's workers until it is stopped. `offer` is for the loop alone."""

    def __init__(
        self, mirroring: Mirroring, tally: Tally, edge_key: bytes, tls: ssl.SSLContext | None = None
    ) -> None:
        self.mirroring = mirroring
        self._sender = MirrorSender(mirroring, tally, edge_key, _TIMEOUT_SECONDS, tls)
        self._agreement = asdict(mirroring.agreement)

    def offer(self, job: Job, trace: CallTrace | None = None) -> None:
        """Copy an answered call, and its trace, to the queue if chance picks it and there is room."""
        if not self._sender.is_picked():
            return
        request = sum(map(len, job.body))
        held = request + len(job.answer)
        if not self._sender.has_room(held):
            return
        header = {
            "request": request,
            "json_size": job.json_size.decode("latin-1"),
            "answer_json_size": job.answer_json_size,
            "agreement": self._agreement,
            "seconds": job.decode_seconds + job.infer_seconds,
        }
        headers = b"%s: %s\r\n" % (MIRROR_HEADER, orjson.dumps(header))
        if trace is not None:
            headers += lines(trace.headers)
        self._sender.send(Copy(MIRROR_PATH, headers, [*job.body, job.answer], held, _refusal), job.loop)

    def stop(self) -> None:
        """Send no more, and close the connection soon; may be called from any thread."""
        self._sender.stop()


def _refusal(status: int, body: bytes, _seconds: float) -> str:
    """Return why the canary's worker did not compare; it counts what it did."""
    return "" if status == _OK else f"it answers with {status}: {body[:64]!r}"
