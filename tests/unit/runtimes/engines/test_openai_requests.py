"""Calls of the OpenAI API as an engine of ours reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtimes.engines.openai_errors import CallError, TooLong
from runtimes.engines.openai_requests import ChatCall, CompletionCall, read

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def chat(**fields: Any) -> ChatCall:
    return read(ChatCall, json.dumps(HELLO | fields).encode())


def refusal(**fields: Any) -> dict[str, Any]:
    with pytest.raises(CallError) as error:
        chat(**fields)
    assert error.value.status == 400
    body: dict[str, Any] = json.loads(error.value.body)["error"]
    assert body["type"] == "invalid_request_error"
    return body


def test_a_stop_string_is_a_list_of_one() -> None:
    assert chat(stop="END").stop == ["END"]
    assert chat(stop=["a", "b"]).stop == ["a", "b"]


def test_null_is_as_if_it_were_left_out() -> None:
    call = chat(temperature=None, tools=None, response_format=None, something_new=None, max_tokens=None)
    assert call == chat()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
        ("response_format", {"type": "json_object"}),
        ("echo", True),
        ("suffix", " end"),
        ("best_of", 3),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("prediction", {"type": "content", "content": "a"}),
        ("web_search_options", {}),
        ("service_tier", "flex"),
        ("verbosity", "low"),
        ("grammar", "root ::= 'a'"),
        ("id_slot", 1),
    ],
)
def test_what_the_engine_has_not_is_refused_by_name(name: str, value: Any) -> None:
    error = refusal(**{name: value})
    assert error["param"] == name
    assert error["code"] == "unsupported_parameter"
    assert error["message"].startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {"type": "text"}),
        ("echo", False),
        ("best_of", 1),
        ("modalities", ["text"]),
        ("service_tier", "auto"),
        ("user", "u"),
        ("store", False),
    ],
)
def test_what_asks_for_nothing_is_taken(name: str, value: Any) -> None:
    chat(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 3),
        ("temperature", "warm"),
        ("top_p", 0),
        ("n", 0),
        ("n", 1.5),
        ("seed", "five"),
        ("stop", 7),
        ("stop", [str(number) for number in range(17)]),
        ("top_logprobs", 21),
        ("messages", []),
        ("max_tokens", -1),
        ("logit_bias", {"a": "b"}),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True, "other": 1}),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: Any) -> None:
    assert refusal(**{name: value})["param"] == name


def test_a_body_that_is_no_object() -> None:
    for body in (b"", b"{", b"[]", b"7", b"\xff"):
        with pytest.raises(CallError):
            read(ChatCall, body)


def test_prompts_are_texts_or_tokens() -> None:
    def prompts(prompt: Any) -> Any:
        return read(CompletionCall, json.dumps({"prompt": prompt}).encode()).prompts

    assert prompts("a") == ["a"]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2]) == [[1, 2]]
    assert prompts([[1, 2], [3]]) == [[1, 2], [3]]
    assert prompts([]) == []
    for prompt in ([1, "a"], 7, [[1], "a"], [True]):
        with pytest.raises(CallError):
            prompts(prompt)


def test_a_prompt_that_is_too_long_is_told_in_the_words_of_openai() -> None:
    error = json.loads(TooLong(600, 512).body)["error"]
    assert error["code"] == "context_length_exceeded"
    assert "600" in error["message"]
    assert "512" in error["message"]
