"""Webhooks: each event is sent to each, in order, and none waits for one that does not answer."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from gateway.control.rollouts import webhooks
from gateway.control.rollouts.webhooks import Webhooks
from gateway.control.state.rollout_status import RolloutEvent
from gateway.errors import StoreError
from tests.support.answers import Handler, run_answers
from tests.support.waiting import wait


def rollout_event(number: int) -> RolloutEvent:
    return RolloutEvent(1.5, "iris", number, "Degraded", "AnalysisFailed", "wrong", "v1", "v2", 0)


def test_each_event_is_sent_once_and_in_order() -> None:
    with run_answers() as server:
        hooks = Webhooks(lambda: [f"{server.url}/hook"])
        for number in range(5):
            hooks.send(rollout_event(number))
        wait(lambda: len(server.seen) == 5)
        hooks.stop()
        events = [json.loads(request.body) for request in server.seen]
        assert [event["number"] for event in events] == list(range(5))
        assert events[0] == {
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
        assert {(request.method, request.path) for request in server.seen} == {("POST", "/hook")}


def test_one_that_fails_is_tried_again() -> None:
    with run_answers() as server:

        def answer(handler: Handler) -> None:
            handler.say(500 if len(server.seen) < 2 else 204, b"")

        server.answer = answer
        hooks = Webhooks(lambda: [f"{server.url}/hook"])
        hooks.send(rollout_event(1))
        wait(lambda: len(server.seen) == 2)
        hooks.stop()


def test_one_that_never_ends_its_answer_is_told_all_the_same_and_holds_up_nobody() -> None:
    with run_answers() as slow, run_answers() as server:

        def trickle(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("content-length", "1000000")
            handler.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    handler.wfile.write(b" ")
                    handler.wfile.flush()
                    time.sleep(0.1)

        slow.answer = trickle
        hooks = Webhooks(lambda: [f"{slow.url}/hook", f"{server.url}/hook"])
        for number in range(3):
            hooks.send(rollout_event(number))
        wait(lambda: len(server.seen) == 3)
        wait(lambda: len(slow.seen) == 3)
        hooks.stop()


def test_a_redirect_is_no_delivery_and_no_secret_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "_TRIES", (0.0, 0.0))
    with run_answers() as server:

        def redirect(handler: Handler) -> None:
            handler.say(307, location=f"{server.url}/elsewhere")

        server.answer = redirect
        address = server.url.partition("://")[2]
        urls = [f"http://user:password@{address}/secret", "http://user:password@127.0.0.1:1/secret"]
        hooks = Webhooks(lambda: urls)
        hooks.send(rollout_event(1))
        wait(lambda: sum(record.getMessage() == "webhook.failed" for record in caplog.records) == 2)
        hooks.stop()
    assert {request.path for request in server.seen} == {"/secret"}
    assert len(server.seen) == 2
    records = [record.__dict__ for record in caplog.records]
    assert "secret" not in str(records)
    assert "password" not in str(records)
    assert {record["reason"] for record in records} == {"status 307", "ConnectionError"}


def test_a_config_that_cannot_be_read_costs_one_event_and_not_all() -> None:
    with run_answers() as server:
        answers: list[list[str]] = [[f"{server.url}/hook"]]

        def urls() -> list[str]:
            if not answers:
                raise StoreError("the disk is full")
            return answers[0]

        (urls_before,) = answers
        answers.clear()
        hooks = Webhooks(urls)
        hooks.send(rollout_event(1))
        time.sleep(0.1)
        answers.append(urls_before)
        hooks.send(rollout_event(2))
        wait(lambda: len(server.seen) == 1)
        hooks.stop()
    assert json.loads(server.seen[0].body)["number"] == 2
