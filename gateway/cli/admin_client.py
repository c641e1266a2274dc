"""The admin API from the outside, as the command line uses it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import requests

from gateway.config.config import GatewayConfig
from gateway.errors import ConfigError, ControlError

_SECONDS = 10


class AdminClient:
    """Calls the admin API at `HOST:PORT`.

    Raises:
        ControlError: from every method, when nobody answers or the answer is an error.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = requests.Session()
        self._session.trust_env = False

    def status(self) -> dict[str, Any]:
        """The state of all models."""
        return self._call("GET", "/api/status")

    def apply(self, config: GatewayConfig) -> int:
        """Put a config in force; returns its generation.

        Raises:
            ConfigError: when the gateway refuses it.
        """
        answer = self._call("PUT", "/api/config", config.model_dump(mode="json"))
        return int(answer["generation"])

    def rollout(self, model: str) -> dict[str, Any]:
        """How far a model's rollout is."""
        return self._call("GET", f"/api/models/{quote(model)}/rollout")

    def rollout_history(self, model: str) -> list[dict[str, Any]]:
        """What happened to a model's rollouts, the latest first."""
        events: list[dict[str, Any]] = self._call("GET", f"/api/models/{quote(model)}/rollout/history")[
            "events"
        ]
        return events

    def order_rollout(self, model: str, order: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Promote, abort, retry or roll back; returns how far the rollout is then."""
        return self._call("POST", f"/api/models/{quote(model)}/rollout/{order}", fields)

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, f"http://{self._address}{path}", json=body, timeout=_SECONDS, allow_redirects=False
            )
            document = answer.json()
        except requests.exceptions.ConnectionError as error:
            raise ControlError(
                f"no Kitserve answers at {self._address}; start one with `kitserve serve`, "
                "or say where it is with --admin HOST:PORT"
            ) from error
        except (requests.exceptions.RequestException, ValueError) as error:
            raise ControlError(f"what answers at {self._address} is no Kitserve: {error}") from error
        if not isinstance(document, dict):
            raise ControlError(f"what answers at {self._address} is no Kitserve")
        if answer.status_code == 400 and "faults" in document:
            raise ConfigError("the gateway", list(document["faults"]))
        if not answer.ok:
            raise ControlError(str(document.get("error", answer.status_code)))
        return document
