"""A client of the admin API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from gateway.cli.admin_address import admin_url, home_socket, socket_path
from gateway.cli.admin_connection import AdminServer, NotRunning
from gateway.control.admin.token import token_in
from gateway.errors import ConfigError, ControlError, StoreError
from gateway.loopback import is_loopback_host
from gateway.oci.options import kit_home

if TYPE_CHECKING:
    from gateway.config.config import GatewayConfig

__all__ = ["TOKEN_FILE_VARIABLE", "TOKEN_VARIABLE", "AdminClient", "NotRunning"]

_TIMEOUT = 10.0
"""In seconds."""
_PLAN_TIMEOUT = 3600
"""In seconds: registries are asked for a plan, and models may be pulled."""
_REFUSED = 401
TOKEN_VARIABLE = "KITSERVE_TOKEN"  # noqa: S105 - a name
"""The environment variable with the token, for an admin API that is asked over TCP."""
TOKEN_FILE_VARIABLE = "KITSERVE_TOKEN_FILE"  # noqa: S105 - a name
"""The environment variable with the path of a file that holds it."""
_FOREIGN_HOST = b"Invalid host header"
"""What the gateway's HTTP server answers to a host name that is not its own."""


class AdminClient:
    """Calls the admin API at an address: the path of a socket, `HOST:PORT`, or a URL.

    Over TCP it is asked with the token in the environment, $KITSERVE_TOKEN, or in the file that
    $KITSERVE_TOKEN_FILE names. Where there is none, and the
    address is loopback's, what needs more than reading is asked over the socket in the home, if the same
    Kitserve listens there. No answer is waited for longer than `seconds`.

    Raises:
        ControlError: from every method, when no gateway answers, or it answers with an error.
    """

    def __init__(self, address: str, seconds: float = _TIMEOUT) -> None:
        self._address = address
        self._seconds = seconds
        self._socket = socket_path(address)
        self._url = "" if self._socket else admin_url(address)
        token = _token() if self._socket is None else ""
        self._has_token = bool(token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._server = AdminServer(address, self._socket or self._url, headers)

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
        answer = self._call("PUT", "/api/config", self.sent(config).model_dump(mode="json"))
        return int(answer["generation"])

    def sent(self, config: GatewayConfig) -> GatewayConfig:
        """Return a config as it is sent: over TCP without this user's own `kitops_home`, so that it stays."""
        is_default = config.kitops_home == Path.cwd() / kit_home()
        if self._socket is not None or not is_default:
            return config
        return config.model_copy(update={"kitops_home": None})

    def plan(self, config: GatewayConfig, may_pull: bool = False) -> dict[str, Any]:
        """Return what a config would change, as `gateway.control.planning.documents` has it.

        Raises:
            ConfigError: when the gateway would refuse the config.
        """
        order = {"config": self.sent(config).model_dump(mode="json"), "pull": may_pull}
        return self._call("POST", "/api/plan", order, _PLAN_TIMEOUT)

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

    def restart(self, model: str, version: str) -> dict[str, Any]:
        """Have the workers of a model's versions replaced, or of one; returns how far that is."""
        return self._call("POST", f"/api/models/{quote(model, safe='')}/restart", {"version": version})

    def restarts(self, model: str) -> dict[str, Any]:
        """Return how far the last restart of each version of a model is."""
        return self._call("GET", f"/api/models/{quote(model, safe='')}/restart")

    def _call(self, method: str, path: str, body: Any = None, seconds: float | None = None) -> dict[str, Any]:
        answer = self._server.send(method, path, body, self._seconds if seconds is None else seconds)
        document = answer.document()
        if document is None:
            if answer.body == _FOREIGN_HOST:
                raise ControlError(
                    f"the gateway at {self._address} listens on loopback, and answers to 127.0.0.1 and "
                    "localhost only; give one of these with --admin"
                )
            raise self._no_admin_api(f"it answers {method} {path} with {answer.status} and no JSON object")
        if answer.status == 400 and "faults" in document:
            # The client sends a config in one line of its own.
            faults = [str(fault).removeprefix("line 1: ") for fault in document["faults"]]
            raise ConfigError("the gateway", faults)
        if answer.is_ok:
            return document
        if answer.status == _REFUSED and (client := self._over_socket()):
            return client._call(method, path, body, seconds)
        message = str(document.get("error", answer.status))
        if answer.status == 404 and message in ("Not Found", f"no such path: {path}"):
            raise self._no_admin_api(f"it does not know {path}")
        raise ControlError(message)

    def _over_socket(self) -> AdminClient | None:
        """Return a client of the same Kitserve over the socket in the home; None where that is not there."""
        parts = urlsplit(self._url)
        if self._socket is not None or not is_loopback_host(parts.netloc) or self._has_token:
            return None
        client = AdminClient(str(home_socket()), self._seconds)
        try:
            admin = client.config()["admin"]
        except (ControlError, KeyError):
            return None
        return client if admin.get("port") == parts.port else None

    def _no_admin_api(self, reason: str) -> ControlError:
        return ControlError(
            f"the server at {self._address} is no Kitserve's admin API: {reason}; give the address that "
            "the config has as `admin`"
        )


def _token() -> str:
    """Return the token that the environment has, or names a file of; "" where there is none.

    Raises:
        ControlError: when that file cannot be used.
    """
    if token := os.environ.get(TOKEN_VARIABLE):
        return token.strip()
    path = os.environ.get(TOKEN_FILE_VARIABLE)
    if not path:
        return ""
    try:
        return token_in(Path(path), "have it be this user's, with mode 0600 and a token in it")
    except StoreError as error:
        raise ControlError(f"${TOKEN_FILE_VARIABLE}: {error}") from error
