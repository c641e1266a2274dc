"""How commands wait for a running Kitserve: they ask for its status again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from gateway.cli.admin_client import AdminClient
from gateway.cli.options import WATCH_SECONDS
from gateway.errors import ControlError

RESTART_SECONDS = 60.0
"""How long a gateway may take that is being started again, with all of Ray where that had failed."""


def statuses(client: AdminClient, seconds: float | None) -> Iterator[dict[str, Any]]:
    """Yield the status again and again, for so many seconds, or without end.

    What was ordered is saved by now: a gateway that is being started again goes on with it.

    Raises:
        ControlError: when the gateway does not come back.
    """
    started = answered = time.monotonic()
    while True:
        try:
            status = client.status()
        except ControlError:
            if time.monotonic() - answered > RESTART_SECONDS:
                raise
        else:
            answered = time.monotonic()
            yield status
        if seconds is not None and time.monotonic() - started >= seconds:
            return
        time.sleep(WATCH_SECONDS)
