"""The faults of two generated answers, each by examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.metrics.pairs import AnswerPairs, FaultyAnswers, Losses, add_pairs
from gateway.rollout.answers import (
    MAX_REPETITION,
    TAIL_BYTES,
    Answer,
    Fault,
    ToolCall,
    Wishes,
    compare_answers,
    is_invalid,
    is_repetitive,
    is_worse,
    read_wishes,
    repetition,
)

ROOT = Path(__file__).parents[3]
GOOD = Answer("The capital of France is Paris.", "stop", 8)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
JSON = Wishes(is_json=True, schema=SCHEMA)
NOTHING = Wishes()
TOOLS = Wishes(tools={"weather": SCHEMA})


def faults(
    stable: Answer | None, canary: Answer | None, wishes: Wishes = NOTHING
) -> dict[str, FaultyAnswers]:
    pairs = compare_answers(stable, canary, wishes, 2.0)
    assert pairs.pairs == 1
    return {
        name: counts for name, counts in pairs.faults.items() if counts.canary or counts.stable or counts.both
    }


def test_other_words_are_no_fault() -> None:
    assert faults(GOOD, Answer("Paris!", "stop", 6)) == {}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (None, Fault.ERROR),
        (Answer("The capital of", "length", 8), Fault.CUT_OFF),
        (Answer("", "stop", 8), Fault.EMPTY),
        (Answer(" \n", "stop", 8), Fault.EMPTY),
        (Answer("I am sorry, but I cannot help. " * 40, "stop", 8), Fault.REPETITION),
        (Answer("Paris", "stop", 17), Fault.LENGTH),
    ],
)
def test_each_fault_is_counted_for_the_version_that_has_it(answer: Answer | None, fault: Fault) -> None:
    assert faults(GOOD, answer) == {fault: FaultyAnswers(1, canary=1)}
    assert faults(answer, GOOD) == {fault: FaultyAnswers(1, stable=1)}
    if fault is not Fault.LENGTH:
        assert faults(answer, answer) == {fault: FaultyAnswers(1, both=1)}


def test_an_error_leaves_nothing_else_to_compare() -> None:
    assert set(compare_answers(GOOD, None, JSON, 2.0).faults) == {Fault.ERROR}


def test_a_function_call_is_an_answer_though_it_has_no_text() -> None:
    call = Answer("", "tool_calls", 8, (ToolCall("weather", '{"city": "Paris"}'),))
    assert faults(call, call, TOOLS) == {Fault.TOOL_CALLS: FaultyAnswers(1, both=1)}
    assert faults(call, GOOD, TOOLS) == {Fault.TOOL_CALLS: FaultyAnswers(1, stable=1)}
    assert faults(GOOD, call, TOOLS) == {Fault.TOOL_CALLS: FaultyAnswers(1, canary=1)}


def test_what_nobody_asked_for_is_not_counted() -> None:
    counted = compare_answers(GOOD, GOOD, Wishes(), 2.0).faults
    assert Fault.INVALID not in counted
    assert Fault.TOOL_CALLS not in counted
    assert compare_answers(GOOD, GOOD, JSON, 2.0).faults[Fault.INVALID] == FaultyAnswers(1, both=1)


@pytest.mark.parametrize(
    ("answer", "wishes", "expected"),
    [
        (Answer('{"city": "Paris"}', "stop", 8), JSON, False),
        (Answer('{"town": "Paris"}', "stop", 8), JSON, True),
        (Answer('{"city": "Pa', "length", 8), JSON, True),
        (Answer("Paris", "stop", 8), Wishes(is_json=True), True),
        (Answer("[1]", "stop", 8), Wishes(is_json=True), False),
        (Answer("", "tool_calls", 8, (ToolCall("weather", '{"city": "Paris"}'),)), TOOLS, False),
        (Answer("", "tool_calls", 8, (ToolCall("weather", '{"town": 1}'),)), TOOLS, True),
        (Answer("", "tool_calls", 8, (ToolCall("weather", "{"),)), TOOLS, True),
        (Answer("", "tool_calls", 8, (ToolCall("weather", "[]"),)), TOOLS, True),
        (Answer("", "tool_calls", 8, (ToolCall("time", "{}"),)), TOOLS, True),
        (Answer("", "tool_calls", 8, (ToolCall("time", ""),)), Wishes(tools={"time": True}), False),
        (GOOD, TOOLS, False),
        (GOOD, Wishes(tools={"weather": SCHEMA}, must_call=True), True),
    ],
)
def test_the_form_that_was_asked_for(answer: Answer, wishes: Wishes, expected: bool) -> None:
    assert is_invalid(answer, wishes) is expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({}, Wishes()),
        ({"temperature": 0}, Wishes(is_greedy=True)),
        ({"temperature": 0.0, "n": 2}, Wishes()),
        ({"response_format": {"type": "text"}}, Wishes()),
        ({"response_format": {"type": "json_object"}}, Wishes(is_json=True)),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, JSON),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}, JSON),
        ({"tools": [TOOL]}, TOOLS),
        ({"tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}]}, TOOLS),
        ({"tools": [TOOL], "tool_choice": "none"}, Wishes()),
        ({"tools": [TOOL], "tool_choice": "auto"}, TOOLS),
        ({"tools": [TOOL], "tool_choice": "required"}, Wishes(tools=TOOLS.tools, must_call=True)),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, Wishes(tools=TOOLS.tools, must_call=True)),
        ({"tools": [{"type": "file_search"}, 3], "response_format": 7, "text": "x"}, Wishes()),
    ],
)
def test_what_a_call_asks_for(call: dict[str, Any], expected: Wishes) -> None:
    assert read_wishes(call) == expected


def _pieces(text: str) -> list[str]:
    return [text[start : start + TAIL_BYTES] for start in range(0, len(text) - TAIL_BYTES, TAIL_BYTES)]


TABLE = "| name | value |\n|---|---|\n" + "".join(f"| item {i} | {i * i % 97} |\n" for i in range(120))
USERS = json.dumps([{"name": f"user {i}", "age": i % 70, "email": f"user{i}@example.com"} for i in range(30)])


@pytest.mark.parametrize(
    "text", ["66666666", " 6666666666\n", "!" * 12, "the the the the the the the the th", "ha" * 8]
)
def test_a_short_answer_that_is_one_text_again_and_again_repeats_itself(text: str) -> None:
    assert is_repetitive(text)
    assert repetition(text) < MAX_REPETITION


@pytest.mark.parametrize(
    "text", ["", "6", "666", "6666666", "1, 2, 3, 4, 5, 6, 7, 8", "00001111", "ha" * 7, "No. No."]
)
def test_few_words_do_not_repeat_themselves(text: str) -> None:
    assert not is_repetitive(text)


def test_prose_code_and_lists_do_not_repeat_themselves() -> None:
    prose = [
        piece for name in ("README.md", "docs/rollouts.md") for piece in _pieces((ROOT / name).read_text())
    ]
    code = [piece for path in (ROOT / "gateway/rollout").glob("*.py") for piece in _pieces(path.read_text())]
    # A table in the second one has the same words in each column.
    assert max(map(repetition, prose)) < MAX_REPETITION
    assert sorted(map(repetition, prose))[-3] < 4
    assert max(map(repetition, code)) < 4
    assert repetition(TABLE) < MAX_REPETITION
    assert repetition(USERS) < MAX_REPETITION
    assert repetition("") == 1.0
    assert repetition("Ja. " * 5) < MAX_REPETITION


@pytest.mark.parametrize(
    "loop",
    [
        "0",
        "\n",
        "the ",
        "I am sorry, but I cannot help with that. ",
        "".join(f"{number}. Open page {number**2}; " for number in range(12)),
    ],
)
def test_a_loop_at_the_end_of_an_answer_repeats_itself(loop: str) -> None:
    start = (ROOT / "README.md").read_text()[:3000]
    assert repetition(start + loop * (TAIL_BYTES // len(loop) + 1)) > MAX_REPETITION


def test_greedy_answers_that_are_the_same_are_counted_and_no_fault_else() -> None:
    greedy = Wishes(is_greedy=True)
    same, other = (
        compare_answers(GOOD, GOOD, greedy, 2.0),
        compare_answers(GOOD, Answer("Paris", "stop", 7), greedy, 2.0),
    )
    assert (same.greedy, same.identical) == (1, 1)
    assert (other.greedy, other.identical) == (1, 0)
    assert not is_worse(other)
    assert compare_answers(GOOD, GOOD, Wishes(), 2.0).greedy == 0


def test_a_canary_is_worse_where_its_answer_alone_has_a_fault() -> None:
    empty = Answer("", "stop", 1)
    assert is_worse(compare_answers(GOOD, empty, Wishes(), 100))
    assert not is_worse(compare_answers(empty, GOOD, Wishes(), 100))
    assert not is_worse(compare_answers(empty, empty, Wishes(), 100))
    assert not is_worse(compare_answers(GOOD, Answer("Paris. " * 3, "stop", 100), Wishes(), 2))


def test_pairs_add_up_and_take_each_other_away() -> None:
    one = compare_answers(GOOD, None, Wishes(), 2.0)
    other = compare_answers(GOOD, GOOD, Wishes(is_greedy=True), 2.0)
    both = one + other
    assert both.pairs == 2
    assert both.faults[Fault.ERROR] == FaultyAnswers(2, canary=1)
    rest = both - one
    assert (rest.pairs, rest.greedy, rest.identical) == (1, 1, 1)
    assert rest.faults[Fault.ERROR] == FaultyAnswers(1)
    assert add_pairs(None, None) is None
    assert add_pairs(one, None) == add_pairs(None, one) == one


def test_losses_are_kept_within_bounds() -> None:
    assert Losses.of(0.25) + Losses.of(-7) == Losses(2, -0.75, 1.0625)
    pairs = AnswerPairs(1, losses=Losses.of(0.5)) + AnswerPairs(1)
    assert pairs.losses == Losses(1, 0.5, 0.25)
