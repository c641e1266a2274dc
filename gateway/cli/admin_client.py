"""A client of the admin API."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import requests

from gateway.config.config import GatewayConfig
from gateway.errors import ConfigError, ControlError

_TIMEOUT = 10
"""In seconds."""


class AdminClient:
    """Calls the admin API at an address, `HOST:PORT`.

    Raises:
        ControlError: from every method, when no gateway answers, or it answers with an error.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = requests.Session()
        self._session.trust_env = False

    def status(self) -> dict[str, Any]:
        """Return the status of all models."""
        return self._call("GET", "/api/status")

    def apply(self, config: GatewayConfig) -> int:
        """Apply a config; returns its generation.

        Raises:
            ConfigError: when the gateway refuses it.
        """
        answer = self._call("PUT", "/api/config", config.model_dump(mode="json"))
        return int(answer["generation"])

    def rollout(self, model: str) -> dict[str, Any]:
        """Return how far a model's rollout is."""
        return self._call("GET", f"/api/models/{quote(model)}/rollout")

    def rollout_history(self, model: str) -> list[dict[str, Any]]:
        """Return the events of a model's rollouts, the latest first."""
        document = self._call("GET", f"/api/models/{quote(model)}/rollout/history")
        return list(document["events"])

    def order_rollout(self, model: str, order: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Promote, abort, retry or roll back; returns how far the rollout is then."""
        return self._call("POST", f"/api/models/{quote(model)}/rollout/{order}", fields)

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method,
                f"http://{self._address}{path}",
                json=body,
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
            document = answer.json()
        except requests.exceptions.ConnectionError as error:
            raise ControlError(
                f"no Kitserve answers at {self._address}; start one with `kitserve serve`, "
                "or give its address with --admin HOST:PORT"
            ) from error
        except (requests.exceptions.RequestException, ValueError) as error:
            raise ControlError(f"the server at {self._address} is no Kitserve: {error}") from error
        if not isinstance(document, dict):
            raise ControlError(f"the server at {self._address} is no Kitserve")
        if answer.status_code == 400 and "faults" in document:
            raise ConfigError("the gateway", list(document["faults"]))
        if not answer.ok:
            raise ControlError(str(document.get("error", answer.status_code)))
        return document
