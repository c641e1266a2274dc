"""Events of the Responses API get what llama.cpp leaves out."""

from __future__ import annotations

import orjson

from gateway.codec.openai.response_events import ResponseEvents
from gateway.wire.sse import data_of, split


def event(kind: str, **members: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


def completed(*events: bytes) -> list[dict[str, object]]:
    numbered = ResponseEvents("chat")
    return [orjson.loads(data_of(each)) for piece in events for each in split(numbered.complete(piece))]


def test_items_have_places_by_their_identity() -> None:
    added, done, delta = (
        "response.output_item.added",
        "response.output_item.done",
        "response.output_text.delta",
    )
    told = completed(
        event("response.created", response={"id": "r", "status": "in_progress"}),
        event(added, item={"type": "reasoning", "id": "rs"}),
        event(added, item={"type": "message", "id": "msg"})
        + event(delta, item_id="msg", delta='"item_id":"rs"'),
        event(added, item={"type": "function_call", "call_id": "fc"}),
        event("response.function_call_arguments.delta", item_id="fc", delta="{"),
        event(done, item={"type": "message", "id": "msg"}),
        event("response.completed", response={"id": "r"}),
    )
    assert [each["sequence_number"] for each in told] == list(range(8))
    assert [each.get("output_index") for each in told] == [None, 0, 1, 1, 2, 2, 1, None]
    assert told[0]["response"] == {"id": "r", "status": "in_progress", "model": "chat", "output": []}
    assert (told[3]["content_index"], told[3]["logprobs"], told[3]["delta"]) == (0, [], '"item_id":"rs"')
    assert "content_index" not in told[5]


def test_an_engines_own_numbers_stay() -> None:
    own = event("response.output_text.delta", sequence_number=7, output_index=3, delta="a")
    other = b'event: error\ndata: {"type":"error"}\n\n'
    assert ResponseEvents("chat").complete(own + other) == own + other
