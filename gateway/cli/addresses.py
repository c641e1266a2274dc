"""The addresses of a Kitserve that runs, as the config in force has them: a change of them is followed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from gateway.cli.admin_client import AdminClient
from gateway.cli.listening import ListeningCheck
from gateway.config.config import Address, GatewayConfig
from gateway.wire.server import hold_port


class Addresses:
    """Holds the port of `admin`, so that no other program gets it while no gateway runs.

    Args:
        config: the config of the start.
        holder: holds the port of its `admin`.
        listening: what is told where this Kitserve listens; None where nothing is.
        say: tells a person.
    """

    def __init__(
        self,
        config: GatewayConfig,
        holder: socket.socket,
        listening: ListeningCheck | None,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._listen, self._admin = config.listen, config.admin
        self._holder = holder
        self._listening = listening
        self._say = say
        self._generation: int | None = None

    def close(self) -> None:
        """Hold the port no longer."""
        self._holder.close()

    def follow(self, client: AdminClient, status: dict[str, Any]) -> None:
        """Read where it listens now, if another config is in force than at the last time.

        Raises:
            ControlError: when no gateway answers.
        """
        generation = status["wanted_generation"]
        if generation == self._generation:
            return
        document = client.config()
        listen, admin = (Address.model_validate(document[name]) for name in ("listen", "admin"))
        self._generation = generation
        if listen != self._listen:
            self._say(f"edge listens on {listen} now, and no longer on {self._listen}")
        if admin != self._admin:
            self._say(f"gateway listens on {admin} now, and no longer on {self._admin}")
            self._hold(admin)
        if (listen, admin) != (self._listen, self._admin) and self._listening is not None:
            self._listening.expect(filter(None, (listen, admin, self._config.health)))
        self._listen, self._admin = listen, admin

    def _hold(self, admin: Address) -> None:
        self._holder.close()
        # Without it, all works as long as the gateway does.
        with contextlib.suppress(OSError):
            self._holder = hold_port(admin.host, admin.port)
