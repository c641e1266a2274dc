"""`/openapi.json`, and `/docs`: what this Kitserve serves, for programs and for people.

The page can be read without a script, and takes nothing from another server. A script of its own, which its
headers allow by hash, sends the calls of its forms and shows the answers as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import jinja2
import orjson
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import gateway
from gateway.control.front import examples, language, predict
from gateway.control.front.openapi import ABOUT, UNKNOWN_SHAPES, Served, document, model_path, served
from gateway.control.front.operations import FAULTS, JSON
from gateway.control.front.rendered import Rendered
from gateway.control.state.overview import Overview
from gateway.control.state.status import ModelStatus, Status
from gateway.control.web.errors import unknown_model
from runtimes.base import TensorSpec

# The host that a caller says it called; nothing else may come into commands that people paste.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?")
_SCRIPT = files(__package__).joinpath("docs.js").read_text("utf-8")
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Docs:
    """Answers from the status of all models, and the description of each version.

    `listen` returns the address of the edge, for commands where a caller does not say which host it called.
    """

    def __init__(self, overview: Overview, listen: Callable[[], str]) -> None:
        self._overview = overview
        self._listen = listen
        self._rendered = Rendered()
        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("gateway.control.front", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        templates.filters |= {"shape": _shape, "code": _code}
        self._page = templates.get_template("docs.html.j2")

    def routes(self) -> list[Route]:
        """The paths that the edge sends here."""
        return [
            Route("/openapi.json", self._document, methods=["GET"]),
            Route("/docs", self._show, methods=["GET"]),
            Route("/v2/models/{model}/docs", self._show, methods=["GET"]),
        ]

    def _document(self, request: Request) -> Response:
        scheme = _scheme(request)

        def write(host: str) -> bytes:
            base = f"{scheme}://{host}"
            return orjson.dumps(document(self._overview.status, self._overview.description, base))

        name = f"{scheme} /openapi.json"
        content = self._rendered.document(name, self._host(request), self._sources(), write)
        return Response(content, media_type=JSON, headers={"Cache-Control": "no-cache"})

    def _show(self, request: Request) -> Response:
        name = request.path_params.get("model")
        models = [model for model in self._overview.status.models if name in (None, model.name)]
        if name is not None and not models:
            raise unknown_model(name)
        scheme = _scheme(request)
        content = self._rendered.document(
            f"{scheme} /docs {name or ''}",
            self._host(request),
            self._sources(),
            lambda host: self._write_page(name, models, scheme, host),
        )
        return HTMLResponse(content, headers=_PAGE_HEADERS)

    def _write_page(self, name: str | None, models: list[ModelStatus], scheme: str, host: str) -> bytes:
        """Write the page of the model called `name`, or of all."""
        base = f"{scheme}://{host}"
        page = self._page.render(
            base=base,
            host=host,
            about=ABOUT,
            only_model=name,
            models=[self._model(model, base) for model in models],
            operations=_operations(document(Status(), self._overview.description, base)),
            faults=FAULTS,
            version=gateway.__version__,
            unknown_shapes=UNKNOWN_SHAPES,
            script=Markup(_SCRIPT),  # noqa: S704  it is this file's neighbour
        )
        return page.encode("utf-8", "replace")

    def _model(self, model: ModelStatus, base: str) -> dict[str, Any]:
        versions = served(model, self._overview.description)
        return {
            "status": model,
            "path": model_path(model.name),
            "versions": versions,
            "example": _example(versions[0], base) if versions else None,
        }

    def _sources(self) -> tuple[object, ...]:
        """Return what the documents are written from."""
        status = self._overview.status
        versions = [version for model in status.models for version in model.versions]
        return status, *(self._overview.description(version.app) for version in versions)

    def _host(self, request: Request) -> str:
        """Return the host that the caller called, and its port; the edge says which that was."""
        host = request.headers.get("x-forwarded-host", "")
        return host if _HOST.fullmatch(host) else self._listen()


def _scheme(request: Request) -> str:
    """Return the scheme of the URL that the caller used; the edge says which that was."""
    return "https" if request.headers.get("x-forwarded-proto") == "https" else "http"


def _example(version: Served, base: str) -> dict[str, Any]:
    """Return a call and its answer, on the model's own path."""
    signature = version.description.signature
    url, body = f"{base}{model_path(version.model)}/predict", predict.example(version.description)
    answer = examples.answer(version.model, version.version.tag, signature)
    has_answer = bool(signature.outputs) and examples.is_small(signature.outputs)
    return {
        "signature": signature,
        "has_tensors": bool(signature.inputs) or not version.description.tasks,
        "language_command": language.command(base, version.model, version.description.tasks),
        "predict_command": predict.command(url, version.description),
        "predict_body": "" if body is None else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode(),
        "image_command": predict.image_command(url, version.description),
        "is_known": examples.is_known(signature),
        "command": examples.command(f"{base}{model_path(version.model)}/infer", signature),
        "answer": orjson.dumps(answer).decode() if has_answer else "",
    }


def _operations(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return each operation of a document: method, path and summary."""
    return [
        (method.upper(), path, operation["summary"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
    ]


def _shape(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "any"
    return "[" + ", ".join("any" if size < 0 else str(size) for size in spec.shape) + "]"


def _code(text: str) -> Markup:
    """Return text with `code` in backquotes as HTML."""
    parts = text.split("`")
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )
