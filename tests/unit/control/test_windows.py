"""What versions did between two looks."""

from __future__ import annotations

from dataclasses import replace

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.rollouts.windows import NO_ACTIVITY, Windows
from gateway.metrics.counts import MIRRORED, MirroredCalls
from gateway.metrics.pairs import AnswerPairs, FaultyAnswers, Losses
from gateway.metrics.tally import Tally
from gateway.metrics.tokens import Tokens
from gateway.rollout.evidence import Side

V1, V2 = AppName("v1"), AppName("v2")


def announcement(
    name: str, app: AppName, answers: dict[int, int], state: WorkerState = WorkerState.READY
) -> Announcement:
    tally = Tally()
    for status, count in answers.items():
        for _ in range(count):
            tally.judged(b"", status, 0.002)
    return Announcement(name, app, state, numbers=tally.numbers())


def test_the_first_look_at_a_worker_sees_nothing() -> None:
    windows = Windows()
    assert windows.look([announcement("a", V1, {200: 5})]) == {V1: NO_ACTIVITY}
    workers = [announcement("a", V1, {200: 8, 500: 2}), announcement("b", V1, {200: 1})]
    side = windows.look(workers)[V1].side
    assert (side.calls, side.errors, side.latencies.total) == (5, 2, 5)
    workers = [announcement("b", V1, {200: 4, 400: 1}), announcement("c", V2, {})]
    side = windows.look(workers)[V1].side
    assert (side.calls, side.errors) == (3, 0), "what callers did wrong tells nothing of the model"


def test_what_a_version_finds_unfit_while_it_runs_counts_as_its_error() -> None:
    tally, windows = Tally(), Windows()
    windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])
    for is_unfit in (True, False, True):
        tally.judged(b"", 400, 0.002, is_unfit)
    tally.answered(MIRRORED, 400, request=0.002, queue=0.0, compute=0.001, is_unfit=True)
    side = windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])[V1].side
    assert (side.calls, side.errors) == (2, 2)


def test_calls_that_are_no_evidence_are_seen_in_no_window() -> None:
    tally, windows = Tally(), Windows()
    windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])
    for role in ("canary", "stable", ""):
        tally.answered(role, 500, request=0.002, queue=0.0, compute=0.001)
        tally.refused(role, 503)
    side = windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])[V1].side
    assert side == Side()


def test_mirrored_calls_are_those_since_the_last_look() -> None:
    tally, windows = Tally(), Windows()
    tally.compared(0.5, False, {"a": 1}, {"b": 1})
    windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])
    tally.compared(1.0, False, {"a": 1}, {"a": 1})
    tally.compared(0.0, True, {}, {})
    tally.not_mirrored()
    activity = windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])[V1]
    assert activity.mirrored == MirroredCalls(2, 1.0, 1, 1, {"a": 1}, {"a": 1})


def test_pairs_of_answers_are_those_since_the_last_look() -> None:
    tally, windows = Tally(), Windows()
    pair = AnswerPairs(1, {"empty": FaultyAnswers(1, canary=1)}, greedy=1, losses=Losses.of(0.5))
    tally.compared_answers(pair, is_worse=True, failed=False)
    windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])
    tally.compared_answers(pair, is_worse=True, failed=True)
    tally.compared_answers(AnswerPairs(1), is_worse=False, failed=False)
    activity = windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])[V1]
    assert activity.mirrored == MirroredCalls(2, 1.0, 1)
    assert activity.pairs == replace(pair, pairs=2)


def test_the_times_of_tokens_are_those_of_callers_since_the_last_look() -> None:
    tally, windows = Tally(), Windows()

    def generate(role: str, first: float, *gaps: float) -> None:
        tokens = Tokens(output=1 + len(gaps))
        tokens.first.observe(first)
        for gap in gaps:
            tokens.between.observe(gap)
        tally.generated(role, tokens)
        if role != MIRRORED:
            tally.judged(b"", 200, first + sum(gaps), tokens=tokens)

    generate("stable", 9.0, 9.0)
    windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])
    generate("stable", 0.2, *(0.011, 0.027, 0.022))
    generate("", 0.02)
    generate(MIRRORED, 9.0, 9.0)
    side = windows.look([Announcement("a", V1, WorkerState.READY, numbers=tally.numbers())])[V1].side
    assert side.first_tokens.total == 2
    assert side.first_tokens.longer_than(0.1) == 1
    assert side.token_times.total == 1, "one for each call that has further tokens"
    assert 0.015 < side.token_times.quantile(0.5) <= 0.025
