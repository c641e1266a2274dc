"""The OpenAI API in front of a language model's engine: which of its paths there are, and what they answer.

Only what is listed here is asked of the engine: its own server has more, such as other callers' settings.
Reference: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson

from gateway.codec.openai.members import Endpoint
from gateway.codec.predict.paths import style_of
from gateway.wire.exchange import Exchange
from gateway.worker.language import ENDED, LanguageCapability
from gateway.worker.openai_documents import model_documents, not_served
from gateway.worker.openai_relay import Relay
from gateway.worker.protocol import (
    JSON,
    OPENAI,
    Answer,
    OpenAIErrors,
    OpenInferenceErrors,
    Route,
    document,
)
from gateway.worker.version import ServedVersion
from runtimes.engines.task import Task

_TASKS: Mapping[Endpoint, Task] = {
    Endpoint.CHAT: Task.CHAT,
    Endpoint.RESPONSES: Task.CHAT,
    Endpoint.COMPLETIONS: Task.COMPLETION,
    Endpoint.EMBEDDINGS: Task.EMBEDDING,
    Endpoint.RERANK: Task.RERANK,
}
_WORDS: Mapping[Task, str] = {
    Task.CHAT: "answers chats (/v1/chat/completions, /v1/responses)",
    Task.COMPLETION: "completes texts (/v1/completions)",
    Task.EMBEDDING: "makes embeddings (/v1/embeddings)",
    Task.RERANK: "ranks documents (/v1/rerank)",
}


def describe(model: str, tasks: Collection[Task]) -> str:
    """Say what a model does, and by which paths, to callers of others."""
    return f"model {model} " + ", ".join(text for task, text in _WORDS.items() if task in tasks)


class OpenAIHandler:
    """Owns `/v1/…`, and of the Open Inference Protocol what says whether a model is ready and what it is."""

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion, language: LanguageCapability) -> None:
        identity = version.identity
        self._errors = OpenAIErrors(version.headers)
        self._protocol_errors = OpenInferenceErrors(version.headers)
        self._json = {role: JSON + names for role, names in version.headers.items()}
        self._language = language
        tasks = language.model.tasks
        paths = {
            endpoint.value: Route(self._errors, {"POST": Relay(endpoint, version, language)})
            for endpoint, task in _TASKS.items()
            if task in tasks
        }
        does = describe(identity.model, tasks)
        others = {
            endpoint.value: not_served(self._errors, endpoint, does)
            for endpoint in Endpoint
            if endpoint.value not in paths
        }
        self._routes: Mapping[str, Route] = {
            **paths,
            **others,
            **model_documents(version, self._errors, tasks, {"context": language.model.context}),
        }
        self._nowhere = Route(self._errors, {})
        self._no_tensors = Route(self._protocol_errors, {}, does)
        self._ready = self._readiness(identity.model)
        metadata = {
            "name": identity.model,
            "versions": [identity.version],
            "platform": language.model.platform,
            "inputs": [],
            "outputs": [],
        }
        self._metadata = document(self._protocol_errors, self._json, orjson.dumps(metadata))

    def route(self, path: str, _content_type: bytes) -> Route | None:
        """Return the route of a path; under `/v1/` there is no other handler to ask."""
        if style_of(path) is not None:
            return self._no_tensors
        route = self._routes.get(path)
        if route is not None or path.startswith(OPENAI):
            return route or self._nowhere
        parts = path.split("/")
        if parts[1:] == ["v2", "health", "ready"]:
            return self._ready
        if parts[1:3] != ["v2", "models"] or len(parts) < 4:
            return None
        rest = parts[6:] if parts[4:5] == ["versions"] and len(parts) > 5 else parts[4:]
        return {"": self._metadata, "ready": self._ready}.get("/".join(rest), self._no_tensors)

    def _readiness(self, name: str) -> Route:
        """Say that the model is ready, as long as its engine runs."""
        ready = orjson.dumps({"name": name, "ready": True})

        def answer(exchange: Exchange, role: str) -> None:
            if self._language.is_alive():
                exchange.respond(200, self._json[role], ready)
            else:
                self._protocol_errors(exchange, role, 503, f"model {name}: {ENDED}")

        return Route(self._protocol_errors, {"GET": answer, "HEAD": answer})
