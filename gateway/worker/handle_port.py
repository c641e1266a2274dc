"""The port by which Ray Serve's handles call a replica; on one machine it is on loopback.

Serve (2.60, `ray.serve._private.replica`) binds it to every address of the node, wherever Ray itself listens,
once the deployment class is constructed. It asks for Ray's token; but nobody needs it from elsewhere.
Where Serve does this in another way one day, the check of the sockets warns (`gateway/cli/listening.py`).
"""

from __future__ import annotations

from typing import Any

from ray.serve._private import replica

_BIND = "add_port_to_grpc_server"
_EVERY_ADDRESS = "[::]:"


def keep_on_loopback(loopback: str) -> None:
    """Have the replica of this process bind that port to `loopback`; to be called while it is constructed."""
    bind = getattr(replica, _BIND, None)
    if bind is None:
        return

    def bind_to_loopback(server: Any, address: str) -> Any:
        return bind(server, address.replace(_EVERY_ADDRESS, f"{loopback}:"))

    setattr(replica, _BIND, bind_to_loopback)
