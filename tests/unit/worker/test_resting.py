"""A worker that nobody calls reports less often, for as long as the gateway lets it."""

from __future__ import annotations

from gateway.contract import MAX_REST_SECONDS
from gateway.worker.resting import Rest
from tests.support.clock import Clock


def reports(rest: Rest, clock: Clock, seconds: int, calls: frozenset[int] = frozenset()) -> list[int]:
    """Return in which seconds a worker reports that has calls in some of them, and looks each second."""
    reported, count = [], 0
    for second in range(seconds):
        count += second in calls
        if not rest.goes_on((count,)):
            rest.begin((count,))
            reported.append(second)
            rest.allow(True)
        clock.now += 1.0
    return reported


def test_while_nothing_happens_few_reports_are_sent() -> None:
    clock = Clock()
    rest = Rest(clock)
    # The first tells what is new, and the second that it stays so.
    assert reports(rest, clock, 14) == [0, 1, 5, 9, 13]


def test_what_happens_is_reported_within_a_second_and_once_more() -> None:
    clock = Clock()
    assert reports(Rest(clock), clock, 14, frozenset({3, 4, 5, 10})) == [0, 1, 3, 4, 5, 6, 10, 11]


def test_a_report_promises_no_rest_that_is_not_allowed() -> None:
    clock = Clock()
    rest = Rest(clock)
    assert rest.begin(("a",)) == rest.begin(("a",)) == 0.0
    rest.allow(True)
    assert rest.begin(("b",)) == 0.0, "there is something new"
    assert rest.begin(("b",)) == MAX_REST_SECONDS
    assert rest.goes_on(("b",))
    rest.allow(False)
    assert not rest.goes_on(("b",)), "the gateway did not answer, or waits for something"
    assert rest.begin(("b",)) == 0.0
