"""Streams of answers, as callers get them, and the one answer that is made of a stream."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.openai.answer import Choice, ToolCall, Usage
from gateway.codec.openai.events import AnswerEvents
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import EngineCall
from gateway.codec.openai.whole import choices_of, whole_answer

DONE = b"data: [DONE]\n\n"
NAMES = {"model": 'engine\'s "own"', "system_fingerprint": "b0-unknown"}
OURS = {"model": "chat:v1", "system_fingerprint": "abc"}


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def delta(names: Any = NAMES, index: int = 0, reason: Any = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": reason}], "id": "1", **names})


def usage(names: Any = NAMES, output: int = 2, choices: Any = ()) -> bytes:
    tokens = {"prompt_tokens": 5, "completion_tokens": output, "prompt_tokens_details": {"cached_tokens": 3}}
    return event({"choices": list(choices), "id": "1", **names, "usage": tokens, "timings": {"x": 1}})


def relay(
    pieces: list[bytes], endpoint: Endpoint = Endpoint.CHAT, **options: Any
) -> tuple[bytes, AnswerEvents]:
    events = AnswerEvents(EngineCall(endpoint, b"", "chat:v1", **options), "chat:v1", "abc")
    return b"".join(map(events.feed, pieces)), events


def documents(stream: bytes) -> list[Any]:
    return [json.loads(e[6:]) for e in stream.split(b"\n\n") if e.startswith(b"data: {")]


CHAT = [delta(role="assistant", content=None), delta(content="Hi"), delta(content="!", reason="stop")]


class TestStreams:
    def test_what_is_told_of_a_prompt_is_no_part_of_the_answer(self) -> None:
        told = CHAT[0].replace(b"}\n\n", b',"prompt_progress":{"total":9,"processed":0}}\n\n')
        assert told != CHAT[0]
        out, _ = relay([told, told + CHAT[0], CHAT[1] + told, CHAT[2], DONE])
        assert b"prompt_progress" not in out
        assert [document["choices"][0]["delta"] for document in documents(out)] == [
            document["choices"][0]["delta"] for document in documents(b"".join(CHAT))
        ]
        said = delta(content=',"prompt_progress":{')
        assert (
            documents(relay([said, DONE])[0])[0]["choices"][0]["delta"]["content"] == ',"prompt_progress":{'
        )

    def test_only_names_change(self) -> None:
        out, events = relay([*CHAT, usage(), DONE], wants_usage=True)
        assert out == b"".join(
            [
                delta(OURS, role="assistant", content=None),
                delta(OURS, content="Hi"),
                delta(OURS, content="!", reason="stop"),
                usage(OURS),
                DONE,
            ]
        )
        assert events.usage == Usage(5, 3, 2)
        assert events.is_complete
        assert events.error is None

    def test_the_number_of_tokens_is_for_who_asked(self) -> None:
        out, events = relay([*CHAT, usage() + DONE])
        assert [d for d in documents(out) if "usage" in d or not d["choices"]] == []
        assert out.endswith(DONE)
        assert events.usage == Usage(5, 3, 2)

    def test_what_a_model_says_is_no_mark(self) -> None:
        said = 'data: {"usage":{}} "error":{ "model":"engine\'s" data: [DONE]\n\ndata: null\n\n'
        pieces = [delta(content=said), DONE]
        out, events = relay(pieces, places=2)
        assert out == delta(OURS, content=said) + DONE
        assert events.error is None

    @given(st.lists(st.integers(0, 700), max_size=8))
    def test_pieces_may_be_cut_anywhere(self, cuts: list[int]) -> None:
        stream = b"".join([*CHAT, usage(), DONE])
        bounds = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
        pieces = [stream[i:j] for i, j in pairwise(bounds)]
        assert relay(pieces)[0] == relay([stream])[0]

    def test_how_many_events_came(self) -> None:
        _, events = relay([CHAT[0]])
        assert events.count == 0, "a role is no token"
        events.feed(CHAT[0] + CHAT[1])
        assert events.count == 1
        events.feed(CHAT[1] + CHAT[2])
        assert events.count == 2
        events.feed(b": ping\n\n")
        assert events.count == 0
        events.feed(usage())
        assert events.count == 0

    def test_what_is_said_before_a_response_is_no_token(self) -> None:
        created = b"event: response.created\n" + event({"type": "response.created", "response": {}})
        text = b"event: x\n" + event({"type": "response.output_text.delta", "delta": "a"})
        _, events = relay([created], Endpoint.RESPONSES)
        assert events.count == 0
        events.feed(text)
        assert events.count == 1

    def test_pings_pass(self) -> None:
        assert relay([b": ping\n\n", CHAT[1]])[0] == b": ping\n\n" + delta(OURS, content="Hi")

    def test_an_engine_without_a_fingerprint_gets_one(self) -> None:
        out, _ = relay([delta({"model": "m"}, content="a"), delta({"model": "m"}, content="b")])
        assert [d["system_fingerprint"] for d in documents(out)] == ["abc", "abc"]
        assert [d["model"] for d in documents(out)] == ["chat:v1", "chat:v1"]
        out, _ = relay([delta({"system_fingerprint": None, "model": "m"}, content="a")])
        assert documents(out)[0]["system_fingerprint"] == "abc"

    def test_names_may_be_written_in_other_ways(self) -> None:
        said = b'data: {"choices":[{"index":0,"text":""}],"model": "a\\/b\\u00e9"}\n\n'
        last = said.replace(b"}\n", b',"usage":{"prompt_tokens":1}}\n')
        out, _ = relay([said, last, DONE], Endpoint.COMPLETIONS)
        assert [document["model"] for document in documents(out)] == ["chat:v1", "chat:v1"]

    def test_several_answers_have_one_number_of_tokens(self) -> None:
        pieces = [delta(index=1), usage(output=3), delta(index=0), usage(output=4), DONE]
        out, events = relay(pieces, wants_usage=True, answers=2, places=2)
        (tokens,) = (d for d in documents(out) if "usage" in d)
        assert tokens["choices"] == []
        assert tokens["usage"]["prompt_tokens"] == 5
        assert tokens["usage"]["completion_tokens"] == 7
        assert out.index(b'"usage"') > out.rindex(b'"index"')
        assert events.usage == Usage(5, 3, 7)

    def test_an_engine_may_tell_it_once_for_several_answers(self) -> None:
        pieces = [delta(index=1), delta(index=0), usage(output=7), DONE]
        out, events = relay(pieces, wants_usage=True, answers=2, places=2)
        (tokens,) = (d for d in documents(out) if "usage" in d)
        assert tokens["usage"]["prompt_tokens"] == 5
        assert events.usage == Usage(5, 3, 7)

    def test_completions_tell_it_in_an_event_of_its_own(self) -> None:
        last = usage(choices=[{"text": "", "index": 0, "finish_reason": "length"}])
        for wants_usage in (False, True):
            out, _ = relay([last, DONE], Endpoint.COMPLETIONS, wants_usage=wants_usage)
            first, *rest = documents(out)
            assert first["choices"]
            assert "usage" not in first
            assert [d["usage"]["completion_tokens"] for d in rest] == [2] * wants_usage

    def test_completions_have_likelihoods_of_their_own_form(self) -> None:
        def part(token: str, index: int = 0) -> bytes:
            top = [{"token": token, "logprob": -1.5}, {"token": "x", "logprob": -2.5}]
            content = [{"token": token, "logprob": -1.5, "bytes": [1], "top_logprobs": top}]
            choice = {"index": index, "text": token, "logprobs": {"content": content}, "finish_reason": None}
            return event({"choices": [choice], **NAMES})

        pieces = [part("ab"), part("q", 1), part("c") + part("d"), DONE]
        out, events = relay(pieces, Endpoint.COMPLETIONS, places=2)
        assert events.count == 0
        assert documents(out)[3]["choices"][0]["logprobs"] == {
            "tokens": ["d"],
            "token_logprobs": [-1.5],
            "top_logprobs": [{"d": -1.5, "x": -2.5}],
            "text_offset": [3],
        }
        whole = whole_answer(Endpoint.COMPLETIONS, [out], Usage())
        logprobs = whole["choices"][0]["logprobs"]
        assert logprobs["tokens"] == ["ab", "c", "d"]
        assert logprobs["text_offset"] == [0, 2, 3]
        assert whole["choices"][1]["logprobs"]["text_offset"] == [0]
        # in chats they stay as they are
        assert relay([part("ab")])[0] == part("ab").replace(b'engine\'s \\"own\\"', b"chat:v1").replace(
            b"b0-unknown", b"abc"
        )

    def test_an_event_of_nothing_is_left_out(self) -> None:
        out, _ = relay([b"data: null\n\n", CHAT[1]], Endpoint.COMPLETIONS, places=2)
        assert out == delta(OURS, content="Hi")

    @pytest.mark.parametrize(
        "error", [event({"error": {"message": "m", "code": 500}}), b'error: {"message":"m","code":500}\n\n']
    )
    def test_errors_have_openais_form(self, error: bytes) -> None:
        out, events = relay([CHAT[1], error])
        assert documents(out)[1] == {
            "error": {"message": "m", "type": "server_error", "param": None, "code": None}
        }
        assert events.error is not None
        assert not events.is_complete

    @pytest.mark.parametrize("piece", [b'data: {"error":{oops\n\n', b'data: {"usage":{oops\n\n'])
    def test_what_is_no_json(self, piece: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  whoever catches it reads no text
            relay([piece])


@given(
    st.lists(
        st.sampled_from(
            [
                b"data: ",
                b'{"',
                b'choices":',
                b'"usage":{',
                b'"error":{',
                b"error: {",
                b'"logprobs":{"content":[',
                b"[",
                b"]",
                b"}",
                b'"a"',
                b"1",
                b",",
                b":",
                b"\n\n",
                b"data: [DONE]\n\n",
                *CHAT,
                usage(),
            ]
        ),
        max_size=30,
    ),
    st.sampled_from([Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES]),
)
def test_streams_of_another_form_are_relayed_or_known_as_such(
    pieces: list[bytes], endpoint: Endpoint
) -> None:
    try:
        out, events = relay(pieces, endpoint)
        whole = whole_answer(endpoint, [out], events.usage)
        choices_of(endpoint, whole)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass


def test_responses_are_named_in_their_last_event() -> None:
    response = {
        "model": "m",
        "status": "completed",
        "error": None,
        "usage": {"input_tokens": 5, "output_tokens": 2},
    }
    pieces = [
        b"event: response.created\n"
        + event({"type": "response.created", "sequence_number": 0, "response": {"id": "1"}}),
        b"event: response.completed\n"
        + event({"type": "response.completed", "sequence_number": 1, "response": response}),
    ]
    out, events = relay(pieces, Endpoint.RESPONSES)
    assert out == b"".join(pieces).replace(b'"model":"m"', b'"model":"chat:v1"')
    assert events.is_complete
    assert events.usage == Usage(5, 0, 2)
    whole = whole_answer(Endpoint.RESPONSES, [out], events.usage)
    assert whole == {**response, "model": "chat:v1"}


class TestWholeAnswers:
    def test_a_chat(self) -> None:
        out, events = relay([*CHAT, usage(), DONE])
        assert whole_answer(Endpoint.CHAT, [out], events.usage) == {
            "id": "1",
            **OURS,
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hi!"},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 3},
            },
        }

    def test_calls_of_tools(self) -> None:
        pieces = [
            delta(role="assistant", content=None),
            delta(
                tool_calls=[
                    {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
                ]
            ),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
            delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]),
            delta(reasoning_content="Hm"),
            delta(reasoning_content="m.", reason="tool_calls"),
        ]
        answer = whole_answer(Endpoint.CHAT, pieces, Usage())
        message = answer["choices"][0]["message"]
        assert message["content"] is None
        assert message["tool_calls"] == [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]
        calls = (ToolCall("f", '{"x":1}'), ToolCall("g", "{}"))
        assert choices_of(Endpoint.CHAT, answer) == (Choice("", "tool_calls", calls, "Hmm."),)

    def test_likelihoods_go_on(self) -> None:
        def part(token: str) -> bytes:
            choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token}]}}
            return event({"choices": [choice]})

        answer = whole_answer(Endpoint.CHAT, [part("a"), part("b")], Usage())
        assert answer["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}

    def test_several_answers_are_told_apart(self) -> None:
        pieces = [delta(index=1, content="x"), delta(index=0, content="a"), delta(index=1, content="y")]
        answer = whole_answer(Endpoint.CHAT, pieces, Usage())
        assert [choice.text for choice in choices_of(Endpoint.CHAT, answer)] == ["a", "xy"]

    def test_a_completion(self) -> None:
        def part(text: str, reason: Any = None) -> bytes:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
            return event({"object": "text_completion", "choices": [choice]})

        answer = whole_answer(Endpoint.COMPLETIONS, [part("a"), part("b", "length")], Usage(1, 0, 2))
        assert answer["object"] == "text_completion"
        assert answer["choices"] == [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "length"}]
        assert choices_of(Endpoint.COMPLETIONS, answer) == (Choice("ab", "length"),)

    def test_what_a_response_says(self) -> None:
        response = {
            "status": "completed",
            "output": [
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
                {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
                {"type": "function_call", "name": "f", "arguments": "{}"},
            ],
        }
        choice = Choice("Hi", "tool_calls", (ToolCall("f", "{}"),), "Hm.")
        assert choices_of(Endpoint.RESPONSES, response) == (choice,)

    @pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])
    def test_a_stream_without_an_answer(self, endpoint: Endpoint) -> None:
        with pytest.raises(ValueError, match="stream has no"):
            whole_answer(endpoint, [DONE], Usage())
