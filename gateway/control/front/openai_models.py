"""The list of models as the OpenAI API has it: what may be written in the member `model` of a call.

Only language models are in it: a program that reads the list calls them. Specification:
https://platform.openai.com/docs/api-reference/models
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.control.state.overview import Overview
from gateway.control.state.status import ModelState, ModelStatus, VersionStatus
from gateway.control.web.errors import current_status, unknown_model
from gateway.control.web.requests import may_see
from gateway.edge.openai import SEPARATORS
from gateway.oci.reference import Digest

_ANSWERING = (ModelState.READY, ModelState.ASLEEP)
_NAME = re.compile(f"([^{SEPARATORS}]+)(?:[{SEPARATORS}](.+))?")


class OpenAIModels:
    """Answers `GET /v1/models` from the gateway's status and what workers said of their models.

    A model that is no language model is answered for as KServe's v1 protocol has it: `{"name", "ready"}`
    (https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol).
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        # Kits do not say when they were made; other servers give the moment of their start, too.
        self._created = int(time.time())

    def routes(self) -> list[Route]:
        """The paths that the edge sends here."""
        return [
            Route("/v1/models", self._list, methods=["GET"]),
            Route("/v1/models/{name}", self._show, methods=["GET"]),
        ]

    def _list(self, request: Request) -> Response:
        models = current_status(self._overview).models
        entries = [
            entry for model in models if may_see(request, model.name) for entry in self._entries(model)
        ]
        return JSONResponse({"object": "list", "data": entries})

    def _show(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        match = _NAME.fullmatch(name)
        model, revision = match.groups() if match is not None else (name, None)
        for candidate in current_status(self._overview).models if may_see(request, model) else ():
            for version in self._versions(candidate) if candidate.name == model else ():
                if revision is None or revision in _names(version):
                    return JSONResponse(self._entry(name, version))
            if candidate.name == name and self._takes_tensors(candidate):
                # Clients of KServe's v1 protocol ask so whether a model is ready.
                is_ready = any(version.role and version.state in _ANSWERING for version in candidate.versions)
                return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)
        raise unknown_model(name)

    def _takes_tensors(self, model: ModelStatus) -> bool:
        """Whether a worker has said of a version that it is no language model."""
        descriptions = (self._overview.description(version.app) for version in model.versions)
        return any(description is not None and not description.tasks for description in descriptions)

    def _entries(self, model: ModelStatus) -> Iterator[dict[str, Any]]:
        """Yield an entry for the model, and one for each tag of it."""
        versions = self._versions(model)
        names = {f"{model.name}:{version.tag}": version for version in reversed(versions)}
        if versions:
            yield self._entry(model.name, versions[0])
        yield from (self._entry(name, version) for name, version in reversed(names.items()))

    def _entry(self, name: str, version: VersionStatus) -> dict[str, Any]:
        """Return an entry; the last three of its members are not OpenAI's."""
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "kitserve",
            "version": version.tag,
            "digest": version.digest,
            "tasks": list(self._tasks(version)),
        }

    def _versions(self, model: ModelStatus) -> list[VersionStatus]:
        """Return the versions of a language model that answer, the stable one first."""
        versions = [
            version
            for version in model.versions
            if version.role and version.state in _ANSWERING and self._tasks(version)
        ]
        return sorted(versions, key=lambda version: version.role != "stable")

    def _tasks(self, version: VersionStatus) -> tuple[str, ...]:
        description = self._overview.description(version.app)
        return () if description is None else description.tasks


def _names(version: VersionStatus) -> tuple[str, str, str]:
    """Return what a version may be called by."""
    return version.tag, version.digest, Digest.parse(version.digest).short
