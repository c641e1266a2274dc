"""Which JSON Schemas and texts are too large for an engine."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.members import Endpoint, Engine
from gateway.codec.openai.request import read_call
from gateway.codec.openai.schemas import MAX_ALTERNATIVES, MAX_PROPERTIES

LLAMA = Engine("m", slots=2, context=100, has_tools=True, is_llama=True)
OTHER = Engine("m", slots=2, context=100, has_tools=True)
HI = [{"role": "user", "content": "Hi"}]


def read(endpoint: Endpoint = Endpoint.CHAT, engine: Engine = LLAMA, **members: Any) -> None:
    read_call(endpoint, orjson.dumps(members), engine)


def ask(schema: Any, engine: Engine = LLAMA) -> None:
    """Ask for an answer of a form."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    read(messages=HI, response_format=form, engine=engine)


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


def ladder(steps: int, width: int) -> dict[str, Any]:
    """A schema whose every step leads `width` times to the next."""
    definitions: dict[str, Any] = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * width} for i in range(steps)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{steps}": {"type": "string"}}}


TREE = {"type": "object", "properties": {"left": {"$ref": "#/$defs/n"}, "right": {"$ref": "#/$defs/n"}}}
LARGE = [
    properties(MAX_PROPERTIES + 1),
    {"type": "array", "items": properties(MAX_PROPERTIES + 1)},
    {"enum": list(range(MAX_ALTERNATIVES + 1))},
    {"anyOf": [{"type": "string"}] * (MAX_ALTERNATIVES + 1)},
    ladder(20, 4),
    ladder(5_000, 1),
]


@pytest.mark.parametrize("schema", LARGE, ids=range(len(LARGE)))
def test_what_would_stop_llama_cpp_is_refused(schema: Any) -> None:
    with pytest.raises(RefusedCall, match="JSON Schema") as refusal:
        ask(schema)
    assert refusal.value.param == "response_format"
    ask(schema, OTHER)
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    with pytest.raises(RefusedCall) as refusal:
        read(Endpoint.RESPONSES, input="Hi", text=text)
    assert refusal.value.param == "text.format"
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with pytest.raises(RefusedCall) as refusal:
        read(messages=HI, tools=[tool])
    assert refusal.value.param == "tools"


def test_the_properties_of_all_tools_count_together() -> None:
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": properties(MAX_PROPERTIES // 2)}}
        for i in range(3)
    ]
    read(messages=HI, tools=tools[:2])
    with pytest.raises(RefusedCall, match="450 properties"):
        read(messages=HI, tools=tools)


@pytest.mark.parametrize(
    "schema",
    [
        properties(MAX_PROPERTIES),
        {"enum": list(range(MAX_ALTERNATIVES))},
        ladder(5, 4),
        {**TREE, "$defs": {"n": {"anyOf": [TREE, {"type": "null"}]}}},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "http://example.com/x"},
        {"$ref": 5, "anyOf": 5, "properties": [1], "enum": {}},
        {"properties": {"enum": {"type": "string"}, "properties": {"type": "object"}}},
        True,
        None,
        "x",
        5,
    ],
    ids=range(13),
)
def test_all_others_are_left_to_the_engine(schema: Any) -> None:
    ask(schema)


def test_a_text_that_cannot_fit_is_refused_before_the_engine_reads_it() -> None:
    fitting, long = "x" * 25_600, "x" * 25_601
    read(messages=[{"role": "user", "content": fitting}])
    read(Endpoint.COMPLETIONS, prompt=[fitting, fitting])
    calls: list[tuple[Endpoint, dict[str, Any]]] = [
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": long}]}),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": long}]}]}),
        (Endpoint.CHAT, {"messages": [*HI, {"role": "user", "content": fitting}]}),
        (Endpoint.COMPLETIONS, {"prompt": long}),
        (Endpoint.COMPLETIONS, {"prompt": ["a", long]}),
        (Endpoint.RESPONSES, {"input": long}),
        (Endpoint.RESPONSES, {"input": [{"type": "function_call_output", "output": long}]}),
    ]
    for endpoint, members in calls:
        with pytest.raises(RefusedCall, match="more than 100 tokens can have") as refusal:
            read(endpoint, **members)
        assert refusal.value.code == "context_length_exceeded"
    images = Engine("m", context=100, has_images=True)
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{long}"}}
    read(messages=[{"role": "user", "content": [part]}], engine=images)
