"""What all calls of the OpenAI API on one version have together: headers, and what counts and logs them."""

from __future__ import annotations

from dataclasses import asdict

from gateway.metrics.counts import MIRRORED
from gateway.wire.exchange import Exchange, lines
from gateway.worker.generated_log import GeneratedLog
from gateway.worker.language import LanguageCapability
from gateway.worker.protocol import JSON
from gateway.worker.version import ServedVersion

_EVENTS = lines([(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")])


class RelayedVersion:
    """What all calls of a version have together."""

    def __init__(self, version: ServedVersion, language: LanguageCapability) -> None:
        self.version = version
        self.language = language
        self.tally = version.tally
        self.headers = {**version.headers, MIRRORED: version.headers[""]}
        self.json = {role: JSON + names for role, names in self.headers.items()}
        self.events = {role: _EVENTS + names for role, names in self.headers.items()}
        self.fingerprint = version.identity.digest.partition(":")[2][:12]
        """What callers read as `system_fingerprint`: the short digest of the kit."""
        self.names = asdict(version.identity)
        """What the log calls the version."""
        self.log = GeneratedLog(self.names, version.options.access_log)


def request_id(exchange: Exchange) -> str:
    """Return what the log calls a call."""
    return exchange.headers.get(b"x-request-id", b"").decode("latin-1")
