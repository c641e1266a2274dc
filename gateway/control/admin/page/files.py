"""The files of the page, which are part of the package: HTML, style, scripts and an icon.

A browser asks for each of them again whenever it shows the page, and gets only those that have changed: after
an upgrade no old one is shown. A page that is open meanwhile finds another fingerprint in the events, and
loads itself anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_INDEX = "index.html"
_FINGERPRINT = b"{fingerprint}"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""No script but those of the page, nothing from another host, no form that goes anywhere, and no frame."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str
    """The entity tag: of the content alone."""


class PageFiles:
    """Answers `/` and `/page/…`; `fingerprint` changes with any of the files."""

    def __init__(self) -> None:
        contents = _contents()
        whole = hashlib.sha256(b"".join(name.encode() + contents[name] for name in sorted(contents)))
        self.fingerprint = whole.hexdigest()[:16]
        contents[_INDEX] = contents[_INDEX].replace(_FINGERPRINT, self.fingerprint.encode())
        self._files = {name: _file(name, content) for name, content in contents.items()}

    def routes(self) -> list[Route]:
        """The paths of the page."""
        return [Route("/", self._index, methods=["GET"]), Route("/page/{name}", self._file, methods=["GET"])]

    async def _index(self, request: Request) -> Response:
        return _answer(request, self._files[_INDEX])

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == _INDEX or name not in self._files:
            raise HTTPException(404, f"the page has no file {name}")
        return _answer(request, self._files[name])


def _contents() -> dict[str, bytes]:
    directory = files(__package__).joinpath("static")
    entries = {entry.name: entry for entry in directory.iterdir()}
    return {name: entry.read_bytes() for name, entry in entries.items() if name.rpartition(".")[2] in _TYPES}


def _file(name: str, content: bytes) -> _File:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _TYPES[name.rpartition(".")[2]], tag)


def _answer(request: Request, file: _File) -> Response:
    headers: Mapping[str, str] = {**PAGE_HEADERS, "ETag": file.tag}
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.tag in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
