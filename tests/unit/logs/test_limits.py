from __future__ import annotations

from gateway.logs.limits import LineLimiter
from tests.support.clock import Clock


def allowed(limiter: LineLimiter, kind: object, lines: int) -> int:
    return sum(limiter.allows(kind) for _ in range(lines))


def test_a_burst_is_written_and_then_so_many_a_second() -> None:
    clock = Clock()
    limiter = LineLimiter(10, 2.0, clock)
    assert allowed(limiter, "503", 9000) == 10
    assert limiter.has_omitted
    assert limiter.take_omitted() == {"503": 8990}
    assert not limiter.has_omitted
    clock.now += 3
    assert allowed(limiter, "503", 100) == 6
    clock.now += 3600
    assert allowed(limiter, "503", 100) == 10


def test_one_kind_does_not_hide_another() -> None:
    limiter = LineLimiter(10, 2.0, Clock())
    allowed(limiter, ("iris", 503), 9000)
    assert allowed(limiter, ("wine", 503), 5) == 5
    assert limiter.take_omitted() == {("iris", 503): 8990}


def test_what_callers_invent_is_counted_together_beyond_a_bound() -> None:
    clock = Clock()
    limiter = LineLimiter(10, 2.0, clock)
    assert sum(limiter.allows(number) for number in range(1000)) == 256 + 10
    assert limiter.take_omitted() == {"others": 1000 - 256 - 10}
    clock.now += 60
    assert allowed(limiter, "later", 20) == 10
    assert limiter.take_omitted() == {"later": 10}
