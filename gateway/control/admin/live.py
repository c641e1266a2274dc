"""The settings of a start that a config may change all the same: where Kitserve listens, and what it logs."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.config import Address
from gateway.control.state.desired import FixedSettings
from gateway.control.web.movable import MovableServer
from gateway.edge.edge import Edge
from gateway.errors import ControlError, EdgeError


class LiveSettings:
    """Changes the edge, and the server of the admin API on TCP that `admin` returns; both, or neither."""

    def __init__(self, edge: Edge, admin: Callable[[], MovableServer]) -> None:
        self._edge = edge
        self._admin = admin

    def change(self, before: FixedSettings, after: FixedSettings) -> None:
        """Bring settings in force in place of others.

        Raises:
            ControlError: when an address cannot be listened on, or the edge does not take its settings; all
                is as before then.
        """
        server, address = None, Address.model_validate(after.admin)
        if before.admin != after.admin:
            try:
                server = self._admin().opened(address.host, address.port)
            except ControlError as error:
                raise ControlError(f"admin: {error}; it stays {before.admin}") from error
        try:
            self._edge.configure(after.listen, after.logged)
        except (EdgeError, OSError) as error:
            if server is not None:
                server.stop()
            raise ControlError(f"the edge: {error}; it stays at {before.listen}, as it was") from error
        if server is not None:
            self._admin().use(server, address.port)
