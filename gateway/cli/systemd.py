"""What systemd is told of `kitserve serve` where it is the service manager (sd_notify(3), `Type=notify`)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

_VARIABLE = "NOTIFY_SOCKET"
_READY = "READY=1\nSTATUS=serving"
_STOPPING = "STOPPING=1\nSTATUS=stopping: calls in flight are answered first"


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Tell systemd that the service is up, and at the end that it stops; elsewhere nothing is told."""
    # What Ray starts must not speak for this process.
    address = os.environ.pop(_VARIABLE, "")
    _tell(address, _READY)
    try:
        yield
    finally:
        _tell(address, _STOPPING)


def _tell(address: str, state: str) -> None:
    if not address:
        return
    # A name that begins with @ is in the abstract namespace (unix(7)).
    name = f"\0{address[1:]}" if address.startswith("@") else address
    # Models are served all the same where nobody listens.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), name)
