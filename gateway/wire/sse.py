"""Server-sent events, as far as it takes to relay them: a stream is cut between events, and never read.

https://html.spec.whatwg.org/multipage/server-sent-events.html, with events as engines write them: lines end
with a line feed, and an event with an empty line. JSON has no line feed and no quote in a string but escaped
ones, so the marks here are never a part of what a model says.
"""

from __future__ import annotations

END = b"\n\n"
"""The end of an event."""
DATA = b"data: "
_DOCUMENT = b'data: {"'
_MAX_EVENT_BYTES = 64 * 1024 * 1024


class WholeEvents:
    """Cuts a stream, which comes in pieces of any size, into pieces that end where an event does."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of an event whose end is not here."""

    def feed(self, piece: bytes) -> bytes:
        """Return the events that are whole now; most often the very piece.

        Raises:
            ValueError: when an event never ends.
        """
        if self.rest:
            piece = self.rest + piece
            self.rest = b""
        elif piece.endswith(END):
            return piece
        end = piece.rfind(END)
        end = 0 if end < 0 else end + len(END)
        self.rest = piece[end:]
        if len(self.rest) > _MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {_MAX_EVENT_BYTES} bytes")
        return piece[:end]


def documents(events: bytes) -> int:
    """Return how many events have a JSON object, without reading any of them."""
    return events.count(_DOCUMENT)


def split(events: bytes) -> list[bytes]:
    """Return whole events one by one, without their ends."""
    return [event for event in events.split(END) if event]


def data_of(event: bytes) -> bytes:
    """Return what an event carries, b"" where that is nothing; it is on one line."""
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            return line[5:].strip()
    return b""
