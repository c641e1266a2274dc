"""The rows of a golden dataset of a language model: how they are read, sent to a canary's worker, and scored.

Each line of the JSONL file has a `prompt`, the text of one user message, or `messages` as the OpenAI API has
them, and what is expected of the answer. All that is given must hold:

- `exact`: the answer, apart from white space around it;
- `contains`: a text, or a list of texts, that are in it;
- `regex`: a pattern that matches somewhere in it, in the syntax of Rust's regex crate (no look-around, no
  backreferences), whose time grows with the answer's length only;
- `json`: a value that the answer, read as JSON, has. An object may have further members, at any depth.

`max_tokens` and `response_format` go with the call, which is made at temperature 0.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import orjson
from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from gateway.engine.golden_rows import MAX_ROWS, Score
from gateway.errors import KitError
from gateway.foreign_text import foreign_text
from gateway.kits.datasets import Dataset
from gateway.wire.headers import EDGE_HEADER
from gateway.wire.worker_tls import worker_connection

CHAT_PATH = "/v1/chat/completions"

_MAX_TOKENS = 512
_SECONDS = 600.0
_MAX_PATTERN = 1000
_FENCE = "```"
_MEMBERS = frozenset({"prompt", "messages", "max_tokens", "response_format"})


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row: the call's body, and what is expected of its answer by the words of the module."""

    call: Mapping[str, Any]
    expected: Mapping[str, Any]


def has_prompts(dataset: Dataset) -> bool:
    """Tell whether the rows of a dataset are prompts, not tensors, by the first of them."""
    if not dataset.path.endswith(".jsonl"):
        return False
    first = next(filter(None, map(bytes.strip, dataset.data.removeprefix(b"\xef\xbb\xbf").splitlines())), b"")
    try:
        row = orjson.loads(first)
    except orjson.JSONDecodeError:
        return False
    return isinstance(row, dict) and ("prompt" in row or "messages" in row)


def read_prompts(dataset: Dataset) -> list[PromptRow]:
    """Read a dataset's rows.

    Raises:
        KitError: when they are not as the module says.
    """
    rows = []
    for number, line in enumerate(dataset.data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(orjson.loads(line)))
        except (ValueError, TypeError) as error:
            raise KitError(f"dataset {dataset.path} cannot be used: line {number}: {error}") from error
        if len(rows) > MAX_ROWS:
            raise KitError(f"dataset {dataset.path} has more than {MAX_ROWS} rows; a golden one is small")
    if not rows:
        raise KitError(f"dataset {dataset.path} has no rows")
    return rows


def _row(row: Any) -> PromptRow:
    if not isinstance(row, dict):
        raise TypeError("it is no object")
    unknown = [name for name in row if name not in _MEMBERS and name not in _CHECKS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is unknown; a row has {', '.join([*sorted(_MEMBERS), *_CHECKS])}")
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(prompt, str) and messages is None:
        messages = [{"role": "user", "content": prompt}]
    elif prompt is not None or not isinstance(messages, list) or not messages:
        raise ValueError(
            "it must have either a `prompt`, which is text, or `messages`, a list with something in it"
        )
    max_tokens = row.get("max_tokens", _MAX_TOKENS)
    if type(max_tokens) is not int or max_tokens < 1:
        raise ValueError("`max_tokens` must be a whole number above 0")
    call = {"messages": messages, "temperature": 0, "max_tokens": max_tokens}
    if "response_format" in row:
        call["response_format"] = row["response_format"]
    expected = {name: row[name] for name in _CHECKS if name in row}
    if not expected:
        raise ValueError(f"it says nothing of what is expected: {', '.join(_CHECKS)}")
    for name in ("exact", "regex"):
        if not isinstance(expected.get(name, ""), str):
            raise TypeError(f"`{name}` must be text")
    if not all(isinstance(text, str) for text in _texts(expected.get("contains", ""))):
        raise ValueError("`contains` must be text, or a list of texts")
    if "regex" in expected:
        _pattern(expected["regex"])
    return PromptRow(call, expected)


def score_prompts(
    rows: Sequence[PromptRow],
    model: str,
    address: tuple[str, int],
    key: str,
    tls: ssl.SSLContext | None = None,
) -> Score:
    """Send all rows to the worker at `address`, one by one; `key` is the edge's.

    With `tls`, it is called over TLS, see `worker_connection`.

    Raises:
        KitError: when the worker refuses a row.
        OSError: when the worker does not answer; it may do so later.
    """
    right = 0
    connection = worker_connection(address, _SECONDS, tls)
    try:
        for number, row in enumerate(rows, 1):
            body = orjson.dumps({"model": model, **row.call})
            headers = {EDGE_HEADER: key, "Content-Type": "application/json"}
            connection.request("POST", CHAT_PATH, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != http.HTTPStatus.OK:
                reason = foreign_text(text.decode(errors="replace"))
                raise KitError(f"row {number} is answered with {answer.status}: {reason}")
            right += is_expected(_content(text, number), row.expected)
    except http.client.HTTPException as error:
        raise OSError(f"the worker's answer broke off: {error}") from error
    finally:
        connection.close()
    return Score(right, len(rows))


def _content(answer: bytes, number: int) -> str:
    """Return the text of an answer; "" where it calls functions in place of saying something."""
    try:
        content = orjson.loads(answer)["choices"][0]["message"].get("content")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise KitError(
            f"row {number} is answered with what is no chat completion: {answer[:200]!r}"
        ) from error
    return content if isinstance(content, str) else ""


def is_expected(answer: str, expected: Mapping[str, Any]) -> bool:
    """Tell whether an answer has all that is expected of it."""
    return all(_CHECKS[name](answer, value) for name, value in expected.items())


def _matches(answer: str, pattern: str) -> bool:
    try:
        _pattern(pattern).validate_python(answer)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=64)
def _pattern(pattern: str) -> TypeAdapter[str]:
    """Compile a pattern; it is Rust's, as Python's own could search for ever. Raises ValueError."""
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"`regex` is longer than {_MAX_PATTERN} characters")
    try:
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"`regex` {pattern!r} cannot be used: {reason.removeprefix('error: ')}") from error


def _has_value(answer: str, expected: Any) -> bool:
    """Tell whether an answer is JSON with the expected value, maybe within a fence of Markdown."""
    text = answer.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        text = text.removesuffix(_FENCE).partition("\n")[2]
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return _holds(value, expected)


def _holds(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(value, dict) and all(
            name in value and _holds(value[name], member) for name, member in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(_holds, value, expected))
    return isinstance(value, bool) == isinstance(expected, bool) and bool(value == expected)


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


_CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "exact": lambda answer, expected: answer.strip() == expected.strip(),
    "contains": lambda answer, expected: all(text in answer for text in _texts(expected)),
    "regex": _matches,
    "json": _has_value,
}
