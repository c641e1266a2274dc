"""Golden datasets of language models: how rows are read, what is asked, and which answers are right."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from gateway.contract import Announcement, WorkerState
from gateway.control.rollouts.golden_gate import GateOutcome, GoldenGate
from gateway.control.state.desired import DesiredModel
from gateway.control.state.versions import version_of
from gateway.engine.golden_prompts import (
    CHAT_PATH,
    has_prompts,
    is_expected,
    read_prompts,
    score_prompts,
)
from gateway.engine.golden_rows import MAX_ROWS
from gateway.errors import KitError
from gateway.kits.datasets import Dataset
from gateway.kits.policy import ANYTHING
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import parse_reference
from gateway.rollout.events import GateFailed, GatesPassed
from gateway.rollout.plan import Golden
from gateway.worker.golden import golden_prompt
from runtimes.base import Signature
from tests.support.ports import free_port
from tests.support.waiting import wait

CAPITAL = {"prompt": "What is the capital of France?", "contains": "Paris"}
SUM = {"messages": [{"role": "user", "content": "2 + 2"}], "exact": "4", "max_tokens": 5}


def dataset(*rows: Any, path: str = "golden.jsonl") -> Dataset:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return Dataset(path, "\n".join(lines).encode())


def test_a_row_becomes_a_call_without_chance() -> None:
    capital, total = read_prompts(dataset(CAPITAL, "", SUM))
    assert capital.call == {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 512,
    }
    assert capital.expected == {"contains": "Paris"}
    assert total.call == {"messages": SUM["messages"], "temperature": 0, "max_tokens": 5}
    form = {"type": "json_object"}
    (row,) = read_prompts(dataset({**CAPITAL, "response_format": form}))
    assert row.call["response_format"] == form


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (dataset(CAPITAL), True),
        (dataset("", SUM), True),
        (Dataset("a.jsonl", b"\xef\xbb\xbf" + json.dumps(CAPITAL).encode()), True),
        (dataset({"inputs": {"x": [1]}, "outputs": {"y": 1}}), False),
        (dataset({"inputs": {"prompt": [1]}, "outputs": {"y": 1}}), False),
        (dataset("prompt,answer", "a,b", path="golden.csv"), False),
        (dataset(), False),
        (dataset("{"), False),
        (dataset("[1]"), False),
    ],
)
def test_prompts_are_told_from_tensors_by_the_first_row(rows: Dataset, expected: bool) -> None:
    assert has_prompts(rows) is expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        (["{"], "line 1"),
        (["[1]"], "line 1: it is no object"),
        ([CAPITAL, {"prompt": "x"}], "line 2: it says nothing of what is expected"),
        ([{"prompt": "x", "contains": "y", "answer": "z"}], "'answer' is unknown; a row has max_tokens"),
        ([{"contains": "y"}], "either a `prompt`"),
        ([{"prompt": "x", "messages": [1], "contains": "y"}], "either a `prompt`"),
        ([{"prompt": ["x"], "contains": "y"}], "either a `prompt`"),
        ([{"messages": [], "contains": "y"}], "either a `prompt`"),
        ([{**CAPITAL, "max_tokens": 0}], "`max_tokens`"),
        ([{**CAPITAL, "max_tokens": True}], "`max_tokens`"),
        ([{"prompt": "x", "exact": 4}], "`exact` must be text"),
        ([{"prompt": "x", "regex": None}], "`regex` must be text"),
        ([{"prompt": "x", "contains": ["a", 1]}], "`contains` must be text"),
        ([{"prompt": "x", "regex": "("}], "unclosed group"),
        ([{"prompt": "x", "regex": "(?=a)"}], "look-around"),
        ([{"prompt": "x", "regex": "a{1000}{1000}{1000}"}], "size limit"),
        ([{"prompt": "x", "regex": "a" * 1001}], "longer than 1000 characters"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_refused_with_its_line(rows: list[Any], message: str) -> None:
    with pytest.raises(KitError, match=r"dataset golden.jsonl ") as caught:
        read_prompts(dataset(*rows))
    assert message in str(caught.value)


def test_a_large_dataset_is_refused() -> None:
    with pytest.raises(KitError, match="more than 10000 rows"):
        read_prompts(dataset(*[json.dumps(CAPITAL)] * (MAX_ROWS + 1)))


@pytest.mark.parametrize(
    ("answer", "expected", "is_right"),
    [
        (" Paris\n", {"exact": "Paris"}, True),
        ("Paris.", {"exact": "Paris"}, False),
        ("It is Paris.", {"contains": "Paris"}, True),
        ("It is paris.", {"contains": "Paris"}, False),
        ("Paris, on the Seine", {"contains": ["Paris", "Seine"]}, True),
        ("Paris, on the Seine", {"contains": ["Paris", "Loire"]}, False),
        ("About 42 of them", {"regex": r"\b42\b"}, True),
        ("About 142 of them", {"regex": r"\b42\b"}, False),
        ("It is Paris.", {"regex": "(?i)^it.*paris"}, True),
        ("4", {"exact": "4", "regex": "5"}, False),
        ('{"city": "Paris", "people": 2}', {"json": {"city": "Paris"}}, True),
        ('{"city": "Lyon"}', {"json": {"city": "Paris"}}, False),
        ('{"a": {"b": [1, {"c": 2, "d": 3}]}}', {"json": {"a": {"b": [1, {"c": 2}]}}}, True),
        ('{"a": [1, 2]}', {"json": {"a": [1]}}, False),
        ('{"a": 1}', {"json": {"a": True}}, False),
        ('{"a": 1.0}', {"json": {"a": 1}}, True),
        ("[]", {"json": {"a": 1}}, False),
        ("null", {"json": None}, True),
        ("Paris", {"json": {}}, False),
        ('```json\n{"city": "Paris"}\n```', {"json": {"city": "Paris"}}, True),
        ("```", {"json": {}}, False),
    ],
)
def test_which_answers_are_right(answer: str, expected: dict[str, Any], is_right: bool) -> None:
    assert is_expected(answer, expected) is is_right


def test_no_pattern_takes_long() -> None:
    """Python's own would search for longer than anybody waits."""
    started = time.monotonic()
    assert not is_expected("a" * 100_000, {"regex": "(a*)*b"})
    assert not is_expected("a" * 20_000, {"regex": "a*a*a*a*a*a*b$"})
    assert time.monotonic() - started < 5


class _Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert (self.path, self.headers["kitserve-edge"], body["model"]) == (CHAT_PATH, "secret", "chat")
        assert body["temperature"] == 0
        question = body["messages"][-1]["content"]
        message = {"content": {"2 + 2": "4", "call": None}.get(question, "It is Paris.")}
        status, answer = 200, json.dumps({"choices": [{"message": message}]})
        if question == "refuse":
            status, answer = 400, '{"error": {"message": "too long"}}'
        if question == "nonsense":
            answer = '{"choices": []}'
        if question == "break off":
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield "127.0.0.1", server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_score_is_how_many_answers_are_right(address: tuple[str, int]) -> None:
    rows = read_prompts(
        dataset(CAPITAL, SUM, {**CAPITAL, "contains": "Lyon"}, {"prompt": "call", "exact": ""})
    )
    score = score_prompts(rows, "chat", address, "secret")
    assert (score.right, score.rows) == (3, 4)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("refuse", "row 2 is answered with 400: .*too long"),
        ("nonsense", "row 2 is answered with what is no chat completion"),
    ],
)
def test_a_call_that_is_refused_fails_with_its_row(
    address: tuple[str, int], prompt: str, message: str
) -> None:
    rows = read_prompts(dataset(CAPITAL, {**CAPITAL, "prompt": prompt}))
    with pytest.raises(KitError, match=message):
        score_prompts(rows, "chat", address, "secret")


def test_a_worker_that_is_away_may_come_back(address: tuple[str, int]) -> None:
    rows = read_prompts(dataset({**CAPITAL, "prompt": "break off"}))
    with pytest.raises(OSError, match=r"broke off|reset|aborted|closed"):
        score_prompts(rows, "chat", address, "secret")
    with pytest.raises(OSError, match="refused"):
        score_prompts(rows, "chat", ("127.0.0.1", free_port()), "secret")


class _Library:
    """A library whose kits all have one dataset."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def dataset(self, *_: Any) -> Dataset:
        return self.rows


@pytest.mark.parametrize(
    ("minimum", "outcome", "words"),
    [
        (0.5, GatesPassed, "1 of 2 rows of golden.jsonl answered as expected"),
        (0.9, GateFailed, "(50 %, at least 90 % are required)"),
    ],
)
def test_the_gate_puts_prompts_to_the_canary(
    address: tuple[str, int], minimum: float, outcome: type[GatesPassed | GateFailed], words: str
) -> None:
    library: Any = _Library(dataset(CAPITAL, {**CAPITAL, "contains": "Lyon"}))
    pinned = PinnedReference.parse(f"registry.test/chat@sha256:{'a' * 64}")
    model = DesiredModel("chat", pinned.reference)
    canary = version_of(model, pinned, 1)
    worker = Announcement("w", canary.app, WorkerState.READY, "", *address)
    gate = GoldenGate(lambda: library, "secret")
    outcomes: list[GateOutcome] = []

    def is_over() -> bool:
        outcomes.append(gate.check(1, Golden("golden", minimum), model, canary, Signature((), ()), worker))
        return outcomes[-1] is not None

    wait(is_over)
    assert isinstance(outcomes[-1], outcome)
    assert words in outcomes[-1].message


def test_the_first_prompt_is_a_workers_first_call() -> None:
    library: Any = _Library(dataset(SUM, CAPITAL))
    reference = parse_reference("registry.test/chat:v1")
    call = golden_prompt(library, reference, Golden("golden"), ANYTHING)
    assert call is not None
    assert call["messages"] == SUM["messages"]
    library.rows = dataset("{")
    assert golden_prompt(library, reference, Golden("golden"), ANYTHING) is None
