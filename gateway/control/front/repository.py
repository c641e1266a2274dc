"""The model repository of the Open Inference Protocol: the index of models, and their statistics.

The edge sends these calls here, because a worker knows of itself alone. Specification: Triton,
`docs/protocol/extension_model_repository.md` and `extension_statistics.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.control.state.overview import Overview
from gateway.control.state.status import ModelState, ModelStatus
from gateway.control.web.errors import current_status, unknown_model
from gateway.control.web.requests import may_see, read_body
from gateway.metrics.counts import MAX_BATCH_ROWS, Runs
from gateway.metrics.tally import Numbers
from gateway.metrics.versions import VersionSample
from gateway.wire.limits import SMALL_BODY_BYTES
from gateway.wire.texts import COULD_NOT_BE_LOADED, unknown_version

_STATES: Mapping[ModelState, str] = {
    ModelState.PULLING: "LOADING",
    ModelState.LOADING: "LOADING",
    ModelState.READY: "READY",
    # A call to it is answered, after it has waited for a worker; the reason says so.
    ModelState.ASLEEP: "READY",
    ModelState.FAILED: "UNAVAILABLE",
}
_READY = _STATES[ModelState.READY]
_NANOSECONDS = 1_000_000_000
_DIGEST = "sha256:"
_SHORT = 12


class Repository:
    """Answers repository index and statistics from the gateway's status and the workers' last reports."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def routes(self) -> list[Route]:
        """The paths that the edge sends here."""
        return [
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/models/stats", self._statistics, methods=["GET"]),
            Route("/v2/models/{model}/stats", self._statistics, methods=["GET"]),
            Route("/v2/models/{model}/versions/{version}/stats", self._statistics, methods=["GET"]),
        ]

    async def _index(self, request: Request) -> Response:
        body = await read_body(request, SMALL_BODY_BYTES)
        entries = self.index(_read_ready(body))
        return JSONResponse([entry for entry in entries if may_see(request, entry["name"])])

    def _statistics(self, request: Request) -> Response:
        model, version = request.path_params.get("model"), request.path_params.get("version")
        return JSONResponse({"model_stats": self.statistics(model, version)})

    def index(self, ready: bool) -> list[dict[str, str]]:
        """Return the repository index, all of it or what is ready. Raises HTTPException."""
        entries = [entry for model in current_status(self._overview).models for entry in index(model)]
        return [entry for entry in entries if not ready or entry["state"] == _READY]

    def statistics(self, model: str | None, version: str | None) -> list[dict[str, Any]]:
        """Return the statistics of all models, of one, or of one version. Raises HTTPException."""
        status = current_status(self._overview)
        names = {entry.name for entry in status.models}
        if model is not None and model not in names:
            raise unknown_model(model)
        entries = statistics(
            sample
            for sample in self._overview.version_samples()
            if sample.labels.model in (names if model is None else (model,)) and _is(sample, version)
        )
        if version is not None and not entries:
            raise HTTPException(404, unknown_version(str(model), version))
        return entries


def index(model: ModelStatus) -> list[dict[str, str]]:
    """Return the index of one model: an entry for each version, or one without a version."""
    if not model.versions:
        return [{"name": model.name, "state": _STATES[model.state], "reason": _why(model.state)}]
    return [
        {
            "name": model.name,
            "version": version.tag,
            "state": _STATES[version.state],
            "reason": _why(version.state),
        }
        for version in model.versions
    ]


def _why(state: ModelState) -> str:
    """Return what any caller may know of a state, with no text of a kit or a registry; "" for ready."""
    match state:
        case ModelState.READY:
            return ""
        case ModelState.ASLEEP:
            return "asleep: the next call wakes it"
        case ModelState.FAILED:
            return COULD_NOT_BE_LOADED
    return state.value


def statistics(samples: Iterable[VersionSample]) -> list[dict[str, Any]]:
    """Return the statistics of each version; apps of one name and digest are added up."""
    totals: dict[tuple[str, str, str], Numbers] = {}
    for sample in samples:
        labels = sample.labels
        key = (labels.model, labels.version, labels.digest)
        totals.setdefault(key, Numbers()).add(sample.numbers)
    return [_entry(model, version, numbers) for (model, version, _), numbers in totals.items()]


def _entry(model: str, version: str, numbers: Numbers) -> dict[str, Any]:
    succeeded, failed, batches = numbers.succeeded, numbers.failed, numbers.batches
    return {
        "name": model,
        "version": version,
        "last_inference": int(numbers.last_call * 1000),
        # With batching an inference is a row; without, a call, and each is a run of its own.
        "inference_count": sum(runs.rows for runs in batches.values()) if batches else succeeded.calls,
        "execution_count": sum(runs.runs for runs in batches.values()) if batches else succeeded.calls,
        "inference_stats": {
            "success": _duration(succeeded.calls, succeeded.total),
            "fail": _duration(failed.calls, failed.total),
            "queue": _duration(succeeded.calls, succeeded.queue),
            "compute_input": _duration(succeeded.calls, succeeded.decode),
            "compute_infer": _duration(succeeded.calls, succeeded.infer),
            "compute_output": _duration(succeeded.calls, succeeded.encode),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [
            _batch(rows, runs) for rows, runs in sorted(batches.items()) if rows <= MAX_BATCH_ROWS
        ],
        "memory_usage": [],
    }


def _batch(rows: int, runs: Runs) -> dict[str, Any]:
    return {
        "batch_size": rows,
        "compute_input": _duration(runs.runs, runs.decode),
        "compute_infer": _duration(runs.runs, runs.infer),
        "compute_output": _duration(runs.runs, runs.encode),
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * _NANOSECONDS)}


def _read_ready(body: bytes) -> bool:
    """Return whether a request is for what is ready alone."""
    if not body:
        return False
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    ready = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready, bool):
        raise HTTPException(400, "the body must be a JSON object, and `ready` true or false")
    return ready


def _is(sample: VersionSample, version: str | None) -> bool:
    """Whether a sample is of the version that a caller names: by tag, digest or its first 12 digits."""
    labels = sample.labels
    if version is None or version in (labels.version, labels.digest):
        return True
    return version.startswith(_DIGEST) and version.removeprefix(_DIGEST)[:_SHORT] == labels.digest
