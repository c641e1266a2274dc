"""How a handler reads the body of a request, and whom it answers."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.wire.headers import MODELS_HEADER


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        HTTPException: 413 when it is larger; the rest is not read.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise HTTPException(413, f"the body is larger than {limit} bytes")
    return body


async def read_change(request: Request, limit: int, *, may_be_own_page: bool = False) -> bytes:
    """Read the JSON body of a request that changes something.

    A web page that a person has open can send requests to the admin API. A browser marks them with `Origin`,
    and asks the server before it sends JSON.

    Args:
        request: the request.
        limit: how many bytes the body may have.
        may_be_own_page: whether the page of this server may make the request, as no other page may.

    Raises:
        HTTPException: 403 for a request of a web page, 415 for another content type, 413 for a larger body.
    """
    if "origin" in request.headers and not (may_be_own_page and _is_own_page(request)):
        raise HTTPException(403, "the admin API takes no changes from web pages")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send the body as application/json")
    return await read_body(request, limit)


def is_of_another_site(request: Request) -> bool:
    """Tell whether a browser says that a page of elsewhere makes a request."""
    site = request.headers.get("sec-fetch-site", "none")
    return site not in ("none", "same-origin") or ("origin" in request.headers and not _is_own_page(request))


def _is_own_page(request: Request) -> bool:
    """Tell whether a page of the very host and port that is called makes a request."""
    own = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
    return request.headers["origin"].lower() == own.lower()


def may_see(request: Request, model: str) -> bool:
    """Tell whether a caller may be told of a model: the edge says for which models a caller's key is."""
    models = request.headers.get(MODELS_HEADER)
    return models is None or model in models.split(",")
