"""A stream of events is cut between events, whatever the pieces are in which it came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import sse
from gateway.wire.sse import WholeEvents, data_of, documents, split

EVENTS = [
    b'data: {"a":"\\n\\ndata: {\\"}"}\n\n',
    b": ping\n\n",
    b'event: x\ndata: {"b":1}\n\n',
    b"data: [DONE]\n\n",
]


@given(st.lists(st.sampled_from(EVENTS), min_size=1), st.data())
def test_every_piece_that_comes_out_ends_with_an_event(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    whole = WholeEvents()
    pieces = [whole.feed(stream[i:j]) for i, j in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert b"".join(pieces) == stream
    assert all(not piece or piece.endswith(sse.END) for piece in pieces)
    assert not whole.rest
    assert sum(map(documents, pieces)) == sum(b"{" in event for event in events)


def test_a_piece_that_is_whole_is_not_copied() -> None:
    piece = EVENTS[0] + EVENTS[1]
    assert WholeEvents().feed(piece) is piece


def test_events_one_by_one() -> None:
    assert split(b"".join(EVENTS)) == [event[:-2] for event in EVENTS]
    assert [data_of(event) for event in split(b"".join(EVENTS))] == [
        b'{"a":"\\n\\ndata: {\\"}"}',
        b"",
        b'{"b":1}',
        b"[DONE]",
    ]


def test_an_event_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_MAX_EVENT_BYTES", 10)
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        WholeEvents().feed(b"data: {" + b" " * 10)
