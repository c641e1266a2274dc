"""A client of the admin API."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from gateway.config.config import GatewayConfig
from gateway.errors import ConfigError, ControlError

_TIMEOUT = 10
"""In seconds."""
_VISIBLE_ASCII = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_FOREIGN_HOST = "Invalid host header"
"""What the gateway's HTTP server answers to a host name that is not its own."""


def admin_url(address: str) -> str:
    """Return the URL of the admin API at an address: `HOST:PORT`, or a URL itself.

    Raises:
        ValueError: when it is neither; the message says what to write.
    """
    is_url = "://" in address
    try:
        parts = urlsplit(address if is_url else f"http://{address}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_usable = (
        _VISIBLE_ASCII.fullmatch(address) is not None
        and parts.scheme in ("http", "https")
        and _HOST.fullmatch(parts.hostname or "") is not None
        and (is_url or port is not None)
        and port != 0
        and not (parts.username or parts.password or parts.query or parts.fragment)
    )
    if not is_usable:
        raise ValueError(
            f"{address!r} is not an admin address; write HOST:PORT, such as 127.0.0.1:8081, "
            "or a URL, such as http://127.0.0.1:8081"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


class AdminClient:
    """Calls the admin API at an address: `HOST:PORT`, or a URL.

    Raises:
        ControlError: from every method, when no gateway answers, or it answers with an error.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._url = admin_url(address)
        self._session = requests.Session()
        self._session.trust_env = False

    def status(self) -> dict[str, Any]:
        """Return the status of all models."""
        return self._call("GET", "/api/status")

    def model(self, name: str) -> dict[str, Any]:
        """Return the status of one model."""
        return self._call("GET", f"/api/models/{quote(name, safe='')}")

    def config(self) -> dict[str, Any]:
        """Return the config in force, as JSON has it; the defaults before the first."""
        document = self._call("GET", "/api/config")["config"]
        return dict(document)

    def apply(self, config: GatewayConfig) -> int:
        """Apply a config; returns its generation.

        Raises:
            ConfigError: when the gateway refuses it.
        """
        answer = self._call("PUT", "/api/config", config.model_dump(mode="json"))
        return int(answer["generation"])

    def rollout(self, model: str) -> dict[str, Any]:
        """Return how far a model's rollout is."""
        return self._call("GET", f"/api/models/{quote(model, safe='')}/rollout")

    def rollout_history(self, model: str) -> list[dict[str, Any]]:
        """Return the events of a model's rollouts, the latest first."""
        document = self._call("GET", f"/api/models/{quote(model, safe='')}/rollout/history")
        return list(document["events"])

    def order_rollout(self, model: str, order: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Promote, abort, retry or roll back; returns how far the rollout is then."""
        return self._call("POST", f"/api/models/{quote(model, safe='')}/rollout/{order}", fields)

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._send(method, path, body)
        try:
            document = answer.json()
        except requests.exceptions.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            if answer.text == _FOREIGN_HOST:
                raise ControlError(
                    f"the gateway at {self._address} listens on loopback, and answers to 127.0.0.1 and "
                    "localhost only; give one of these with --admin"
                )
            raise self._no_admin_api(
                f"it answers {method} {path} with {answer.status_code} and no JSON object"
            )
        if answer.status_code == 400 and "faults" in document:
            # The client sends a config in one line of its own.
            faults = [str(fault).removeprefix("line 1: ") for fault in document["faults"]]
            raise ConfigError("the gateway", faults)
        if answer.ok:
            return document
        message = str(document.get("error", answer.status_code))
        if answer.status_code == 404 and message in ("Not Found", f"no such path: {path}"):
            raise self._no_admin_api(f"it does not know {path}")
        raise ControlError(message)

    def _send(self, method: str, path: str, body: Any) -> requests.Response:
        try:
            return self._session.request(
                method, f"{self._url}{path}", json=body, timeout=_TIMEOUT, allow_redirects=False
            )
        except requests.exceptions.SSLError as error:
            raise ControlError(
                f"no TLS with {self._address}: {error}; the admin API itself speaks http://"
            ) from error
        except requests.exceptions.ReadTimeout as error:
            raise ControlError(
                f"the server at {self._address} does not answer within {_TIMEOUT} s"
            ) from error
        except requests.exceptions.ConnectionError as error:
            raise ControlError(
                f"no Kitserve answers at {self._address}; start one with `kitserve serve`, "
                "or give its address with --admin HOST:PORT"
            ) from error
        except requests.exceptions.RequestException as error:
            raise ControlError(f"the server at {self._address} cannot be asked: {error}") from error

    def _no_admin_api(self, reason: str) -> ControlError:
        return ControlError(
            f"the server at {self._address} is no Kitserve's admin API: {reason}; give the address that "
            "the config has as `admin`"
        )
