from __future__ import annotations

import pytest

from gateway.codec.deadlines import grpc_timeout, request_timeout
from runtimes.errors import InputError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2", 2.0),
        (b"0.25", 0.25),
        (b" 1.5 ", 1.5),
        (b"1.5s", 1.5),
        (b"250ms", 0.25),
        (b"500us", 0.0005),
        (b"2m", 120.0),
        (b"1h", 3600.0),
        (b"999999999", 999999999.0),
    ],
)
def test_what_a_caller_may_say(value: bytes, seconds: float) -> None:
    assert request_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"0.0ms",
        b"-1",
        b"+1",
        b"1e3",
        b"soon",
        b"5 s",
        b"1.",
        b".5",
        b"inf",
        b"nan",
        b"1,5",
        b"9" * 10,
    ],
)
def test_nonsense_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(InputError, match="X-Request-Timeout must be seconds above 0"):
        request_timeout(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"500u", 0.0005),
        (b"99999999n", 0.099999999),
        (b"0n", 0.0),
    ],
)
def test_what_grpc_says(value: bytes, seconds: float) -> None:
    assert grpc_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"1s", b"1.5S", b"-1S", b"123456789S", b"1 S", b"1S "])
def test_what_grpc_never_says_is_refused(value: bytes) -> None:
    with pytest.raises(InputError, match="grpc-timeout must be up to 8 digits"):
        grpc_timeout(value)
