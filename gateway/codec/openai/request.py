"""A call of the OpenAI API, from what a caller sent to what the engine gets.

Members that the engine has are passed byte for byte. What it would ignore in silence is refused here, with
the member's name; what the kit and the config say of generation is filled in where the caller said nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.codec.openai.content import check_input, check_messages, has_system_message, text_size
from gateway.codec.openai.document import Document
from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.members import DROPPED, NEEDED, ONLY_AS, PASSED, REFUSED, Endpoint, Engine
from gateway.codec.openai.schemas import check_schemas
from gateway.serving import NO_GENERATION, Generation

_MOST_STOP_WORDS = 32
_MOST_BIASES = 1_000
# As OpenAI has it; an engine sorts the vocabulary for them, and writes them, for each token.
_MOST_LOGPROBS = 20
# No token of the vocabularies that there are has more, and a text that cannot fit is long in the reading.
_MOST_CHARACTERS_PER_TOKEN = 256
_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_REPETITION = ("repeat_penalty", "repetition_penalty")
_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", *_REPETITION)
_INTEGERS = ("seed", "top_k", "top_logprobs")


@dataclass(frozen=True, slots=True)
class EngineCall:
    """A call as the engine gets it, and how its caller wants the answer."""

    endpoint: Endpoint
    body: bytes
    model: str
    """The name that the caller used, "" where there was none."""
    is_streamed: bool = False
    """Whether the caller wants the answer as a stream; the engine always streams what it generates."""
    wants_usage: bool = False
    """Whether the caller wants an event with the number of tokens at the end of a stream."""
    answers: int = 1
    """How many answers are made of each prompt."""
    places: int = 1
    """How many slots it takes."""


def read_call(
    endpoint: Endpoint,
    body: Sequence[bytes | memoryview] | bytes,
    engine: Engine,
    generation: Generation = NO_GENERATION,
) -> EngineCall:
    """Read, check and rewrite a call. Raises RefusedCall."""
    document = Document(body)
    _check_members(document, endpoint)
    model = document.get("model")
    document.set("model", engine.alias)
    if not endpoint.is_generating:
        if engine.is_llama:
            _check_unheard(document)
        return EngineCall(endpoint, document.dump(), model or "", places=_inputs(document))
    is_streamed, wants_usage = _read_stream(document, endpoint)
    _check_tools(document, engine)
    if endpoint is Endpoint.CHAT:
        check_messages(document.get("messages"), engine.has_images)
    elif endpoint is Endpoint.RESPONSES:
        check_input(document.get("input"), engine.has_images)
        _read_text(document, engine)
    if engine.is_llama:
        name = "text.format" if endpoint is Endpoint.RESPONSES else "response_format"
        check_schemas(document.get("response_format"), document.get("tools"), name)
        # It finds that nobody waits when it sends something: so it tells of each batch of the prompt.
        document.set("return_progress", True)
    _check_size(document, endpoint, engine)
    answers = _read_answers(document, engine)
    _fill_in(document, endpoint, generation, engine)
    _limit_tokens(document, engine)
    places = answers * (_prompts(document.get("prompt")) if endpoint is Endpoint.COMPLETIONS else 1)
    return EngineCall(endpoint, document.dump(), model or "", is_streamed, wants_usage, answers, places)


def _check_members(document: Document, endpoint: Endpoint) -> None:
    """Drop the members that say nothing, and refuse those that nobody here understands."""
    passed = PASSED[endpoint]
    for name in document:
        value = document.get(name)
        if name == "model":
            _require(isinstance(value, str | None), name, "must be a string")
        elif value is None or name in DROPPED:
            document.remove(name)
        elif name in passed:
            _check_type(name, value)
        elif name in ONLY_AS:
            if value not in ONLY_AS[name] or isinstance(value, bool) != isinstance(ONLY_AS[name][0], bool):
                meaning = " or ".join(json.dumps(each) for each in ONLY_AS[name])
                raise RefusedCall(f"{name} can only be {meaning} here", name, "unsupported_parameter")
            document.remove(name)
        elif name in REFUSED:
            raise RefusedCall(f"{name} is not served: {REFUSED[name]}", name, "unsupported_parameter")
        else:
            raise RefusedCall(f"unknown member {name!r} of a call of {endpoint}", name, "unknown_parameter")
    needed = NEEDED[endpoint]
    _require(needed in document, needed, "is missing")


def _check_unheard(document: Document) -> None:
    """Refuse what llama.cpp's server would pass over."""
    if "dimensions" in document:
        reason = "llama.cpp makes embeddings of one length only"
        raise RefusedCall(f"dimensions is not served: {reason}", "dimensions", "unsupported_parameter")
    if document.get("return_documents"):
        reason = "llama.cpp returns indices only"
        raise RefusedCall(
            f"return_documents is not served: {reason}", "return_documents", "unsupported_parameter"
        )


def _check_type(name: str, value: Any) -> None:
    if name in _NUMBERS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(is_number, name, "must be a number")
    elif name in _INTEGERS:
        _require(_is_integer(value), name, "must be an integer")
        _require(
            name != "top_logprobs" or 0 <= value <= _MOST_LOGPROBS, name, f"must be 0 to {_MOST_LOGPROBS}"
        )
    elif name == "logprobs":
        is_flag = isinstance(value, bool)
        is_count = not is_flag and _is_integer(value) and 0 <= value <= _MOST_LOGPROBS
        _require(is_flag or is_count, name, f"must be true, false, or a number of 0 to {_MOST_LOGPROBS}")
    elif name == "stop":
        words = [value] if isinstance(value, str) else value
        is_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
        _require(is_words, name, "must be a string or a list of strings")
        _require(len(words) <= _MOST_STOP_WORDS, name, f"must have at most {_MOST_STOP_WORDS} words")
    elif name in ("stream", "parallel_tool_calls"):
        _require(isinstance(value, bool), name, "must be true or false")
    elif name in ("stream_options", "response_format", "text", "logit_bias", "chat_template_kwargs"):
        _require(isinstance(value, dict), name, "must be an object")
        is_short = name != "logit_bias" or len(value) <= _MOST_BIASES
        _require(is_short, name, f"must have at most {_MOST_BIASES} members")
    elif name in ("tools", "documents"):
        _require(isinstance(value, list), name, "must be a list")
    elif name == "prompt":
        _require(_prompts(value) > 0, name, "must be a string, tokens, or a list of those, and not empty")
    elif name in ("instructions", "query"):
        _require(isinstance(value, str), name, "must be a string")


def _read_stream(document: Document, endpoint: Endpoint) -> tuple[bool, bool]:
    """Have the engine stream; return whether the caller wants that, and an event with its usage."""
    is_streamed = bool(document.get("stream"))
    options: Mapping[str, Any] = document.get("stream_options") or {}
    _require(is_streamed or not options, "stream_options", "is for streams: set stream to true")
    wants_usage = options.get("include_usage", False)
    _require(isinstance(wants_usage, bool), "stream_options", "include_usage must be true or false")
    for name in options:
        # Obfuscation pads events against who watches the network; there is none here.
        if name not in ("include_usage", "include_obfuscation"):
            raise RefusedCall(f"unknown member {name!r} of stream_options", f"stream_options.{name}")
    document.set("stream", True)
    if endpoint is Endpoint.RESPONSES:
        document.remove("stream_options")
    else:
        document.set("stream_options", {"include_usage": True})
    return is_streamed, wants_usage


def _read_text(document: Document, engine: Engine) -> None:
    """Say to llama.cpp as chats do in which form the answer is to be: there it has no ear for `text`."""
    text = document.get("text") or {}
    for name in text:
        if name not in ("format", "verbosity"):
            raise RefusedCall(f"unknown member {name!r} of text", f"text.{name}", "unknown_parameter")
    verbosity = text.get("verbosity", "medium")
    _require(verbosity in (None, "medium"), "text.verbosity", 'can only be "medium" here')
    form = text.get("format")
    _require(form is None or isinstance(form, dict), "text.format", "must be an object")
    if not engine.is_llama or not text:
        return
    document.remove("text")
    if form and form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        form = {"type": "json_schema", "json_schema": schema}
    if form:
        document.set("response_format", form)


def _check_tools(document: Document, engine: Engine) -> None:
    """Refuse tools that the model would never hear of."""
    tools, choice = document.get("tools"), document.get("tool_choice")
    if choice is not None and choice not in ("none", "auto", "required") and not isinstance(choice, dict):
        raise RefusedCall("tool_choice must be none, auto, required, or name a function", "tool_choice")
    is_forced = choice is not None and choice not in ("none", "auto")
    if not engine.has_tools and (tools or is_forced):
        member = "tools" if tools else "tool_choice"
        reason = "the chat template of this model knows no tools"
        raise RefusedCall(f"{member} is not served: {reason}", member, "unsupported_parameter")
    _require(not is_forced or bool(tools), "tool_choice", "asks for a tool, and there are no tools")
    for tool in tools or ():
        kind = tool.get("type") if isinstance(tool, dict) else None
        _require(kind == "function", "tools", f"can only be functions here, not {kind!r}")


def _read_answers(document: Document, engine: Engine) -> int:
    """Return how many answers are to be made."""
    answers = document.get("n")
    if answers is None:
        return 1
    _require(_is_integer(answers) and answers > 0, "n", "must be an integer of at least 1")
    most = engine.slots
    _require(answers <= most, "n", f"can be at most {most}, the calls that run at a time in one worker")
    return int(answers)


def _fill_in(document: Document, endpoint: Endpoint, generation: Generation, engine: Engine) -> None:
    """Add what the kit and the config say of generation, where the call does not say it."""
    has_limit = any(name in document for name in _TOKEN_LIMITS)
    has_repetition = any(name in document for name in _REPETITION)
    for name, value in generation.sampling:
        if name in _TOKEN_LIMITS:
            if not has_limit:
                document.set("max_output_tokens" if endpoint is Endpoint.RESPONSES else "max_tokens", value)
        elif name in _REPETITION:
            if not has_repetition:
                document.set(name, value)
        elif name not in document:
            document.set(name, value)
    for name in _REPETITION:
        if name in document and name != engine.repetition:
            document.set_raw(engine.repetition, document.get(name), document.raw(name))
            document.remove(name)
    if generation.stop:
        words = document.get("stop") or []
        words = [words] if isinstance(words, str) else words
        words = [*words, *(word for word in generation.stop if word not in words)]
        document.set_raw("stop", words, json.dumps(words))
    if generation.system_prompt and endpoint is not Endpoint.COMPLETIONS:
        _put_first(document, endpoint, generation.system_prompt)


def _put_first(document: Document, endpoint: Endpoint, prompt: str) -> None:
    """Begin a conversation that has no system message with one."""
    if endpoint is Endpoint.CHAT:
        messages = document.get("messages")
        if not has_system_message(messages):
            message = {"role": "system", "content": prompt}
            raw = document.raw("messages")
            document.set_raw("messages", [message, *messages], f"[{json.dumps(message)},{raw[1:]}")
        return
    if "instructions" not in document and not has_system_message(document.get("input")):
        document.set("instructions", prompt)


def _limit_tokens(document: Document, engine: Engine) -> None:
    """Check how long the answer may be; no engine can make it longer than its context."""
    for name in _TOKEN_LIMITS:
        limit = document.get(name)
        if limit is None:
            continue
        _require(_is_integer(limit) and limit > 0, name, "must be an integer of at least 1")
        if engine.context and limit > engine.context:
            document.set(name, engine.context)


def _check_size(document: Document, endpoint: Endpoint, engine: Engine) -> None:
    """Refuse texts that cannot fit: the engine would read all of them first."""
    value = document.get(NEEDED[endpoint])
    has_prompts = endpoint is Endpoint.COMPLETIONS and isinstance(value, list)
    size = max(map(text_size, value)) if has_prompts else text_size(value)
    if engine.context and size > engine.context * _MOST_CHARACTERS_PER_TOKEN:
        raise RefusedCall(
            f"the text has {size:,} characters, more than {engine.context:,} tokens can have, which is the "
            "context of this model",
            NEEDED[endpoint],
            "context_length_exceeded",
        )


def _prompts(value: Any) -> int:
    """Return how many prompts there are, 0 where it is no prompt."""
    if isinstance(value, str):
        return 1
    if not isinstance(value, list) or not value:
        return 0
    if all(_is_integer(each) for each in value):
        return 1
    is_list = all(
        isinstance(each, str) or (isinstance(each, list) and each and all(map(_is_integer, each)))
        for each in value
    )
    return len(value) if is_list else 0


def _inputs(document: Document) -> int:
    """Return how many texts are to be computed, each of which takes a slot."""
    value = document.get("documents") if "documents" in document else document.get("input")
    return max(1, len(value)) if isinstance(value, list) and not all(map(_is_integer, value)) else 1


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(is_right: bool, name: str, rule: str) -> None:
    if not is_right:
        raise RefusedCall(f"{name} {rule}", name)
