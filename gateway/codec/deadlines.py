"""How long a caller is willing to wait: the header `X-Request-Timeout`, and gRPC's `grpc-timeout`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtimes.errors import InputError

# HTTP: seconds, or a number with its unit.
_REQUEST = re.compile(rb"([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|ms|s|m|h)?")
_REQUEST_UNITS: Mapping[bytes | None, float] = {
    b"us": 1e-6,
    b"ms": 1e-3,
    b"s": 1.0,
    None: 1.0,
    b"m": 60.0,
    b"h": 3600.0,
}
# gRPC over HTTP/2: Timeout → "grpc-timeout" TimeoutValue TimeoutUnit, at most 8 digits.
_GRPC = re.compile(rb"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS: Mapping[bytes, float] = {
    b"H": 3600.0,
    b"M": 60.0,
    b"S": 1.0,
    b"m": 1e-3,
    b"u": 1e-6,
    b"n": 1e-9,
}


def request_timeout(value: bytes) -> float:
    """Read `X-Request-Timeout` into seconds. Raises InputError."""
    match = _REQUEST.fullmatch(value.strip())
    seconds = float(match[1]) * _REQUEST_UNITS[match[2]] if match else 0.0
    if not seconds:
        raise InputError(
            "X-Request-Timeout must be seconds above 0, such as 1.5, or a duration, such as 250ms, "
            f"not {value.decode('latin-1')!r}"
        )
    return seconds


def grpc_timeout(value: bytes) -> float:
    """Read `grpc-timeout` into seconds; 0 is a deadline that has passed. Raises InputError."""
    match = _GRPC.fullmatch(value)
    if match is None:
        raise InputError(
            "grpc-timeout must be up to 8 digits and one of H, M, S, m, u, n, "
            f"not {value.decode('latin-1')!r}"
        )
    return int(match[1]) * _GRPC_UNITS[match[2]]
