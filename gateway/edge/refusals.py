"""What callers are told whom the edge turns away: the refusals, and their entries in the map of errors. Pure.

    STATUS/WORD            the body of the answer
    STATUS/WORD/openai     the body of the answer to a call of the OpenAI API
    STATUS/WORD/grpc       gRPC's message

HAProxy's variable `txn.refusal` holds `STATUS/WORD`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from gateway.codec.openai.errors import error_body
from gateway.edge.error_map import ErrorKey
from gateway.edge.files import EdgeSettings


class Refusal(StrEnum):
    """Why a call is turned away, as `txn.refusal` says it."""

    NO_KEY = "401/no-key"
    UNKNOWN_KEY = "401/unknown-key"
    HOST = "403/host"
    ORIGIN = "403/origin"
    MODEL = "403/model"
    VERSION = "403/version"
    CANARY = "403/canary"
    LIST = "403/list"
    RATE = "429/rate"


_TEXTS = {
    Refusal.NO_KEY: "a key is needed: send the header `Authorization: Bearer KEY`",
    Refusal.UNKNOWN_KEY: "this key or token is not valid here, or no longer",
    Refusal.HOST: "this host name is not answered to; the config lists others in allowed_hosts",
    Refusal.ORIGIN: "pages of this origin may not call; the config lists those that may in allowed_origins",
    Refusal.MODEL: "this key may not call this model",
    Refusal.VERSION: "this key is for certain versions of this model; name one of them",
    Refusal.CANARY: "this key may not choose the canary",
    Refusal.LIST: "this key is for certain models, and may not ask this about all",
    Refusal.RATE: "too many calls with this key; ask again later",
}
_CODES = {Refusal.NO_KEY: "invalid_api_key", Refusal.UNKNOWN_KEY: "invalid_api_key"}


def refusal_entries() -> dict[str, str]:
    """Return the entries of the map."""
    entries = {}
    for refusal, text in _TEXTS.items():
        status = int(refusal.partition("/")[0])
        entries[str(refusal)] = json.dumps({"error": text}, separators=(",", ":"))
        entries[f"{refusal}{ErrorKey.OPENAI}"] = error_body(status, text, _CODES.get(refusal)).decode()
        entries[f"{refusal}{ErrorKey.GRPC}"] = text
    return entries


def statuses(settings: EdgeSettings) -> tuple[str, ...]:
    """Return with which statuses a call may be turned away before it is known what it calls."""
    if settings.access.has_keys:
        return ("401", "403", "429")
    checks = settings.access.checks_hosts(settings.listen) or settings.access.checks_origins(settings.listen)
    return ("403",) if checks else ()


def refusal_text(path: Path) -> str:
    """Return HAProxy's expression for what a caller is told, in the form of the call."""
    return f"var(txn.refusal),concat(,txn.family),map({path})"
