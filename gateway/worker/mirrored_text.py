"""The canary's half of mirroring text: it answers a call that the stable version has answered, too."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.codec.openai.members import Endpoint
from gateway.metrics.counts import MIRRORED
from gateway.wire.exchange import Exchange
from gateway.worker.language import LanguageCapability
from gateway.worker.mirror_sender import MIRROR_PATH
from gateway.worker.openai_relay import Relay
from gateway.worker.protocol import Answer, OpenAIErrors, Route
from gateway.worker.version import ServedVersion


class MirroredTextHandler:
    """Owns the paths of mirrored calls that generate text: those of the OpenAI API behind `MIRROR_PATH`."""

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion, language: LanguageCapability) -> None:
        errors = OpenAIErrors(version.headers)
        self._routes = {
            MIRROR_PATH + endpoint: Route(errors, {"POST": _mirrored(Relay(endpoint, version, language))})
            for endpoint in Endpoint
            if endpoint.is_generating
        }

    def route(self, path: str, _content_type: bytes) -> Route | None:
        return self._routes.get(path)


def _mirrored(relay: Relay) -> Answer:
    """Return what answers a call whatever role it names: it counts as none of the callers'."""

    def answer(exchange: Exchange, _role: str) -> None:
        relay(exchange, MIRRORED)

    return answer
