"""A config as it may be shown: what holds a secret is there as a fingerprint, which shows that it changed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

_DIGITS = 8


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config, as JSON has it, without what the addresses of webhooks and proxies may hold."""
    shown = dict(config)
    if "webhooks" in config:
        shown["webhooks"] = [_address(address) for address in config["webhooks"]]
    if "registries" in config:
        shown["registries"] = {
            host: {**registry, "proxy": _proxy(registry["proxy"])} if registry.get("proxy") else registry
            for host, registry in config["registries"].items()
        }
    return shown


def _address(address: str) -> str:
    """Return scheme and host; path, query and user may be the secret."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…{_fingerprint(address)}"


def _proxy(address: str) -> str:
    before, separator, host = address.rpartition("@")
    if not separator:
        return address
    scheme, mark, _ = before.rpartition("://")
    return f"{scheme}{mark}…{_fingerprint(address)}@{host}"


def _fingerprint(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGITS]
