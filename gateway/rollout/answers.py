"""What can be wrong with an answer of a language model, whatever it says.

Two versions need not say the same, so an answer is not compared with the other one's words. Each kind of
fault is either there or not in each of the two answers to a call. `pair_checks` judges how often the canary's
alone has it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from gateway.metrics.pairs import AnswerPairs, FaultyAnswers
from gateway.rollout.json_schema import is_valid

TAIL_BYTES = 2000
"""A model that repeats itself does so until its answer ends."""
MAX_REPETITION = 8.0
"""How many times zlib may shorten the tail of an answer.

Prose in English is shortened 2 to 3 times, source code 2 to 5 times, lists and tables in JSON or HTML 4 to 8
times; a sentence of 40 letters that comes again and again 30 times, a paragraph of 110 letters 17 times,
one of 290 letters 10 times. `tests/unit/rollout/test_answers.py` has examples.
"""
MIN_UNITS = 8
"""An answer that is one text again and again, so many times at least, repeats itself however short it is.

zlib needs some hundred letters to tell, and a model with damaged weights may be asked for fewer: 66666666.
"""
_LEVEL = 6
_LENGTH_REACHED = "length"


class Fault(StrEnum):
    """A kind of fault; the value is its name in a config, in a status and among what is counted."""

    ERROR = "mirrored_error"
    CUT_OFF = "cut_off"
    EMPTY = "empty"
    REPETITION = "repetition"
    INVALID = "invalid"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"


SHAPES = (Fault.TOOL_CALLS, Fault.LENGTH)
"""What is no fault in itself: that an answer calls a function, or is much longer than the other one."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function that an answer asks for; `arguments` is JSON, as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The first choice of a generated answer."""

    text: str
    finish_reason: str
    """`stop`, `length`, `tool_calls`, … by the OpenAI API; "" where the engine gives none."""
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a call asks of the form of its answer."""

    is_json: bool = False
    schema: Any = True
    """The JSON Schema of the text; True asks for nothing."""
    tools: Mapping[str, Any] = field(default_factory=dict)
    """The functions that may be called, with the schema of their arguments."""
    must_call: bool = False
    is_greedy: bool = False
    """Whether chance has no part in the answer."""

    @property
    def has_form(self) -> bool:
        """Whether an answer can have another form than was asked for."""
        return self.is_json or bool(self.tools)


def read_wishes(call: Mapping[str, Any]) -> Wishes:
    """Read a call of the OpenAI API: `/v1/chat/completions`, `/v1/completions` or `/v1/responses`."""
    # Of `/v1/responses`, the format is in `text`, with the schema beside its type.
    form = _object(call.get("response_format") or _object(call.get("text")).get("format"))
    kind = form.get("type")
    schema = _object(form.get("json_schema") or form).get("schema", True)
    choice = call.get("tool_choice")
    return Wishes(
        is_json=kind in ("json_object", "json_schema"),
        schema=schema if kind == "json_schema" else True,
        tools={} if choice == "none" else dict(filter(None, map(_tool, _list(call.get("tools"))))),
        must_call=choice == "required" or isinstance(choice, dict),
        is_greedy=call.get("temperature") == 0 and call.get("n", 1) == 1,
    )


def compare_answers(
    stable: Answer | None, canary: Answer | None, wishes: Wishes, max_length_ratio: float
) -> AnswerPairs:
    """Return what is to be counted of the two answers to one call; None is an error in place of an answer."""
    faults = {Fault.ERROR.value: _paired(canary is None, stable is None)}
    if stable is None or canary is None:
        return AnswerPairs(1, faults)
    for fault, has_fault in _FAULTS.items():
        faults[fault.value] = _paired(has_fault(canary, wishes), has_fault(stable, wishes))
    if wishes.has_form:
        faults[Fault.INVALID.value] = _paired(is_invalid(canary, wishes), is_invalid(stable, wishes))
    if wishes.tools:
        faults[Fault.TOOL_CALLS.value] = _paired(bool(canary.tool_calls), bool(stable.tool_calls))
    # Counted for each version is that its answer is the much longer one.
    if stable.tokens and canary.tokens:
        ratio = canary.tokens / stable.tokens
        faults[Fault.LENGTH.value] = _paired(ratio > max_length_ratio, ratio < 1 / max_length_ratio)
    is_same = (stable.text, stable.tool_calls) == (canary.text, canary.tool_calls)
    return AnswerPairs(1, faults, int(wishes.is_greedy), int(wishes.is_greedy and is_same))


def is_worse(pairs: AnswerPairs) -> bool:
    """Tell whether the canary's answer alone has a fault in any of the pairs; another shape is none."""
    return any(counts.canary for name, counts in pairs.faults.items() if name not in SHAPES)


def repetition(text: str) -> float:
    """Return how many times zlib shortens the tail of a text: the more, the more it repeats itself."""
    tail = text.encode("utf-8", "replace")[-TAIL_BYTES:]
    return len(tail) / len(zlib.compress(tail, _LEVEL)) if tail else 1.0


def is_repetitive(text: str) -> bool:
    """Tell whether a text repeats itself."""
    return repetition(text) > MAX_REPETITION or _is_one_unit(text.strip()[-TAIL_BYTES:])


def _is_one_unit(text: str) -> bool:
    """Tell whether a text is one unit at least `MIN_UNITS` times; the last one may be cut off."""
    longest = len(text) // MIN_UNITS
    return any(text.startswith(text[unit:]) for unit in range(1, longest + 1))


def is_invalid(answer: Answer, wishes: Wishes) -> bool:
    """Tell whether an answer has not the form that was asked for."""
    if answer.tool_calls:
        return not all(_is_valid_call(call, wishes.tools) for call in answer.tool_calls)
    if wishes.must_call:
        return True
    if not wishes.is_json:
        return False
    try:
        value = orjson.loads(answer.text)
    except orjson.JSONDecodeError:
        return True
    return not is_valid(value, wishes.schema)


def _is_valid_call(call: ToolCall, tools: Mapping[str, Any]) -> bool:
    if call.name not in tools:
        return False
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return False
    return isinstance(arguments, dict) and is_valid(arguments, tools[call.name])


_FAULTS: Mapping[Fault, Callable[[Answer, Wishes], bool]] = {
    Fault.CUT_OFF: lambda answer, _: answer.finish_reason == _LENGTH_REACHED,
    Fault.EMPTY: lambda answer, _: not answer.text.strip() and not answer.tool_calls,
    Fault.REPETITION: lambda answer, _: is_repetitive(answer.text),
}


def _paired(is_canary: bool, is_stable: bool) -> FaultyAnswers:
    return FaultyAnswers(
        1, int(is_canary and not is_stable), int(is_stable and not is_canary), int(is_canary and is_stable)
    )


def _tool(tool: Any) -> tuple[str, Any] | None:
    """Return a function's name and the schema of its arguments; in `/v1/responses` the tool has both."""
    function = _object(_object(tool).get("function") or tool)
    name = function.get("name")
    return (name, function.get("parameters", True)) if isinstance(name, str) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
