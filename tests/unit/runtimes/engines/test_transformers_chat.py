"""Conversations as prompts, and what answers say besides text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtimes.engines.openai_answers import joined
from runtimes.engines.openai_errors import CallError
from runtimes.engines.openai_requests import ChatCall, read
from runtimes.engines.transformers_chat import ChatFormat
from tests.support.language_models import TOOL_TEMPLATE, tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def call(*messages: dict[str, Any], **fields: Any) -> ChatCall:
    return read(ChatCall, json.dumps({"messages": messages, **fields}).encode())


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


PLAIN = ChatFormat(tokenizer())
TOOLED = ChatFormat(tokenizer(TOOL_TEMPLATE))


def test_a_prompt_is_what_the_template_says() -> None:
    prompt = PLAIN.prompt(call({"role": "system", "content": "Be kind."}, user("hi")))
    assert prompt.text == "<|system|>Be kind.<|end|><|user|>hi<|end|><|assistant|>"
    assert tokenizer().decode(prompt.tokens) == prompt.text


def test_parts_of_text_are_one_text_and_nothing_is_nothing() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    prompt = PLAIN.prompt(call(user(parts), {"role": "assistant", "content": None}))
    assert prompt.text == "<|user|>one\ntwo<|end|><|assistant|><|end|><|assistant|>"


def test_a_template_of_the_kit_takes_the_place_of_the_models_own() -> None:
    form = ChatFormat(tokenizer(), "{{ messages[0].content }}!")
    assert form.prompt(call(user("hi"))).text == "hi!"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (
            [user([{"type": "image_url", "image_url": {"url": "http://x"}}])],
            "reads text only, not 'image_url'",
        ),
        ([user(7)], "text, or a list of parts"),
        ([{"content": "hi"}], "needs a role"),
    ],
)
def test_messages_that_it_cannot_read_are_refused(messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        PLAIN.prompt(call(*messages))


def test_what_the_template_refuses_is_the_callers_error_in_the_templates_words() -> None:
    form = ChatFormat(tokenizer(), "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(CallError, match="roles must alternate") as error:
        form.prompt(call(user("hi")))
    assert error.value.status == 400


def test_a_model_without_a_template_completes_only() -> None:
    form = ChatFormat(tokenizer(None))
    assert not form.has_template
    with pytest.raises(CallError, match="no chat template"):
        form.prompt(call(user("hi")))


def test_variables_of_the_template() -> None:
    form = ChatFormat(tokenizer(), "{{ mode }}{{ reasoning_effort }}")
    prompt = form.prompt(call(user("hi"), chat_template_kwargs={"mode": "fast"}, reasoning_effort="low"))
    assert prompt.text == "fastlow"
    with pytest.raises(CallError, match="tokenize cannot be set"):
        form.prompt(call(user("hi"), chat_template_kwargs={"tokenize": True}))
    with pytest.raises(CallError, match="does not know it"):
        PLAIN.prompt(call(user("hi"), reasoning_effort="low"))


def test_tools_are_refused_where_the_template_knows_none() -> None:
    assert not PLAIN.has_tools
    with pytest.raises(CallError, match="does not know tools") as error:
        PLAIN.prompt(call(user("hi"), tools=TOOLS))
    assert json.loads(error.value.body)["error"]["param"] == "tools"


def test_tools_are_in_the_prompt_unless_they_are_not_to_be_called() -> None:
    assert TOOLED.has_tools
    assert '"weather"' in TOOLED.prompt(call(user("hi"), tools=TOOLS)).text
    assert "weather" not in TOOLED.prompt(call(user("hi"), tools=TOOLS, tool_choice="none")).text


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be_made_is_refused(choice: Any) -> None:
    with pytest.raises(CallError, match="cannot make the model call a tool"):
        TOOLED.prompt(call(user("hi"), tools=TOOLS, tool_choice=choice))


def test_arguments_of_earlier_calls_are_objects_for_the_template() -> None:
    earlier = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        ],
    }
    text = TOOLED.prompt(call(user("hi"), earlier, tools=TOOLS)).text
    assert '"arguments": {"city": "Rome"}' in text
    earlier["tool_calls"][0]["function"]["arguments"] = "{"  # type: ignore[index]
    with pytest.raises(CallError, match="the arguments are no JSON"):
        TOOLED.prompt(call(user("hi"), earlier, tools=TOOLS))


def answer(text: str, size: int = 3) -> Any:
    """Read an answer that comes in pieces of some letters."""
    prompt = TOOLED.prompt(call(user("hi"), tools=TOOLS))
    reader = TOOLED.reader(prompt, TOOLS)
    assert reader is not None
    pieces = [reader.add(text[start : start + size]) for start in range(0, len(text), size)]
    return joined([*pieces, reader.end()])


def test_plain_text_is_plain_text() -> None:
    assert answer("It rains.").text == "It rains."
    assert PLAIN.reader(PLAIN.prompt(call(user("hi"))), []) is None


@pytest.mark.parametrize("size", [1, 4, 1_000])
def test_calls_of_tools_are_told_apart_from_text(size: int) -> None:
    piece = answer(
        'I look.\n<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
        '\n<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>',
        size,
    )
    assert piece.text == "I look."
    assert [(tool.index, tool.name, json.loads(tool.arguments)) for tool in piece.tool_calls] == [
        (0, "weather", {"city": "Rome"}),
        (1, "weather", {"city": "Oslo"}),
    ]
    assert len({tool.id for tool in piece.tool_calls}) == 2


def test_what_the_model_thought_is_told_apart() -> None:
    piece = answer("<think>Rain?</think>\n\nIt rains.")
    assert (piece.reasoning, piece.text) == ("Rain?", "It rains.")


def test_a_call_that_is_no_json_is_an_error_of_the_engine() -> None:
    with pytest.raises(CallError, match="cannot be read") as error:
        answer("<tool_call>weather(Rome)</tool_call>")
    assert error.value.status == 500


def test_the_tokenizers_own_response_template_is_used() -> None:
    words = tokenizer("{{ tools }}{{ messages[0].content }}<|assistant|>")
    words.response_template = {
        "start_anchor": "<|assistant|>",
        "fields": {
            "tool_calls": {
                "open": "[CALL]",
                "close": "[/CALL]",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"content": "text"},
        },
    }
    form = ChatFormat(words)
    assert form.has_tools
    reader = form.reader(form.prompt(call(user("hi"), tools=TOOLS)), TOOLS)
    assert reader is not None
    piece = joined([reader.add('A[CALL]{"name": "weather", "arguments": {}}[/CALL]'), reader.end()])
    assert (piece.text, piece.tool_calls[0].name) == ("A", "weather")
