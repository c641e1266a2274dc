"""Mirroring of text, from the stable version's server to the canary's: real servers, real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.contract import Mirroring
from gateway.metrics.counts import MIRRORED, MirroredCalls
from gateway.metrics.pairs import AnswerPairs, FaultyAnswers, Losses
from gateway.metrics.tally import Tally
from gateway.rollout.answers import Fault
from gateway.rollout.plan import Agreement, AnswerChecks
from gateway.serving import Generation, QueueLimits
from gateway.wire.headers import PLACED_HEADER
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.mirror_sender import MIRROR_PATH
from gateway.worker.mirror_text import SCORE_PATH
from gateway.worker.version import AppOptions, Identity
from tests.support.engines import DONE, STREAM, FaultyEngine, answer, chunk, delta, event
from tests.support.ports import free_port
from tests.support.waiting import wait

KEY = "a-secret"
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "chat:v1", "messages": [{"role": "user", "content": "Where is Paris?"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PIRATE = Generation(system_prompt="Be a pirate.")
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}


class Scripted:
    """An engine that answers each call with the same text."""

    def __init__(
        self,
        text: str,
        finish_reason: str = "stop",
        tokens: int = 8,
        status: int = 200,
        score: dict[str, float] | None = None,
    ) -> None:
        self.text, self.finish_reason, self.tokens, self.status = text, finish_reason, tokens, status
        self.score = score
        self.go_on = threading.Event()
        self.go_on.set()
        self.engine = FaultyEngine(self._behave)
        vars(self.engine)["can_score"] = score is not None

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls that it got, as it got them."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.engine.requests]

    def _behave(self, connection: socket.socket, request: bytes) -> None:
        self.go_on.wait(20)
        if request.startswith(b"POST /score "):
            connection.sendall(answer(200, self.score))
            return
        if self.status != 200:
            connection.sendall(answer(self.status, {"error": {"message": "out of memory"}}))
            return
        usage = {"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": self.tokens}}
        words = delta(self.text)
        if request.startswith(b"POST /v1/completions "):
            words = event({"id": "1", "choices": [{"index": 0, "text": self.text}]})
        pieces = [words, delta("", self.finish_reason), event(usage), DONE]
        connection.sendall(STREAM + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")


class Serving:
    """A worker's server around an engine."""

    def __init__(self, scripted: Scripted, **options: Any) -> None:
        self.scripted, self.tally = scripted, Tally()
        engine: Any = scripted.engine
        options = {"edge_key": KEY, **options}
        self.app = build_app(Identity("chat", "v1", "sha256:12"), engine, self.tally, AppOptions(**options))
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.server.host, self.server.port

    @property
    def mirrored(self) -> MirroredCalls:
        return self.tally.numbers().mirrored

    @property
    def pairs(self) -> AnswerPairs:
        return self.tally.numbers().pairs

    def call(self, path: str = CHAT, body: Any = ASK, **members: Any) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        headers = {"Kitserve-Edge": KEY, "ModelKit-Role": "stable", PLACED_HEADER: "1"}
        connection.request("POST", path, json.dumps({**body, **members}), headers)
        response = connection.getresponse()
        result = response.status, response.read()
        connection.close()
        return result

    def mirror(
        self, *targets: tuple[str, int], share: float = 1.0, checks: AnswerChecks | None = None
    ) -> None:
        self.app.mirror(Mirroring(share, targets, Agreement(), checks or AnswerChecks()))

    def wait_for(self, compared: int) -> None:
        wait(lambda: self.mirrored.compared == compared)

    def stop(self) -> None:
        self.app.mirror(None)
        self.scripted.go_on.set()
        self.server.stop()
        self.app.stop()
        self.scripted.engine.close()


Start = Callable[..., Serving]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Serving] = []

    def start_one(text: str = "Paris is in France.", **more: Any) -> Serving:
        script = {
            name: more.pop(name) for name in ("finish_reason", "tokens", "status", "score") if name in more
        }
        started.append(Serving(Scripted(text, **script), **more))
        return started[-1]

    yield start_one
    for serving in started:
        serving.scripted.go_on.set()
    # An engine whose client hangs up in the midst of its answer has a fault of its own.
    wait(lambda: not any(serving.tally.ongoing for serving in started))
    for serving in started:
        serving.stop()


def faults(pairs: AnswerPairs) -> dict[str, FaultyAnswers]:
    return {
        name: counts for name, counts in pairs.faults.items() if counts.canary or counts.stable or counts.both
    }


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answered_call_is_answered_by_the_canary_too_and_compared(start: Start, is_streamed: bool) -> None:
    stable, canary = start(), start("In France.")
    stable.mirror(canary.address)
    status, _ = stable.call(stream=is_streamed, temperature=0)
    assert status == 200
    stable.wait_for(1)
    assert stable.mirrored == MirroredCalls(1, 1.0)
    assert faults(stable.pairs) == {}
    assert (stable.pairs.pairs, stable.pairs.greedy, stable.pairs.identical) == (1, 1, 0)
    numbers = canary.tally.numbers()
    assert numbers.requests == {(MIRRORED, 200): 1}
    assert numbers.tokens.output == 0, "callers got none of these tokens"
    assert numbers.tokens_by_role[MIRRORED].output == 8


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ({"text": ""}, Fault.EMPTY),
        ({"finish_reason": "length"}, Fault.CUT_OFF),
        ({"text": "I am sorry, I cannot. " * 50}, Fault.REPETITION),
        ({"tokens": 80}, Fault.LENGTH),
        ({"status": 500}, Fault.ERROR),
    ],
)
def test_the_faults_of_the_canary_are_counted(start: Start, script: dict[str, Any], fault: Fault) -> None:
    stable, canary = start(), start(**script)
    stable.mirror(canary.address)
    stable.call()
    stable.wait_for(1)
    assert faults(stable.pairs) == {fault.value: FaultyAnswers(1, canary=1)}
    is_error = fault is Fault.ERROR
    assert stable.mirrored == MirroredCalls(1, float(fault is Fault.LENGTH), failed=int(is_error))
    paired = stable.tally.numbers().paired
    assert (paired.calls, paired.failed) == (1, int(is_error))
    assert paired.stable.observations == paired.canary.observations == int(not is_error)


def test_errors_of_the_stable_version_are_mirrored_and_those_of_callers_are_not(start: Start) -> None:
    stable, canary = start(status=500), start()
    stable.mirror(canary.address)
    assert stable.call(temperature="hot")[0] == 400
    assert stable.call()[0] == 500
    stable.wait_for(1)
    assert faults(stable.pairs) == {Fault.ERROR: FaultyAnswers(1, stable=1)}
    assert len(canary.scripted.calls) == 1


def test_the_form_that_was_asked_for_is_compared(start: Start) -> None:
    stable, canary = start('{"city": "Paris"}'), start('{"town": "Paris"}')
    stable.mirror(canary.address)
    stable.call(response_format=FORM)
    stable.wait_for(1)
    assert faults(stable.pairs) == {Fault.INVALID: FaultyAnswers(1, canary=1)}


def test_each_version_answers_with_its_own_prompts_and_defaults(start: Start) -> None:
    """So that a change of the prompt is judged, too."""
    stable = start(generation=Generation(system_prompt="Be brief.", sampling=(("temperature", 0),)))
    canary = start(generation=Generation(system_prompt="Be polite.", sampling=(("temperature", 1),)))
    stable.mirror(canary.address)
    stable.call()
    stable.wait_for(1)
    (first,), (second,) = stable.scripted.calls, canary.scripted.calls
    assert (first["messages"][0]["content"], first["temperature"]) == ("Be brief.", 0)
    assert (second["messages"][0]["content"], second["temperature"]) == ("Be polite.", 1)
    assert stable.pairs.greedy == 1


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", {"prompt": "Paris is"})])
def test_completions_are_mirrored(start: Start, path: str, body: dict[str, Any]) -> None:
    stable, canary = start(), start()
    stable.mirror(canary.address)
    stable.call(path, body)
    stable.wait_for(1)
    assert canary.scripted.calls[0]["prompt"] == "Paris is"


def test_a_share_of_the_calls_is_mirrored(start: Start) -> None:
    stable, canary = start(), start()
    stable.mirror(canary.address, share=0.0)
    for _ in range(5):
        stable.call()
    stable.mirror(canary.address, share=1.0)
    stable.call()
    stable.wait_for(1)
    assert len(canary.scripted.calls) == 1


def test_no_caller_waits_for_a_canary_that_is_slow(start: Start) -> None:
    """One call at a time is put to it, and what there is no room for is dropped."""
    stable, canary = start(), start()
    canary.scripted.go_on.clear()
    stable.mirror(canary.address)
    started = time.monotonic()
    for _ in range(70):
        assert stable.call()[0] == 200
    assert time.monotonic() - started < 5
    wait(lambda: stable.mirrored.dropped >= 5)
    assert stable.mirrored.compared == 0
    assert len(canary.scripted.calls) == 1
    canary.scripted.go_on.set()
    wait(lambda: stable.mirrored.compared >= 3)


def test_a_canary_that_is_busy_or_away_says_nothing_of_its_answers(start: Start) -> None:
    stable = start()
    busy = start(limits=QueueLimits(max_requests=0))
    busy.scripted.go_on.clear()
    threads = [threading.Thread(target=busy.call) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait(lambda: busy.tally.generating == 2)
    stable.mirror(busy.address)
    stable.call()
    wait(lambda: stable.mirrored.dropped == 1)
    stable.mirror(("127.0.0.1", free_port()))
    stable.call()
    wait(lambda: stable.mirrored.dropped == 2)
    assert stable.mirrored.compared == 0
    busy.scripted.go_on.set()
    for thread in threads:
        thread.join()


def test_the_next_worker_is_asked_where_one_is_away(start: Start) -> None:
    stable, canary = start(), start()
    stable.mirror(("127.0.0.1", free_port()), canary.address)
    for _ in range(4):
        stable.call()
    wait(lambda: stable.mirrored.compared >= 3)


def test_the_path_of_mirrored_calls_is_not_for_callers(start: Start) -> None:
    canary = start()
    connection = http.client.HTTPConnection(*canary.address, timeout=20)
    connection.request("POST", MIRROR_PATH + CHAT, json.dumps(ASK))
    assert connection.getresponse().status == 403
    connection.close()
    assert canary.call(MIRROR_PATH + "/v1/embeddings")[0] == 404


def test_a_mirror_that_is_stopped_sends_no_more(start: Start) -> None:
    stable, canary = start(), start()
    stable.mirror(canary.address)
    stable.call()
    stable.wait_for(1)
    stable.app.mirror(None)
    stable.call()
    time.sleep(0.1)
    assert len(canary.scripted.calls) == 1


LIMITED = AnswerChecks(max_loss=0.1)


def test_both_versions_score_the_stable_versions_answer_each_with_its_own_prompt(start: Start) -> None:
    stable = start(score={"logprob": -2.0, "tokens": 8})
    canary = start("In France.", score={"logprob": -6.0, "tokens": 8}, generation=PIRATE)
    stable.mirror(canary.address, checks=LIMITED)
    stable.call(temperature=0.5)
    wait(lambda: stable.pairs.losses.pairs == 1)
    assert stable.pairs.losses == Losses(1, 0.5, 0.25)
    assert stable.scripted.calls[-1] == {"messages": ASK["messages"], "answer": "Paris is in France."}
    pirate = {"role": "system", "content": "Be a pirate."}
    assert canary.scripted.calls[-1] == {
        "messages": [pirate, *ASK["messages"]],
        "answer": "Paris is in France.",
    }
    stable.call("/v1/completions", {"prompt": "Paris is"})
    wait(lambda: stable.pairs.losses.pairs == 2)
    assert stable.scripted.calls[-1] == {"prompt": "Paris is", "answer": "Paris is in France."}
    assert stable.mirrored == MirroredCalls(2, 2.0)
    assert stable.tally.ongoing == canary.tally.ongoing == 0


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (None, {"logprob": -6.0, "tokens": 8}),
        ({"logprob": -2.0, "tokens": 8}, None),
        ({"logprob": -2.0, "tokens": 8}, {"logprob": -6.0, "tokens": 9}),
        ({"logprob": -2.0, "tokens": 8}, {"logprob": "low", "tokens": 8}),
        ({"logprob": -2.0, "tokens": 0}, {"logprob": -2.0, "tokens": 0}),
    ],
)
def test_what_cannot_be_scored_by_both_is_not_counted(
    start: Start, stable: dict[str, float] | None, canary: dict[str, float] | None
) -> None:
    first, second = start(score=stable), start(score=canary)
    first.mirror(second.address, checks=LIMITED)
    for _ in range(2):
        first.call()
    first.wait_for(2)
    wait(lambda: not first.tally.ongoing and not second.tally.ongoing)
    assert first.pairs.losses.pairs == 0
    assert first.mirrored == MirroredCalls(2, 2.0), "nothing else is lost by that"


def test_nothing_is_scored_without_a_limit(start: Start) -> None:
    stable, canary = (start(score={"logprob": -2.0, "tokens": 8}) for _ in range(2))
    stable.mirror(canary.address)
    stable.call()
    stable.call()
    stable.wait_for(2)
    assert not any("answer" in call for call in [*stable.scripted.calls, *canary.scripted.calls])


def test_a_call_that_cannot_be_scored_is_refused_with_words(start: Start) -> None:
    canary = start(score={"logprob": -2.0, "tokens": 8})
    assert canary.call(SCORE_PATH, {"path": CHAT})[0] == 400
    assert canary.call(SCORE_PATH, {"path": "/v1/nonsense", "call": ASK, "answer": "x"})[0] == 400
    several = {"path": "/v1/completions", "call": {"prompt": ["a", "b"]}, "answer": "x"}
    status, text = canary.call(SCORE_PATH, several)
    assert (status, text) == (400, b"this cannot be scored: the call has no single prompt")
