"""The canary's half of mirroring text: it answers a call that the stable version has answered, too.

It scores the stable version's answer besides, where its engine can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import orjson

from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import read_call
from gateway.metrics.counts import MIRRORED
from gateway.wire.exchange import Exchange
from gateway.worker.language import LanguageCapability
from gateway.worker.mirror_scores import Score, Scorer, score_call
from gateway.worker.mirror_sender import MIRROR_PATH
from gateway.worker.mirror_text import SCORE_PATH
from gateway.worker.openai_relay import Relay
from gateway.worker.protocol import JSON, Answer, OpenAIErrors, Route
from gateway.worker.version import ServedVersion

_TEXT = b"content-type: text/plain\r\n"


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
        self._scorer = Scorer(language)
        self._engine = language.engine
        self._generation = version.options.generation
        if self._scorer.is_able:
            self._routes[SCORE_PATH] = Route(errors, {"POST": self._score})

    def route(self, path: str, _content_type: bytes) -> Route | None:
        return self._routes.get(path)

    def _score(self, exchange: Exchange, _role: str) -> None:
        """Score an answer: with this version's own prompt, as it would have been asked."""
        try:
            document = orjson.loads(b"".join(exchange.take()))
            call, answer = orjson.dumps(document["call"]), str(document["answer"])
            request = read_call(Endpoint(document["path"]), call, self._engine, self._generation)
            body = score_call(request.body, answer)
        except (ValueError, LookupError, TypeError, RefusedCall) as error:
            exchange.respond(400, _TEXT, f"this cannot be scored: {error}".encode())
            return

        def done(score: Score | None) -> None:
            exchange.on_abandoned = None
            if score is None:
                exchange.respond(502, _TEXT, b"the engine gives no score")
            else:
                exchange.respond(200, JSON, orjson.dumps(asdict(score)))

        exchange.on_abandoned = self._scorer.score(body, done).cancel


def _mirrored(relay: Relay) -> Answer:
    """Return what answers a call whatever role it names: it counts as none of the callers'."""

    def answer(exchange: Exchange, _role: str) -> None:
        relay(exchange, MIRRORED)

    return answer
