"""The log of the calls on a language model: an event `generated` at the end of each, with none of its words.

It says what the edge's access log cannot: tokens, the time to the first of them, and why the answer ended.
The same setting, `access_log`, tells which calls are in it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from gateway.logs.limits import Logged
from gateway.metrics.tokens import Tokens

HUNG_UP = 0
"""The status of a call whose caller hung up before its answer was complete."""
_FIRST_ERROR = 500
_MAX_REASONS = 8
# A quote within a text has a backslash before it, so neither is found in what a model says.
_REASON = re.compile(
    rb'"finish_reason": ?"([a-z_]{1,32})"|^event: response\.(completed|incomplete|failed)\b', re.M
)

log = logging.getLogger(__name__)


class FinishReasons:
    """Why the answers of one call ended: `feed` takes whole events, as their caller gets them."""

    __slots__ = ("_reasons",)

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    def feed(self, events: bytes) -> None:
        """Take the next events."""
        if len(self._reasons) < _MAX_REASONS:
            for match in _REASON.finditer(events):
                self._reasons.add((match[1] or match[2]).decode())

    def names(self) -> list[str]:
        """Return each reason once, in alphabetical order."""
        return sorted(self._reasons)


class GeneratedLog:
    """Writes the events of one version; `names` are what the log calls it."""

    def __init__(self, names: Mapping[str, str], logged: Logged) -> None:
        self._names = names
        self._logged = logged

    def reasons(self) -> FinishReasons | None:
        """Return what notes why a call's answers end; None where nothing is logged."""
        return None if self._logged == "off" else FinishReasons()

    def write(
        self,
        request_id: str,
        call: Mapping[str, str],
        status: int,
        tokens: Tokens,
        seconds: Mapping[str, float],
        reasons: FinishReasons | None,
    ) -> None:
        """Write one call, if it is one that is logged; `call` and `seconds` are fields as they are."""
        is_trouble = status >= _FIRST_ERROR or status == HUNG_UP
        if reasons is None or not (is_trouble or self._logged == "all"):
            return
        fields = {
            "request_id": request_id,
            **self._names,
            **call,
            "status": status,
            "input_tokens": tokens.input,
            "cached_tokens": tokens.cached,
            "output_tokens": tokens.output,
            **{name: round(value, 4) for name, value in seconds.items()},
            "finish_reasons": reasons.names(),
        }
        # Of warnings, no more than a few a second are written; who wants all calls gets all.
        level = logging.INFO if self._logged == "all" else logging.WARNING
        log.log(level, "generated", extra=fields)
