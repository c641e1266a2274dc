"""Calls of the OpenAI API: what is passed as it is, what is changed, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.openai.document import Document
from gateway.codec.openai.errors import RefusedCall, engine_error
from gateway.codec.openai.members import (
    DROPPED,
    NEEDED,
    ONLY_AS,
    PASSED,
    REFUSED,
    Endpoint,
    Engine,
)
from gateway.codec.openai.request import EngineCall, read_call
from gateway.serving import NO_GENERATION, Generation

ENGINE = Engine("engine's own", slots=2, context=100)
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(endpoint: Endpoint = Endpoint.CHAT, engine: Engine = ENGINE, /, **members: Any) -> EngineCall:
    return read_call(endpoint, json.dumps(members).encode(), engine)


def sent(endpoint: Endpoint = Endpoint.CHAT, engine: Engine = ENGINE, /, **members: Any) -> Any:
    return json.loads(read(endpoint, engine, **members).body)


def filled(generation: Generation, endpoint: Endpoint = Endpoint.CHAT, **members: Any) -> Any:
    return json.loads(read_call(endpoint, json.dumps(members).encode(), ENGINE, generation).body)


class TestDocument:
    @given(st.dictionaries(st.text(), values), st.sampled_from([None, 2]), st.booleans())
    def test_what_is_not_changed_stays_as_it_was(self, members: Any, indent: Any, ascii_only: bool) -> None:
        body = json.dumps(members, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
        try:
            body.decode()
        except UnicodeDecodeError:
            return
        document = Document(body)
        document.set("model", "new")
        dumped = document.dump()
        assert json.loads(dumped) == {**members, "model": "new"}
        for name in members.keys() - {"model"}:
            assert document.raw(name).encode() in body
            assert document.raw(name).encode() in dumped

    def test_a_body_in_pieces(self) -> None:
        assert json.loads(Document([b'{"a"', memoryview(b":1}")]).dump()) == {"a": 1}

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b'"a"',
            b"{",
            b'{"a"}',
            b'{"a":}',
            b'{"a":1,}',
            b'{"a":1}x',
            b'{"a":1}{}',
            b'{"a":NaN}',
            b'{"a":-Infinity}',
            b'{"a":"\n"}',
            b'{"a":"\xff"}',
            b'{"a":01}',
            b'{"a":' + b"[" * 100_000,
            b'{"a":' + b"1" * 10_000 + b"}",
            b"\xef\xbb\xbf{}",
        ],
    )
    def test_what_is_no_json_object(self, body: bytes) -> None:
        with pytest.raises(RefusedCall):
            Document(body)

    @pytest.mark.parametrize(
        "body", [b'{"model":"a","model":"b"}', b'{"model":"a","mod\\u0065l":"b"}', b'{"x":[{"y":1,"y":2}]}']
    )
    def test_names_that_come_twice(self, body: bytes) -> None:
        with pytest.raises(RefusedCall, match="twice"):
            Document(body)

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, body: bytes) -> None:
        try:
            dumped = Document(body).dump()
        except RefusedCall:
            return
        assert json.loads(dumped) == json.loads(body)


class TestMembers:
    def test_the_engine_gets_its_own_name_and_streams(self) -> None:
        call = read(model="chat:v1", messages=HI)
        assert json.loads(call.body) == {
            "model": "engine's own",
            "messages": HI,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        assert (call.model, call.is_streamed, call.wants_usage) == ("chat:v1", False, False)

    def test_what_the_caller_wants_of_a_stream(self) -> None:
        call = read(
            messages=HI, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
        )
        assert (call.model, call.is_streamed, call.wants_usage) == ("", True, True)
        assert json.loads(call.body)["stream_options"] == {"include_usage": True}

    def test_messages_are_passed_byte_for_byte(self) -> None:
        messages = b'[ {"role" :"user","content":"\\u00e9 \xc3\xa9 1e2 \\/"} ]'
        body = read_call(Endpoint.CHAT, b'{"messages":' + messages + b',"n":1}', ENGINE).body
        assert messages in body

    @pytest.mark.parametrize("name", sorted(DROPPED))
    def test_what_is_dropped(self, name: str) -> None:
        assert name not in sent(messages=HI, **{name: {"a": "b"}})

    @pytest.mark.parametrize("name", sorted(ONLY_AS))
    def test_what_has_one_meaning(self, name: str) -> None:
        for value in (*ONLY_AS[name], None):
            assert name not in sent(messages=HI, **{name: value})
        for value in ("other", True, 2, ["audio"]):
            with pytest.raises(RefusedCall, match=f"^{name} can only be") as refusal:
                read(messages=HI, **{name: value})
            assert refusal.value.param == name

    @pytest.mark.parametrize("name", sorted(REFUSED))
    def test_what_is_refused(self, name: str) -> None:
        with pytest.raises(RefusedCall, match=f"^{name} is not served") as refusal:
            read(messages=HI, **{name: "x"})
        assert refusal.value.param == name
        assert name not in sent(messages=HI, **{name: None})

    @pytest.mark.parametrize(
        "name",
        ["id_slot", "cache_prompt", "lora", "n_probs", "grammar", "timings_per_token", "n_predict", "xyz"],
    )
    def test_the_engines_own_members_are_unknown(self, name: str) -> None:
        with pytest.raises(RefusedCall, match=f"unknown member '{name}'") as refusal:
            read(messages=HI, **{name: 1})
        assert refusal.value.code == "unknown_parameter"

    def test_no_member_is_in_two_rows(self) -> None:
        tables = [DROPPED, frozenset(ONLY_AS)]
        for passed in PASSED.values():
            for table in tables:
                assert not passed & table
        assert not DROPPED & set(ONLY_AS)
        assert not set(REFUSED) & (DROPPED | set(ONLY_AS))

    @pytest.mark.parametrize("endpoint", list(Endpoint))
    def test_what_is_needed(self, endpoint: Endpoint) -> None:
        with pytest.raises(RefusedCall, match=f"^{NEEDED[endpoint]} is missing"):
            read(endpoint)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model", 5),
            ("temperature", "hot"),
            ("temperature", True),
            ("seed", 1.5),
            ("stop", 1),
            ("stop", ["a", 1]),
            ("stop", ["a"] * 33),
            ("stream", "yes"),
            ("stream_options", {"include_usage": True}),
            ("n", 0),
            ("n", True),
            ("n", 3),
            ("max_tokens", 0),
            ("max_completion_tokens", "9"),
            ("messages", []),
            ("messages", "hi"),
            ("messages", [1]),
            ("messages", [{"content": "hi"}]),
            ("messages", [{"role": "user", "content": 5}]),
            ("messages", [{"role": "user", "content": [5]}]),
            ("response_format", "json"),
            ("tools", {}),
            ("logit_bias", dict.fromkeys(map(str, range(1001)), 1)),
            ("top_logprobs", 21),
            ("top_logprobs", -1),
            ("logprobs", 21),
            ("logprobs", "yes"),
        ],
    )
    def test_types(self, name: str, value: Any) -> None:
        with pytest.raises(RefusedCall, match=f"^{name}"):
            read(**{"messages": HI, name: value})

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_no_answer_is_longer_than_the_context(self, name: str) -> None:
        assert sent(messages=HI, **{name: 1000})[name] == 100
        assert sent(messages=HI, **{name: 99})[name] == 99

    def test_how_many_slots_a_call_takes(self) -> None:
        assert read(messages=HI, n=2).places == 2
        assert read(Endpoint.COMPLETIONS, prompt="a").places == 1
        assert read(Endpoint.COMPLETIONS, prompt=[1, 2, 3]).places == 1
        assert read(Endpoint.COMPLETIONS, prompt=["a", "b"], n=2).places == 4
        assert read(Endpoint.COMPLETIONS, prompt=[[1], [2], [3]]).places == 3
        assert read(Endpoint.EMBEDDINGS, input=["a", "b"]).places == 2
        assert read(Endpoint.EMBEDDINGS, input=[1, 2]).places == 1
        assert read(Endpoint.RERANK, query="a", documents=["b", "c"]).places == 2

    @pytest.mark.parametrize("prompt", [[], 5, {}, [[]], ["a", 5], [[1, "a"]], [True]])
    def test_prompts_that_are_none(self, prompt: Any) -> None:
        with pytest.raises(RefusedCall, match=r"^prompt"):
            read(Endpoint.COMPLETIONS, prompt=prompt)

    def test_the_penalty_has_the_engines_name(self) -> None:
        llama = Engine("a", is_llama=True)
        for name in ("repeat_penalty", "repetition_penalty"):
            assert sent(messages=HI, **{name: 1.5})["repetition_penalty"] == 1.5
            body = sent(Endpoint.CHAT, llama, messages=HI, **{name: 1.5})
            assert body["repeat_penalty"] == 1.5
            assert "repetition_penalty" not in body

    def test_embeddings_are_passed_as_they_are(self) -> None:
        body = sent(Endpoint.EMBEDDINGS, model="x", input="a", encoding_format="base64", user="me")
        assert body == {"model": "engine's own", "input": "a", "encoding_format": "base64"}

    @pytest.mark.parametrize(
        ("endpoint", "member", "members"),
        [
            (Endpoint.EMBEDDINGS, "dimensions", {"input": "a", "dimensions": 8}),
            (Endpoint.RERANK, "return_documents", {"query": "a", "documents": [], "return_documents": True}),
        ],
    )
    def test_what_llama_cpp_would_pass_over_is_refused(
        self, endpoint: Endpoint, member: str, members: Any
    ) -> None:
        assert member in sent(endpoint, **members)
        with pytest.raises(RefusedCall, match="llama") as refusal:
            read(endpoint, Engine("a", is_llama=True), **members)
        assert (refusal.value.param, refusal.value.code) == (member, "unsupported_parameter")
        body = sent(endpoint, Engine("a", is_llama=True), **{**members, member: None})
        assert member not in body


MEMBERS = sorted({*DROPPED, *ONLY_AS, *REFUSED, *(name for names in PASSED.values() for name in names)})
PARTS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", 1])},
    optional={
        "content": values | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"])}))
    },
)


@given(
    st.sampled_from(Endpoint),
    st.dictionaries(
        st.sampled_from([*MEMBERS, "model"]),
        values | st.lists(PARTS, max_size=3) | st.integers(1, 3),
        max_size=6,
    ),
    st.sampled_from([ENGINE, Engine("a", 4, 0, has_tools=True, has_images=True, is_llama=True)]),
)
def test_any_call_is_read_or_refused(endpoint: Endpoint, members: Any, engine: Engine) -> None:
    generation = Generation((("max_tokens", 5), ("repeat_penalty", 1.1)), ("x",), "Be brief.")
    try:
        call = read_call(endpoint, json.dumps(members).encode(), engine, generation)
    except RefusedCall:
        return
    body = json.loads(call.body)
    assert body["model"] == engine.alias
    assert body.keys() <= PASSED[endpoint] | {"model", "response_format"}
    assert call.places >= 1


class TestToolsAndImages:
    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
    def test_tools_that_the_template_does_not_know(self, choice: Any) -> None:
        with pytest.raises(RefusedCall, match="knows no tools") as refusal:
            read(messages=HI, tool_choice=choice)
        assert refusal.value.param == "tool_choice"
        with pytest.raises(RefusedCall, match="knows no tools"):
            read(messages=HI, tools=[TOOL])

    def test_tools_that_it_knows(self) -> None:
        engine = Engine("a", has_tools=True)
        assert sent(Endpoint.CHAT, engine, messages=HI, tools=[TOOL], tool_choice="required")["tools"] == [
            TOOL
        ]
        for tools, choice in (([], "required"), ([{"type": "web_search"}], "auto"), ([TOOL], "always")):
            with pytest.raises(RefusedCall, match="tool"):
                read(Endpoint.CHAT, engine, messages=HI, tools=tools, tool_choice=choice)

    def test_no_tools_at_all(self) -> None:
        assert sent(messages=HI, tools=[], tool_choice="none")

    def test_images(self) -> None:
        sees = Engine("a", has_images=True)

        def messages(kind: str, image: Any) -> Any:
            return [{"role": "user", "content": [{"type": kind, "image_url": image}]}]

        inline = messages("image_url", {"url": "data:image/png;base64,AA"})
        assert sent(Endpoint.CHAT, sees, messages=inline)["messages"] == inline
        assert sent(Endpoint.RESPONSES, sees, input=messages("input_image", "data:image/png;base64,AA"))
        with pytest.raises(RefusedCall, match="reads no images"):
            read(messages=inline)
        for url in ("http://a/b", "https://a/b", "file:///etc/passwd", "DATA:x", "/etc/passwd", "", None, 5):
            with pytest.raises(RefusedCall, match="no address is fetched"):
                read(Endpoint.CHAT, sees, messages=messages("image_url", {"url": url}))
            with pytest.raises(RefusedCall, match="no address is fetched"):
                read(Endpoint.RESPONSES, sees, input=messages("input_image", url))

    def test_an_address_cannot_hide_behind_another(self) -> None:
        body = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a","url":"data:,"}}]}]}'
        with pytest.raises(RefusedCall, match="twice"):
            read_call(Endpoint.CHAT, body, Engine("a", has_images=True))

    @pytest.mark.parametrize(
        "kind", ["input_audio", "file", "input_file", "video_url", "input_video", None, 3]
    )
    def test_other_parts(self, kind: Any) -> None:
        with pytest.raises(RefusedCall, match=r"^messages\[0\]\.content\[0\] is not served"):
            read(
                Endpoint.CHAT,
                Engine("a", has_images=True),
                messages=[{"role": "user", "content": [{"type": kind}]}],
            )


class TestResponses:
    def test_items(self) -> None:
        items = [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
            {"type": "function_call_output", "call_id": "1", "output": "2"},
        ]
        assert sent(Endpoint.RESPONSES, input=items)["input"] == items
        for bad in ([], 5, [{"type": "item_reference", "id": "1"}], [{"type": "message"}]):
            with pytest.raises(RefusedCall, match=r"^input"):
                read(Endpoint.RESPONSES, input=bad)

    def test_a_form_is_said_as_the_engine_hears_it(self) -> None:
        text = {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": {"type": "object"}}}
        llama = sent(Endpoint.RESPONSES, Engine("a", is_llama=True), input="hi", text=text)
        assert "text" not in llama
        assert llama["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}},
        }
        assert sent(Endpoint.RESPONSES, input="hi", text=text)["text"] == text
        with pytest.raises(RefusedCall, match="verbosity"):
            read(Endpoint.RESPONSES, input="hi", text={"verbosity": "low"})


class TestGeneration:
    KIT = Generation(
        (("temperature", 0.5), ("max_tokens", 7), ("repeat_penalty", 1.1)), ("END",), "Be brief."
    )

    def test_what_the_caller_leaves_out(self) -> None:
        body = filled(self.KIT, messages=HI)
        assert body["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
        assert (body["temperature"], body["max_tokens"], body["repetition_penalty"]) == (0.5, 7, 1.1)
        assert body["stop"] == ["END"]

    def test_what_the_caller_says(self) -> None:
        messages = [{"role": "developer", "content": "x"}, *HI]
        body = filled(
            self.KIT,
            messages=messages,
            temperature=0,
            max_completion_tokens=3,
            stop="A",
            repetition_penalty=1,
        )
        assert body["messages"] == messages
        assert (body["temperature"], body["max_completion_tokens"], body["repetition_penalty"]) == (0, 3, 1)
        assert "max_tokens" not in body
        assert body["stop"] == ["A", "END"]

    def test_in_other_endpoints(self) -> None:
        body = filled(self.KIT, Endpoint.RESPONSES, input="hi")
        assert (body["instructions"], body["max_output_tokens"]) == ("Be brief.", 7)
        assert filled(self.KIT, Endpoint.RESPONSES, input="hi", instructions="x")["instructions"] == "x"
        assert filled(self.KIT, Endpoint.COMPLETIONS, prompt="hi").keys() == {
            "model",
            "prompt",
            "stream",
            "stream_options",
            "temperature",
            "max_tokens",
            "repetition_penalty",
            "stop",
        }
        assert filled(self.KIT, Endpoint.EMBEDDINGS, input="hi").keys() == {"model", "input"}

    @given(st.text(), st.text(min_size=1))
    def test_the_callers_messages_stay_as_they_were(self, content: str, prompt: str) -> None:
        messages = json.dumps([{"role": "user", "content": content}], indent=1)
        body = read_call(
            Endpoint.CHAT, f'{{"messages":{messages}}}'.encode(), ENGINE, Generation(system_prompt=prompt)
        ).body
        assert messages[1:].encode() in body
        assert json.loads(body)["messages"][0] == {"role": "system", "content": prompt}

    def test_nothing_is_filled_in_where_nothing_is_said(self) -> None:
        assert filled(NO_GENERATION, messages=HI) == sent(messages=HI)


class TestEngineErrors:
    @pytest.mark.parametrize(
        ("status", "document", "expected", "code"),
        [
            (
                400,
                {"error": {"message": "m", "type": "exceed_context_size_error", "code": 400}},
                400,
                "context_length_exceeded",
            ),
            (500, {"error": {"message": "m", "type": "server_error", "code": 500}}, 500, None),
            (500, {"error": {"message": "Failed to load image or audio file"}}, 400, None),
            (501, {"error": {"message": "m"}}, 501, None),
            (599, {"error": {"message": "m"}}, 502, None),
            (200, {"error": {"message": "m", "code": 503}}, 503, None),
            (200, {"message": "m"}, 500, None),
            (418, {"message": "m"}, 400, None),
            (500, {"error": "m"}, 500, None),
            (404, {"object": "error", "message": "m", "code": "gone"}, 404, "gone"),
        ],
    )
    def test_they_are_passed_on(self, status: int, document: Any, expected: int, code: Any) -> None:
        actual, body = engine_error(status, document)
        error = orjson.loads(body)["error"]
        assert actual == expected
        assert "m" in error["message"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "param", "code"}

    @pytest.mark.parametrize("document", [None, 5, [], {}, {"error": None}])
    def test_an_engine_that_says_nothing(self, document: Any) -> None:
        status, body = engine_error(500, document)
        assert status == 500
        assert "does not say why" in orjson.loads(body)["error"]["message"]
