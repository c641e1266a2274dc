"""An answer that an engine streams, on its way to the caller.

Events are passed as they are, but for what the caller must read otherwise: the engine's names for its model
and itself, the number of tokens where nobody asked for it, and errors. No event is read for that but the
first, the last, and those with an error; the others are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.codec.openai.answer import NO_USAGE, Usage
from gateway.codec.openai.errors import engine_error
from gateway.codec.openai.likelihoods import Likelihoods
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.request import EngineCall
from gateway.codec.openai.response_events import ResponseEvents
from gateway.wire.sse import DATA, END, WholeEvents, data_of, documents, split

_USAGE = b'"usage":{'
_ERROR = b'"error":{'
_BARE_ERROR = b"error: {"
_CHAT_LIKELIHOODS = b'"logprobs":{"content":['
_DONE = b"data: [DONE]"
_DONE_EVENT = _DONE + END
_NOTHING = b"data: null" + END
# What llama.cpp tells of a prompt that it reads; in a text, the quotes would be escaped.
_PROGRESS = b',"prompt_progress":{'
_FIRST_MEMBER = b'data: {"'
_MODEL = re.compile(rb'"model": ?("(?:[^"\\]|\\.)*")')
_FINGERPRINT = re.compile(rb'"system_fingerprint": ?(null|"(?:[^"\\]|\\.)*")')
_LAST_OF_RESPONSES = (
    b"event: response.completed",
    b"event: response.incomplete",
    b"event: response.failed",
)


class AnswerEvents:
    """The events of one answer: `feed` takes what the engine sends, and returns what the caller gets.

    Args:
        model: what the caller is to read as the model's name.
        fingerprint: what it is to read as `system_fingerprint`.
    """

    __slots__ = (
        "_answers",
        "_has_begun",
        "_inputs",
        "_is_at_work",
        "_is_chat_like",
        "_is_completion",
        "_likelihoods",
        "_places",
        "_replaced",
        "_responses",
        "_template",
        "_unnamed",
        "_wants_usage",
        "_whole",
        "cached",
        "count",
        "error",
        "input",
        "is_complete",
        "output",
    )

    def __init__(self, call: EngineCall, model: str, fingerprint: str) -> None:
        self._answers = call.answers
        self._places = call.places
        self._wants_usage = call.wants_usage
        self._is_chat_like = call.endpoint is not Endpoint.RESPONSES
        self._is_completion = call.endpoint is Endpoint.COMPLETIONS
        self._likelihoods = Likelihoods()
        self._whole = WholeEvents()
        self._responses = None if self._is_chat_like else ResponseEvents(model)
        self._unnamed: dict[re.Pattern[bytes], tuple[bytes, bytes]] = {
            _MODEL: (b'"model":', orjson.dumps(model))
        }
        if self._is_chat_like:
            self._unnamed[_FINGERPRINT] = b'"system_fingerprint":', orjson.dumps(fingerprint)
        # llama.cpp begins the answer to several prompts with this.
        self._replaced: list[tuple[bytes, bytes]] = [(_NOTHING, b"")] if call.places > 1 else []
        self._has_begun = self._is_at_work = False
        self._template: dict[str, Any] = {}
        self.count = 0
        """How many events came in the last piece that say something; about one for each token."""
        self.is_complete = False
        """The last event is here."""
        self.error: tuple[int, bytes] | None = None
        """The error that the answer ended with: the status that it would have had, and its body."""
        self.input = self.cached = self.output = 0
        self._inputs = 0

    @property
    def usage(self) -> Usage:
        """How many tokens the call took, as far as the engine has said it."""
        # Where each answer is told of by itself, the tokens of its prompt come as often as there are answers.
        answers = self._answers if self._inputs == self._places else 1
        return Usage(self.input // answers, self.cached // answers, self.output) if self._inputs else NO_USAGE

    def feed(self, piece: bytes) -> bytes:
        """Return what the caller gets of a piece of the stream, b"" while no event is whole.

        Raises:
            ValueError: when it is no stream of events with JSON.
        """
        piece = self._whole.feed(piece)
        if _PROGRESS in piece:
            piece = b"".join([event + END for event in self._without_progress(piece)])
        count = documents(piece)
        if self._unnamed and count:
            self._learn_names(piece)
        must_read = self._must_read(piece, count)
        self.count = count if self._has_begun or not count else self._begin(piece)
        if must_read:
            piece = self._read(piece)
        for old, new in self._replaced:
            piece = piece.replace(old, new)
        return piece if self._responses is None else self._responses.complete(piece)

    def _without_progress(self, piece: bytes) -> Iterator[bytes]:
        """Yield the events that callers get; of the Responses API, the first one says that work began."""
        for event in split(piece):
            if _PROGRESS not in event:
                yield event
            elif not self._is_chat_like and not self._is_at_work:
                self._is_at_work = True
                document = orjson.loads(data_of(event))
                del document["prompt_progress"]
                yield event.partition(DATA)[0] + DATA + orjson.dumps(document)

    def _begin(self, piece: bytes) -> int:
        """Return how many events say something, until the first does: what comes before is no token."""
        count = sum(self._says_something(event) for event in split(piece))
        self._has_begun = count > 0
        return count

    def _says_something(self, event: bytes) -> bool:
        data = data_of(event)
        if not data.startswith(b"{"):
            return False
        document = orjson.loads(data)
        if not self._is_chat_like:
            return str(document.get("type")).endswith(".delta")
        for choice in document.get("choices") or ():
            delta = choice.get("delta") or {}
            said = any(value for name, value in delta.items() if name != "role")
            if said or choice.get("text") or choice.get("finish_reason"):
                return True
        return False

    def _must_read(self, piece: bytes, count: int) -> bool:
        if not count or _USAGE in piece or _ERROR in piece or piece.endswith(_DONE_EVENT):
            return True
        return self._is_completion and _CHAT_LIKELIHOODS in piece

    def _learn_names(self, piece: bytes) -> None:
        """Find out how the engine writes what is to be replaced; from the first event that has it."""
        for pattern, (member, value) in list(self._unnamed.items()):
            match = pattern.search(piece)
            if match is not None:
                del self._unnamed[pattern]
                # As the engine writes it, and as it is written where an event is read and written again.
                written = {match[0], member + orjson.dumps(orjson.loads(match[1]))} - {member + value}
                self._replaced += [(name, member + value) for name in sorted(written)]
            elif self._is_chat_like and b'"choices"' in piece:
                del self._unnamed[pattern]
                self._replaced.append((_FIRST_MEMBER, b"data: {" + member + value + b',"'))

    def _read(self, piece: bytes) -> bytes:
        """Read events among which is one with the number of tokens, an error, or the end."""
        kept: list[bytes] = []
        for event in split(piece):
            if event == _DONE:
                self.is_complete = True
                kept += [*self._usage_event(), event]
            elif event.startswith(_BARE_ERROR) or _ERROR in event:
                kept.append(self._read_error(event))
            elif _USAGE in event:
                kept += self._read_usage(event)
            elif self._is_completion and _CHAT_LIKELIHOODS in event:
                document = orjson.loads(data_of(event))
                self._likelihoods.rewrite(document)
                kept.append(DATA + orjson.dumps(document))
            else:
                kept.append(event)
        return b"".join([event + END for event in kept])

    def _read_error(self, event: bytes) -> bytes:
        data = event[len("error: ") :] if event.startswith(_BARE_ERROR) else data_of(event)
        document = orjson.loads(data)
        if not isinstance(document.get("error", document), dict) or "choices" in document:
            return event
        if not self._is_chat_like:
            # The Responses API has an event for it, which is passed on as it is.
            self.error = engine_error(200, document.get("response", document))
            self.is_complete = True
            return event
        self.error = engine_error(200, document)
        return DATA + self.error[1]

    def _read_usage(self, event: bytes) -> list[bytes]:
        document = orjson.loads(data_of(event))
        if not self._is_chat_like:
            usage = document.get("response", document).get("usage") or {}
            self._add(usage, "input_tokens", "output_tokens")
            self.is_complete |= any(event.startswith(mark) for mark in _LAST_OF_RESPONSES)
            return [event]
        self._add(document["usage"], "prompt_tokens", "completion_tokens")
        is_alone = not document.get("choices")
        self.count -= is_alone and self.count > 0
        if is_alone and self._places == 1:
            return [event] if self._wants_usage else []
        # OpenAI tells it once, in an event of its own; llama.cpp once for each answer, with its last words.
        self._likelihoods.rewrite(document)
        del document["usage"]
        document.pop("timings", None)
        self._template = {**document, "choices": []}
        return [] if is_alone else [DATA + orjson.dumps(document)]

    def _usage_event(self) -> list[bytes]:
        if not self._template or not self._wants_usage:
            return []
        return [DATA + orjson.dumps({**self._template, "usage": usage_document(self.usage)})]

    def _add(self, usage: Mapping[str, Any], input_name: str, output_name: str) -> None:
        details = usage.get(f"{input_name}_details") or {}
        self._inputs += 1
        self.input += usage.get(input_name) or 0
        self.cached += details.get("cached_tokens") or 0
        self.output += usage.get(output_name) or 0


def usage_document(usage: Usage) -> dict[str, Any]:
    """Return how chats and completions tell the number of tokens."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
