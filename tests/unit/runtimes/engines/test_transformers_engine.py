"""The pieces of an answer, of tokens that are made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from runtimes.engines.openai_answers import ChatWriter, Piece, Usage, joined
from runtimes.engines.openai_requests import ChatCall, read
from runtimes.engines.transformers_engine import Engine
from runtimes.engines.transformers_generation import Limits, Step
from runtimes.engines.transformers_load import Loaded
from runtimes.engines.transformers_sampling import Sampling
from tests.support.language_models import TOOL_TEMPLATE, llama, tokenizer

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ROME = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
OSLO = ROME.replace("Rome", "Oslo")
PROMPT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
LEFT = 256 - len(tokenizer()(PROMPT, add_special_tokens=False).input_ids)


class Said:
    """A generator that says a text, a token at a time."""

    def __init__(self, text: str, finish: str) -> None:
        self.tokens: list[int] = tokenizer()(text, add_special_tokens=False).input_ids
        self.finish = finish
        self.sampling: list[Sampling] = []
        self.limits: list[int] = []
        self.was_closed = False

    async def generate(
        self, prompt: Any, sampling: Sampling, max_tokens: int, *, has_end: bool = True
    ) -> AsyncGenerator[Step, None]:
        self.sampling.append(sampling)
        self.limits.append(max_tokens)
        try:
            for token in self.tokens:
                yield Step((token,))
            yield Step((), finish=self.finish)
        finally:
            self.was_closed = True


def answer(
    text: str, finish: str = "stop", template: str = TOOL_TEMPLATE, **fields: Any
) -> tuple[Said, list[Piece]]:
    words = tokenizer(template)
    defaults = Sampling(temperature=0.6, top_k=20)
    engine = Engine(Loaded(llama(vocabulary=len(words)), words, frozenset({0}), defaults), Limits(256, 2, 32))
    said = Said(text, finish)
    engine.generator = said  # type: ignore[assignment]
    call = read(ChatCall, json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode())

    async def pieces() -> list[Piece]:
        choices = await engine.chat(call)
        [stream] = choices.streams
        return [piece async for piece in stream]

    return said, asyncio.run(pieces())


def test_calls_of_tools_are_the_reason_for_the_end() -> None:
    _, pieces = answer(f"I look.{ROME}\n{OSLO}", tools=TOOLS)
    whole = joined(pieces)
    assert (whole.text, whole.finish) == ("I look.", "tool_calls")
    assert [call.arguments for call in whole.tool_calls] == ['{"city":"Rome"}', '{"city":"Oslo"}']
    assert [call.index for call in whole.tool_calls] == [0, 1]


def test_one_call_at_a_time_ends_the_answer_with_the_first() -> None:
    said, pieces = answer(f"{ROME}{OSLO}", tools=TOOLS, parallel_tool_calls=False)
    whole = joined(pieces)
    assert [call.arguments for call in whole.tool_calls] == ['{"city":"Rome"}']
    assert whole.finish == "tool_calls"
    assert said.was_closed
    assert whole.tokens < len(said.tokens)


def test_an_answer_that_is_cut_short_was_cut_short() -> None:
    _, pieces = answer(f"{ROME}{OSLO[:20]}", "length", tools=TOOLS)
    assert joined(pieces).finish == "length"


def test_a_stop_string_ends_the_generation() -> None:
    said, pieces = answer("one two three four", stop=["thr"])
    assert joined(pieces).text == "one two "
    assert joined(pieces).finish == "stop"
    assert said.was_closed


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({}, Sampling(temperature=0.6, top_k=20)),
        ({"temperature": 0, "seed": 4}, Sampling(temperature=0, top_k=20, seed=4)),
        (
            {"top_k": -1, "repetition_penalty": 1.2, "logit_bias": {"7": 2}, "logprobs": True},
            Sampling(temperature=0.6, top_k=-1, repetition_penalty=1.2, bias={7: 2.0}, top_logprobs=0),
        ),
        (
            {"presence_penalty": 1, "frequency_penalty": -1, "top_p": 0.5, "min_p": 0.1},
            Sampling(
                temperature=0.6, top_k=20, top_p=0.5, min_p=0.1, presence_penalty=1, frequency_penalty=-1
            ),
        ),
    ],
)
def test_what_a_call_leaves_out_is_the_models_own(fields: dict[str, Any], sampling: Sampling) -> None:
    said, _ = answer("a", **fields)
    assert said.sampling == [sampling]


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10_000}, LEFT),
        ({}, LEFT),
    ],
)
def test_an_answer_is_as_long_as_the_call_and_the_context_allow(fields: dict[str, Any], limit: int) -> None:
    said, _ = answer("a", **fields)
    assert said.limits == [limit]


def test_a_streamed_call_of_a_tool_is_as_clients_read_it() -> None:
    _, pieces = answer(ROME, tools=TOOLS)
    writer = ChatWriter("m", "f")
    events = b"".join([writer.first(0), *(writer.chunk(0, piece) for piece in pieces if not piece.is_empty)])
    documents = [json.loads(event.removeprefix("data: ")) for event in events.decode().split("\n\n") if event]
    deltas = [document["choices"][0]["delta"] for document in documents]
    [called] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert called[0]["index"] == 0
    assert called[0]["type"] == "function"
    assert called[0]["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert documents[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    whole = json.loads(writer.whole([joined(pieces)], Usage(3, 4)))
    message = whole["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [{name: value for name, value in called[0].items() if name != "index"}]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
