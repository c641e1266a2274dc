"""What callers of the OpenAI API read where the model is no language model."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.wire.exchange import Exchange
from gateway.worker.protocol import Answer, OpenAIErrors, Route
from gateway.worker.version import ServedVersion

_FAMILY = "/v1"


class NoLanguageHandler:
    """Owns `/v1/…` of a model that takes tensors alone."""

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion) -> None:
        errors, model = OpenAIErrors(version.headers), version.identity.model
        text = f"model {model} is no language model; call it at /v2/models/{model}/infer, as /docs shows"

        def answer(exchange: Exchange, role: str) -> None:
            errors(exchange, role, 404, text, code="unsupported_endpoint", param="model")

        self._route = Route(errors, dict.fromkeys(("POST", "GET", "HEAD"), answer))

    def route(self, path: str, _content_type: bytes) -> Route | None:
        """Return what says so; None for other paths."""
        return self._route if path == _FAMILY or path.startswith(_FAMILY + "/") else None
