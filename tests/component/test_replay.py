"""Records are sent to servers, and the candidate is judged by what it answers: real servers, real sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codec.tensor_documents import tensor_documents
from gateway.metrics.tally import Tally
from gateway.payloads.record import Protocol, Record
from gateway.replay.calls import Target, recorded_reply
from gateway.replay.judgement import Judgement
from gateway.replay.replay import AgainstFailed, Stable, find_stable, replay
from gateway.rollout.plan import Agreement, AnswerChecks, Checks
from gateway.rollout.verdict import Outcome, Verdict, overall
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, TensorSpec
from runtimes.errors import ExecutionError
from tests.support.echo import Echo
from tests.support.engines import DONE, STREAM, FaultyEngine, chunk, delta, event
from tests.support.ports import free_port
from tests.support.worker import worker

CHAT = "/v1/chat/completions"
CHECKS = Checks(max_error_rate=0.2, min_requests=20, agreement=Agreement(min=0.8))


class Other(Echo):
    """A model that answers otherwise, and every `failing`-th call not at all."""

    def __init__(self, *specs: TensorSpec, failing: int = 0) -> None:
        super().__init__(*specs)
        self.failing = failing

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        answer = super().infer(inputs, outputs)
        if self.failing:
            if self.calls % self.failing == 0:
                raise ExecutionError("out of luck")
            return answer
        return {name: -array for name, array in answer.items()}


def records(count: int = 40, **changes: Any) -> list[Record]:
    """Return records of a model that gives back what it is given."""
    made = []
    for number in range(count):
        values = np.array([[number, 2.5]], np.float32)
        fields: dict[str, Any] = {
            "request_id": str(number),
            "model": "echo",
            "digest": "sha256:12",
            "protocol": Protocol.REST,
            "path": "",
            "status": 200,
            "seconds": 0.001,
            "request": {"inputs": tensors(x=values)},
            "answer": {"outputs": tensors(y=values)},
        }
        made.append(Record(**{**fields, **changes}))
    return made


def tensors(**arrays: Array) -> Any:
    """Return tensors as they are once they are read from a line."""
    return orjson.loads(orjson.dumps(tensor_documents(arrays)))


def judged(
    model: Any, sent: Iterable[Record], checks: Checks = CHECKS, stable: Stable | None = None
) -> tuple[Judgement, dict[str, Verdict]]:
    judgement = Judgement(checks, is_text=False, is_timed=stable is not None)
    with worker(model) as address:
        target = Target(f"http://{address}", "/v2/models/echo/infer", {}, 10)
        assert replay(sent, target, stable, judgement, lambda _: None) == ""
        target.close()
    return judgement, {verdict.check: verdict for verdict in judgement.verdicts()}


def echo() -> Echo:
    return Echo(TensorSpec("x", "FP32", (-1, 2)))


def test_a_candidate_that_answers_as_recorded_is_successful() -> None:
    judgement, verdicts = judged(echo(), records())
    assert overall(tuple(verdicts.values())) is Outcome.SUCCESSFUL, verdicts
    assert (judgement.compared, judgement.differing) == (40, 0)


def test_a_candidate_that_answers_otherwise_fails_with_examples() -> None:
    judgement, verdicts = judged(Other(TensorSpec("x", "FP32", (-1, 2))), records())
    assert verdicts["agreement"].outcome is Outcome.FAILED
    assert (judgement.differing, len(judgement.differences)) == (40, 5)
    first = judgement.differences[0]
    assert (first.request_id, first.stable, first.candidate) == ("0", '{"y":[0.0,2.5]}', '{"y":[-0.0,-2.5]}')


def test_a_candidate_that_fails_more_calls_than_stable_did_fails() -> None:
    _, verdicts = judged(Other(TensorSpec("x", "FP32", (-1, 2)), failing=2), records(80))
    assert verdicts["error_rate"].outcome is Outcome.FAILED
    assert verdicts["agreement"].numbers["failed"] == 40
    failed = records(20, status=500, answer=None)
    _, verdicts = judged(Other(TensorSpec("x", "FP32", (-1, 2)), failing=2), failed)
    assert verdicts["error_rate"].outcome is not Outcome.FAILED, "stable failed all of them"


def test_too_little_is_inconclusive_and_what_cannot_be_compared_is_counted() -> None:
    _, verdicts = judged(echo(), [])
    assert {verdict.outcome for verdict in verdicts.values()} == {Outcome.INCONCLUSIVE}
    wanted = {"inputs": records(1)[0].request["inputs"], "outputs": [{"name": "y"}]}  # type: ignore[index]
    classes = {**wanted, "outputs": [{"name": "y", "parameters": {"classification": 1}}]}
    sent = [
        *records(1, request=wanted),
        *records(1, request=classes),
        *records(2, answer=None),
        *records(1, redacted=("outputs.y",)),
        *records(1, request={"inputs": [{"name": "x"}]}),
        *records(1, answer={"outputs": "nothing"}),
    ]
    judgement, verdicts = judged(echo(), sent)
    assert judgement.compared == 1
    assert dict(judgement.not_compared) == {
        "it asks for classes, which are not compared": 1,
        "no answer is recorded": 4,
        "its request cannot be read": 1,
    }
    assert verdicts["requests"].numbers["canary_calls"] == 5


def test_recorded_times_are_not_compared_and_times_of_the_same_moment_are() -> None:
    checks = Checks(max_error_rate=None, min_requests=20, max_latency_ratio=3.0)
    _, verdicts = judged(echo(), records(), checks)
    assert verdicts["latency"].outcome is Outcome.INCONCLUSIVE
    assert "--against" in verdicts["latency"].message
    judgement = Judgement(checks, is_text=False, is_timed=True)
    for record in records():
        answer = recorded_reply(record)
        assert answer is not None
        judgement.add(record, answer, replace(answer, seconds=0.02))
    verdicts = {verdict.check: verdict for verdict in judgement.verdicts()}
    assert verdicts["latency"].outcome is Outcome.FAILED


def test_a_candidate_of_another_kind_fails() -> None:
    judgement = Judgement(CHECKS, is_text=True, is_timed=False)
    target = Target(f"http://127.0.0.1:{free_port()}", "", {}, 2)
    assert "it generates text" in replay(records(1), target, None, judgement, lambda _: None)


def test_a_server_that_does_not_answer_is_an_error_and_not_the_candidates() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AgainstFailed, match="does not answer"):
        find_stable(url, "echo", {}, 2)
    stable = Stable(Target(url, "/v2/models/echo/infer", {}, 2), "sha256:12")
    judgement, verdicts = judged(echo(), records(), stable=stable)
    assert {verdict.outcome for verdict in verdicts.values()} == {Outcome.ERROR}
    assert "does not answer" in judgement.trouble


def test_a_candidate_that_is_gone_is_told_with_the_record() -> None:
    target = Target(f"http://127.0.0.1:{free_port()}", "/v2/models/echo/infer", {}, 2)
    judgement = Judgement(CHECKS, is_text=False, is_timed=False)
    reason = replay(records(3), target, None, judgement, lambda _: None)
    assert reason.startswith("it does not answer record 1 (0): ")


@pytest.fixture
def serve_text() -> Iterable[Callable[[str], Target]]:
    running: list[tuple[HttpServer, Any]] = []

    def start(text: str) -> Target:
        usage = {"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
        pieces = [delta(text), delta("", "stop"), event(usage), DONE]

        def behave(connection: socket.socket, _request: bytes) -> None:
            connection.sendall(STREAM + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")

        engine: Any = FaultyEngine(behave)
        app = build_app(Identity("chat", "v1", "sha256:12"), engine, Tally(), AppOptions())
        server = HttpServer(app, "127.0.0.1")
        server.start()
        running.append((server, app))
        return Target(f"http://{server.host}:{server.port}", "", {}, 10)

    yield start
    for server, app in running:
        server.stop()
        app.stop()


def test_prompts_are_replayed_as_recorded_and_judged_by_faults(
    serve_text: Callable[[str], Target],
) -> None:
    request = {
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0,
        "seed": 7,
        "stream": True,
    }
    message = {"role": "assistant", "content": "Hello Ann"}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    sent = records(60, model="chat", protocol=Protocol.OPENAI, path=CHAT, request=request, answer=answer)
    limits = AnswerChecks(max_faults=0.2, max_shift=0.3, min_pairs=20, max_loss=0.1)
    checks = Checks(max_error_rate=0.2, min_requests=20, answers=limits)
    outcomes = {}
    for text in ("Hello Ann", "Hello Bob", "ha" * 200):
        judgement = Judgement(checks, is_text=True, is_timed=False)
        target = serve_text(text)
        assert replay(sent, target, None, judgement, lambda _: None) == ""
        target.close()
        verdicts = {verdict.check: verdict for verdict in judgement.verdicts()}
        assert verdicts["loss"].outcome is Outcome.INCONCLUSIVE
        assert verdicts["loss"].message == "a replay has no likelihoods of answers"
        identical = verdicts["requests"].numbers["identical"]
        outcomes[text[:9]] = (identical, verdicts["repetition"].outcome, judgement.differing)
    assert outcomes == {
        "Hello Ann": (60, Outcome.SUCCESSFUL, 0),
        "Hello Bob": (0, Outcome.SUCCESSFUL, 0),
        "hahahahah": (0, Outcome.FAILED, 60),
    }
