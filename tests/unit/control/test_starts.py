from __future__ import annotations

from gateway.contract import AppName
from gateway.control.loop.starts import Starts
from tests.support.clock import Clock

A, B, C, D = (AppName(name) for name in "abcd")


def test_so_many_start_at_a_time_and_one_that_reports_makes_room() -> None:
    starts = Starts(2, Clock())
    assert [starts.may_begin(app, frozenset()) for app in (A, B, C)] == [True, True, False]
    assert starts.may_begin(A, frozenset()), "the next tick asks again for one that has begun"
    assert [starts.may_begin(app, frozenset({B})) for app in (C, D)] == [True, False]


def test_one_that_never_reports_does_not_hold_up_the_others() -> None:
    clock = Clock()
    starts = Starts(2, clock)
    assert starts.may_begin(A, frozenset())
    clock.now += 6
    assert [starts.may_begin(app, frozenset()) for app in (B, C)] == [True, False]
    clock.now += 6
    assert [starts.may_begin(app, frozenset()) for app in (C, D)] == [True, False]
