"""Webhooks: who wants to know is told, in order, and nobody waits for who does not answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from gateway.control.rollout_status import RolloutEvent
from gateway.control.webhooks import Webhooks
from tests.answers import Handler, run_answers


def event(number: int) -> RolloutEvent:
    return RolloutEvent(1.5, "iris", number, "Degraded", "AnalysisFailed", "wrong", "v1", "v2", 0)


def wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_event_is_sent_once_and_in_order() -> None:
    with run_answers() as server:
        hooks = Webhooks(lambda: [f"{server.url}/hook"])
        for number in range(5):
            hooks.tell(event(number))
        wait(lambda: len(server.seen) == 5)
        hooks.stop()
        told = [json.loads(seen.body) for seen in server.seen]
        assert [at["number"] for at in told] == list(range(5))
        assert told[0] == {
            "event": "rollout.changed",
            "time": 1.5,
            "model": "iris",
            "number": 0,
            "phase": "Degraded",
            "reason": "AnalysisFailed",
            "message": "wrong",
            "stable": "v1",
            "canary": "v2",
            "weight": 0,
            "verdicts": [],
        }
        assert {(seen.method, seen.path) for seen in server.seen} == {("POST", "/hook")}


def test_one_that_fails_is_tried_again() -> None:
    with run_answers() as server:

        def answer(handler: Handler) -> None:
            handler.say(500 if len(server.seen) < 2 else 204, b"")

        server.answer = answer
        hooks = Webhooks(lambda: [f"{server.url}/hook"])
        hooks.tell(event(1))
        wait(lambda: len(server.seen) == 2)
        hooks.stop()
