"""Which calls are evidence of how good a version is, and how many of each caller's."""

from __future__ import annotations

import pytest

from gateway.metrics.evidence import FREE_CALLS, MAX_SHARING_CALLERS, SHARE_SECONDS, CallerShares
from gateway.metrics.tally import Tally
from gateway.metrics.tokens import Tokens


def test_a_caller_who_is_alone_is_heard_in_full() -> None:
    shares = CallerShares()
    assert sum(shares.take(b"only", second) for second in range(5000)) == 5000


def test_among_others_nobody_counts_for_more_than_all_of_them_but_for_a_few_calls() -> None:
    shares = CallerShares()
    for caller in range(10):
        assert shares.take(b"%d" % caller, 0.0, 20) == 20
    assert shares.take(b"loud", 1.0, 100_000) == 200 + FREE_CALLS
    assert shares.take(b"loud", 2.0, 100_000) == 0
    assert shares.take(b"0", 3.0, 5) == 5
    assert shares.take(b"loud", 4.0, 100_000) == 5


def test_whoever_was_alone_first_drowns_nobody_later() -> None:
    shares = CallerShares()
    shares.take(b"loud", 0.0, 100_000)
    shares.take(b"quiet", 1.0)
    assert shares.take(b"loud", 2.0, 1000) == 0
    # In the next window it is not alone either, until one has passed in which it was.
    assert shares.take(b"loud", 3.0 + SHARE_SECONDS, 1000) == FREE_CALLS
    assert shares.take(b"loud", 4.0 + 2 * SHARE_SECONDS, 1000) == 1000


def test_names_without_end_are_one_caller() -> None:
    shares = CallerShares()
    for caller in range(MAX_SHARING_CALLERS):
        shares.take(b"%d" % caller, 0.0)
    assert (
        sum(shares.take(b"x%d" % caller, 0.0, 10) for caller in range(5000))
        <= MAX_SHARING_CALLERS + FREE_CALLS
    )
    assert len(shares._counted) == MAX_SHARING_CALLERS + 1


@pytest.mark.parametrize(
    ("status", "is_unfit", "calls", "errors"),
    [(200, False, 1, 0), (400, False, 0, 0), (429, False, 0, 0), (400, True, 1, 1), (500, False, 1, 1)],
)
def test_what_callers_did_wrong_is_on_neither_side(
    status: int, is_unfit: bool, calls: int, errors: int
) -> None:
    tally = Tally()
    tally.judged(b"a", status, 0.1, is_unfit)
    evidence = tally.numbers().evidence
    assert (evidence.calls, evidence.errors, evidence.request.observations) == (calls, errors, calls)


def test_tokens_are_evidence_with_their_call() -> None:
    tally, tokens = Tally(), Tokens(output=3)
    tokens.first.observe(0.3)
    tokens.between.observe(0.02)
    tokens.between.observe(0.04)
    tally.judged(b"a", 200, 0.4, tokens=tokens)
    evidence = tally.numbers().evidence
    assert evidence.first_token.observations == 1
    assert evidence.per_token.total == pytest.approx(0.03)
