"""Whether a worker's reports reach the gateway: logged when they do not, and when they do again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from gateway.errors import reason_of

# A gateway that is being started again is away for less.
_PATIENCE_SECONDS = 10.0
_REPEAT_SECONDS = 60.0

log = logging.getLogger(__name__)


class Delivery:
    """Notes how each report fared; `names` are the fields of what is logged."""

    def __init__(self, names: Mapping[str, object], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._clock = clock
        self._delivered_at = clock()
        self._logged_at: float | None = None

    def succeeded(self) -> None:
        """Note that a report reached the gateway."""
        if self._logged_at is not None:
            log.info("reports.delivered", extra=dict(self._names))
        self._delivered_at, self._logged_at = self._clock(), None

    def failed(self, error: Exception) -> None:
        """Note that a report did not; at most one in a minute is logged."""
        now = self._clock()
        silent_seconds = now - self._delivered_at
        if silent_seconds < _PATIENCE_SECONDS:
            return
        if self._logged_at is None or now - self._logged_at >= _REPEAT_SECONDS:
            self._logged_at = now
            fields = {"reason": _reason(error), "seconds": round(silent_seconds)}
            log.warning("reports.undelivered", extra={**self._names, **fields})


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return reason_of(error)
