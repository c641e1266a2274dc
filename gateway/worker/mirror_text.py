"""The stable version's half of mirroring text: a share of the answered calls goes to the canary as well.

The canary answers as it answers any caller, with its own prompts and defaults, so what it gets is what the
caller sent. Its answers come back here (see `mirrored_text`), and are compared here: only counts of their
faults are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.codec.openai.answer import Choice, GeneratedAnswer
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.whole import choices_of
from gateway.codec.statuses import STATUSES
from gateway.contract import Mirroring
from gateway.errors import DeadlineExceeded, QueueFull
from gateway.metrics.counts import MIRRORED
from gateway.metrics.evidence import PairSeconds
from gateway.metrics.pairs import Losses
from gateway.rollout.answers import Answer, ToolCall, Wishes, compare_answers, is_worse, read_wishes
from gateway.tracing.call_trace import CallTrace
from gateway.wire.exchange import lines
from gateway.worker.mirror_scores import Score, Scorer, read_score, score_call
from gateway.worker.mirror_sender import MIRROR_PATH, Copy, MirrorSender
from gateway.worker.version import ServedVersion

SCORE_PATH = MIRROR_PATH + "/score"
"""Where the canary scores an answer of the stable version's."""

_TIMEOUT_SECONDS = 600.0
_HEADERS = b"content-type: application/json\r\n"
_OK, _ERROR = 200, 500
# A full queue and a deadline say nothing about the model; nor does a worker that has no such path.
_BUSY = (STATUSES[QueueFull], STATUSES[DeadlineExceeded])
_NOWHERE = (403, 404, 405)


class TextMirror:
    """Sends a share of calls to the canary's workers until it is stopped. `offer` is for the loop alone."""

    def __init__(self, mirroring: Mirroring, version: ServedVersion, scorer: Scorer) -> None:
        self.mirroring = mirroring
        self._scorer = scorer
        self._tally = version.tally
        options = version.options
        self._sender = MirrorSender(
            mirroring, version.tally, options.edge_key.encode(), _TIMEOUT_SECONDS, options.tls
        )

    def offer(self, answer: GeneratedAnswer, trace: CallTrace | None = None) -> None:
        """Copy an answered call to the queue, if chance picks it and there is room.

        What a caller did wrong, or what came of too many calls, says nothing of a version.
        """
        is_telling = answer.status == _OK or (answer.status >= _ERROR and answer.status not in _BUSY)
        if answer.role == MIRRORED or not is_telling or not self._sender.is_picked():
            return
        if not self._sender.has_room(len(answer.asked) + len(answer.request)):
            return
        call = orjson.loads(answer.asked)
        call["stream"] = False
        call.pop("stream_options", None)
        body = orjson.dumps(call)
        headers = _HEADERS if trace is None else _HEADERS + lines(trace.headers)
        self.send(MIRROR_PATH + answer.path, body, len(answer.request), _Pair(self, answer).answered, headers)

    def send(
        self,
        path: str,
        body: bytes,
        held: int,
        answered: Callable[[int, bytes, float], str],
        headers: bytes = _HEADERS,
    ) -> None:
        """Send a call to the canary once it is its turn; `held` are the bytes that are kept besides."""
        copy = Copy(path, headers, [body], len(body) + held, answered)
        self._sender.send(copy, asyncio.get_running_loop())

    def compare(
        self, stable: GeneratedAnswer, canary: Answer | None, wishes: Wishes, canary_seconds: float
    ) -> None:
        """Count a pair of answers."""
        ratio = self.mirroring.answers.max_length_ratio
        pairs = compare_answers(_answer(stable), canary, wishes, ratio)
        seconds = None
        if stable.status == _OK:
            seconds = PairSeconds(stable.seconds, None if canary is None else canary_seconds)
        self._tally.compared_answers(pairs, is_worse(pairs), failed=canary is None, seconds=seconds)

    def score(self, stable: GeneratedAnswer) -> None:
        """Have both versions score an answer of the stable one, where there is a limit; callers go first."""
        choice = next(iter(stable.choices), None)
        if self.mirroring.answers.max_loss is None or not self._scorer.is_able or self._scorer.is_busy:
            return
        if choice is None or not choice.text or choice.tool_calls or not self._sender.has_room(0):
            return
        call = {"path": stable.path, "call": orjson.loads(stable.asked), "answer": choice.text}
        scored = _Scores(self, self._scorer, stable.request, choice.text).scored
        self.send(SCORE_PATH, orjson.dumps(call), len(stable.request), scored)

    def count_loss(self, stable: Score | None, canary: Score) -> None:
        """Count two scores of an answer; other tokens cannot be compared."""
        if stable is not None and stable.tokens == canary.tokens:
            self._tally.scored(Losses.of((stable.logprob - canary.logprob) / stable.tokens))

    def stop(self) -> None:
        """Send no more, and close the connection soon; may be called from any thread."""
        self._sender.stop()


class _Pair:
    """A call that the stable version answered, while the canary does."""

    __slots__ = ("_mirror", "_stable")

    def __init__(self, mirror: TextMirror, stable: GeneratedAnswer) -> None:
        self._mirror = mirror
        self._stable = stable

    def answered(self, status: int, body: bytes, seconds: float) -> str:
        """Compare the answers; return why they cannot be compared, see `Copy`."""
        if status in (*_BUSY, *_NOWHERE):
            return f"it answers with {status}: {body[:64]!r}"
        canary = None
        if status == _OK:
            try:
                canary = read_generated(self._stable.path, orjson.loads(body))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                return f"its answer cannot be read: {error!r}"
        # With the defaults of the kit: they may ask for a form, or leave nothing to chance.
        self._mirror.compare(self._stable, canary, read_wishes(orjson.loads(self._stable.request)), seconds)
        if canary is not None and self._stable.status == _OK:
            self._mirror.score(self._stable)
        return ""


class _Scores:
    """An answer of the stable version's, while both versions score it."""

    __slots__ = ("_mirror", "_request", "_scorer", "_text")

    def __init__(self, mirror: TextMirror, scorer: Scorer, request: bytes, text: str) -> None:
        self._mirror = mirror
        self._scorer = scorer
        self._request = request
        self._text = text

    def scored(self, status: int, body: bytes, _seconds: float) -> str:
        """Go on with the canary's score; return why there is none, see `Copy`.

        An engine that cannot score an answer, or not this one, is no reason to count anything.
        """
        if status in _BUSY:
            return f"it answers with {status}: {body[:64]!r}"
        canary = read_score(status, body)
        if canary is None or self._scorer.is_busy:
            return ""
        try:
            call = score_call(self._request, self._text)
        except ValueError:
            return ""
        self._scorer.score(call, lambda stable: self._mirror.count_loss(stable, canary))
        return ""


def _answer(generated: GeneratedAnswer) -> Answer | None:
    """Return what is compared of an answer; None is an error."""
    return _first(generated.choices, generated.usage.output) if generated.status == _OK else None


def read_generated(path: str, document: Mapping[str, Any]) -> Answer:
    """Return what is compared of an answer of the OpenAI API."""
    usage = document.get("usage") or {}
    tokens = usage.get("completion_tokens") or usage.get("output_tokens") or 0
    return _first(choices_of(Endpoint(path), document), tokens)


def _first(choices: tuple[Choice, ...], tokens: int) -> Answer:
    if not choices:
        return Answer("", "", tokens)
    calls = tuple(ToolCall(call.name, call.arguments) for call in choices[0].tool_calls)
    return Answer(choices[0].text, choices[0].finish_reason, tokens, calls)
