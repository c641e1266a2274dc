"""Durations as a user writes them, in configs and on command lines."""

from __future__ import annotations

import re

DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h)$"
"""A duration with its unit, as a regular expression of ECMA-262 too."""
_UNITS = {"us": 0.000001, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Read a number with its unit into seconds. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration, such as 500ms, 30s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2]]
