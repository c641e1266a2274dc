"""The edge's span of a traced call, made of HAProxy's line of it: see `edge/templates/access_log.cfg.j2`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from gateway.tracing.span import InvalidSpan, Span, SpanName, Value
from gateway.wire.texts import INFERENCE

_FIRST_FAILURE = 500
_FIRST_REFUSAL = 400
_OK = "0"
_NOTHING = "-"
_MODEL = re.compile("^/v2/models/[^/]+")
_VERSION = re.compile("^(/v2/models/{model}/versions/)[^/]+")
_OPENAI_MODEL = re.compile("^/v1/models/[^/:]+")
_GRPC = re.compile(r"/([\w.]+)/(\w+)")
_MOST = 512
# HAProxy's two letters for how a call ended: who ended it, and where it was then.
_ENDS: Mapping[str, str] = {
    "C": "the caller hung up",
    "c": "the caller took or sent nothing for too long",
    "S": "the worker broke off",
    "s": "the worker did not answer in time",
    "P": "the edge refused it",
    "R": "the edge had no room",
    "I": "the edge failed",
    "D": "the worker went down",
    "U": "the worker came up",
    "K": "the connection was ended",
}
_CANCELLED = "C"
_CLIENT_ERRORS = (1, 3, 5, 6, 7, 9, 11, 16)
"""gRPC's codes that are no fault of the server's."""


def edge_span(line: bytes) -> Span:
    """Return the span of a line of the access log.

    Raises:
        InvalidSpan: when it is no line of a traced call.
    """
    try:
        call = orjson.loads(line)
        span_id, parent_id, began, ended = call["span"].split("/")
        own = SpanName(call["trace_id"], span_id)
        start, end = int(began) * 1000, int(ended) * 1000
        status, path, method = int(call["status"]), str(call["path"]).partition("?")[0], str(call["method"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InvalidSpan(f"no line of a traced call: {error!r}") from error
    attributes: dict[str, Value] = {
        "http.request.method": method,
        "url.path": path[:_MOST],
        "client.address": str(call.get("client", "")).rpartition(":")[0],
        "kitserve.request_id": str(call.get("request_id", "")),
        "kitserve.end": str(call.get("end", "")),
    }
    if status > 0:
        attributes["http.response.status_code"] = status
    for name in ("model", "version", "digest", "role", "key"):
        if call.get(name, _NOTHING) not in (_NOTHING, ""):
            attributes[f"kitserve.{name}"] = str(call[name])
    if "worker" in call:
        attributes["kitserve.edge.server"] = str(call["worker"])
    if (weight := str(call.get("weight", ""))).isdigit() and int(weight):
        attributes["kitserve.rollout.weight"] = int(weight)
    retries = str(call.get("retries", "0")).lstrip("+")
    if retries.isdigit() and int(retries):
        attributes["http.request.resend_count"] = int(retries)
    code = str(call.get("grpc_status", _NOTHING))
    is_grpc = code.isdigit() or path.startswith(f"/{INFERENCE}/")
    name = _grpc_name(path, code, attributes) if is_grpc else _route(method, path, attributes)
    failure = _error(status, code if is_grpc else _OK, attributes["kitserve.end"], attributes)
    parent = "" if parent_id == _NOTHING else parent_id
    return Span(name, own, parent, start, max(start, end), attributes, (), failure, is_server=True).checked()


def _grpc_name(path: str, code: str, attributes: dict[str, Value]) -> str:
    """Return the name of a gRPC call's span, and note what it calls."""
    attributes["rpc.system.name"] = "grpc"
    if code.isdigit():
        attributes["rpc.response.status_code"] = code
    method = _GRPC.fullmatch(path)
    if method is None:
        return "grpc"
    attributes["rpc.method"] = f"{method[1]}/{method[2]}"
    return f"{method[1]}/{method[2]}"


def _route(method: str, path: str, attributes: dict[str, Value]) -> str:
    """Return the name of an HTTP call's span, in which no model is named, and note the route.

    What no route is like may be anything, and is not in the name.
    """
    route = _MODEL.sub("/v2/models/{model}", path)
    route = _VERSION.sub(r"\1{version}", route)
    route = _OPENAI_MODEL.sub("/v1/models/{model}", route)
    is_known = route.startswith(("/v2", "/v1/", "/openai/")) or route in ("/invocations", "/ping")
    is_known = is_known and route.count("/") <= 6 and attributes.get("http.response.status_code") != 404
    if not is_known:
        return method
    attributes["http.route"] = route
    return f"{method} {route}"


def _error(status: int, code: str, end: Value, attributes: dict[str, Value]) -> str:
    """Return why a call failed, "" where it did not; what its caller did wrong is no failure of a server."""
    ended_by = str(end)[:1]
    if ended_by in _ENDS and not (ended_by == "P" and _FIRST_REFUSAL <= status < _FIRST_FAILURE):
        attributes["error.type"] = "cancelled" if ended_by == _CANCELLED else str(status)
        return _ENDS[ended_by]
    if status >= _FIRST_FAILURE:
        attributes["error.type"] = str(status)
        return f"status {status}"
    if code.isdigit() and code != _OK:
        attributes["error.type"] = code
        return "" if int(code) in _CLIENT_ERRORS else f"gRPC status {code}"
    if status >= _FIRST_REFUSAL:
        attributes["error.type"] = str(status)
    return ""
