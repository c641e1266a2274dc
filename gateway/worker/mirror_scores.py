"""How likely a version's engine finds an answer that is given, in turn with its callers' calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from gateway.engine.generation import Turn
from gateway.errors import Overload
from gateway.wire.upstream import Request, UpstreamCall
from gateway.worker.language import LanguageCapability
from runtimes.engines.base import ScoringModel

_PATH = "/score"
_HEADERS = ((b"content-type", b"application/json"),)
_OK = 200
_SECONDS = 60.0
# Of a call, what the prompt is made of.
_PROMPT = ("prompt", "messages", "tools", "chat_template_kwargs")


@dataclass(frozen=True, slots=True)
class Score:
    """The sum of the log-probabilities of an answer's tokens, and how many there are."""

    logprob: float
    tokens: int


Done = Callable[[Score | None], None]
"""Takes a score; None where there is none."""


def score_call(request: bytes, answer: str) -> bytes:
    """Return the call that scores an answer to a call, as the engine got it.

    Raises:
        ValueError: when it has no single prompt.
    """
    call = orjson.loads(request)
    prompt = {name: call[name] for name in _PROMPT if name in call}
    if "messages" not in prompt and not isinstance(prompt.get("prompt"), str):
        raise ValueError("the call has no single prompt")
    return orjson.dumps({**prompt, "answer": answer})


def read_score(status: int, body: bytes) -> Score | None:
    """Return the score in an answer; None where it has none."""
    try:
        document = orjson.loads(body) if status == _OK else {}
        score = Score(float(document["logprob"]), int(document["tokens"]))
    except (ValueError, LookupError, TypeError):
        return None
    return score if score.tokens > 0 and math.isfinite(score.logprob) else None


class Scorer:
    """Has a model's engine score answers."""

    def __init__(self, language: LanguageCapability) -> None:
        self._language = language

    @property
    def is_able(self) -> bool:
        """Whether the engine can."""
        model = self._language.model
        return isinstance(model, ScoringModel) and model.can_score

    @property
    def is_busy(self) -> bool:
        """Whether callers wait for the engine."""
        return bool(self._language.queued)

    def score(self, call: bytes, done: Done) -> Scoring:
        """Have a call scored that `score_call` made, when it is its turn; `done` is called once."""
        scoring = Scoring(self._language, call, done)
        scoring.enter()
        return scoring


class Scoring:
    """One call, see `generation.Call` and `upstream.Receiver`, by which it gets to the engine and back."""

    __slots__ = ("_call", "_done", "_language", "_pieces", "_status", "_turn", "_upstream")

    def __init__(self, language: LanguageCapability, call: bytes, done: Done) -> None:
        self._language = language
        self._call = call
        self._done = done
        self._turn = Turn(len(call), timeout=_SECONDS)
        self._upstream: UpstreamCall | None = None
        self._status = 0
        self._pieces: list[bytes] = []

    def enter(self) -> None:
        """Let the call wait for its turn."""
        self._language.slots.enter(self._turn, self)

    def begin(self) -> None:
        """Have the engine work on the call."""
        request = Request("POST", _PATH, self._call, _HEADERS)
        self._upstream = self._language.upstream.send(request, self)

    def fail(self, _failure: Overload, _retry_after: int) -> None:
        """End without a score: it is too late, or one call too many."""
        self._abort()
        self._done(None)

    def cancel(self) -> None:
        """End a call that nobody waits for any more."""
        self._abort()
        self._language.slots.cancel(self._turn)

    # What the connection to the engine calls.

    def head(self, status: int, _headers: Mapping[bytes, bytes]) -> None:
        """Take the head of the engine's answer."""
        self._status = status

    def piece(self, data: bytes) -> None:
        """Keep a piece of it."""
        self._pieces.append(data)

    def end(self) -> None:
        """Read the score."""
        self._leave(read_score(self._status, b"".join(self._pieces)))

    def failed(self, _reason: str) -> None:
        """End without a score."""
        self._leave(None)

    def _leave(self, score: Score | None) -> None:
        self._upstream = None
        self._language.slots.leave(self._turn)
        self._done(score)

    def _abort(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
