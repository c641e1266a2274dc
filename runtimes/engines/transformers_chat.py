"""Conversations as prompts, by the model's own chat template, and what its answers say besides text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from jinja2 import TemplateError
from transformers.utils.chat_parsing import ResponseParser

from runtimes.engines.openai_answers import Piece, ToolCall
from runtimes.engines.openai_errors import CallError, Unsupported
from runtimes.engines.openai_requests import ChatCall, Message, ScoreCall, Tool

# What the models of the ChatML family write (Hermes, Qwen, SmolLM3), whose tokenizers say nothing of it:
# tool calls as JSON, and what they thought, each between tags.
_TAGGED: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}


_REASONING = ("reasoning_content", "thinking")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model reads it."""

    text: str
    tokens: list[int]


class ChatFormat:
    """The prompts of one model's conversations, and what reads its answers."""

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        """Read the tokenizer's chat template, or take `template` in its place. Raises ValueError."""
        if template is not None:
            tokenizer.chat_template = template
        self._tokenizer = tokenizer
        self._template = _template(tokenizer, [])
        self._tool_template = _template(tokenizer, [{"type": "function", "function": {"name": "f"}}])
        self._responses = self._response_template()
        if self._responses is not None:
            ResponseParser(self._responses, prefix="")

    @property
    def has_template(self) -> bool:
        """Whether the model can be talked to at all."""
        return bool(self._template)

    @property
    def has_tools(self) -> bool:
        """Whether its template knows tools, and its calls of them can be read."""
        has_calls = self._responses is not None and "tool_calls" in self._responses.get("fields", {})
        return has_calls and "tools" in self._tool_template

    def prompt(self, call: ChatCall | ScoreCall) -> Prompt:
        """Return the prompt of a conversation, to the point where the model answers. Raises CallError."""
        if not self.has_template:
            raise Unsupported(
                "the model has no chat template: use /v1/completions, or give the kit a chat template"
            )
        tools = self._tools(call)
        variables = dict(call.chat_template_kwargs)
        if isinstance(call, ChatCall) and call.reasoning_effort is not None:
            if "reasoning_effort" not in self._template:
                raise Unsupported(
                    "reasoning_effort: the model's chat template does not know it", "reasoning_effort"
                )
            variables["reasoning_effort"] = call.reasoning_effort
        for name in ("tokenize", "return_dict", "chat_template", "add_generation_prompt"):
            if name in variables:
                raise CallError(f"chat_template_kwargs: {name} cannot be set", param="chat_template_kwargs")
        messages = [_message(message, place) for place, message in enumerate(call.messages)]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=True, **variables
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise CallError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return Prompt(text, self._tokenizer(text, add_special_tokens=False).input_ids)

    def reader(self, prompt: Prompt, tools: Sequence[Tool]) -> ResponseReader | None:
        """Return what reads the answer to `prompt`; None where all that comes is plain text."""
        if self._responses is None:
            return None
        return ResponseReader(ResponseParser(self._responses, prefix=prompt.text, tools=list(tools) or None))

    def _tools(self, call: ChatCall | ScoreCall) -> list[Tool]:
        """Return the tools that the prompt has. Raises Unsupported where the model cannot be held to them."""
        choice = call.tool_choice if isinstance(call, ChatCall) else None
        if choice not in (None, "none", "auto"):
            raise Unsupported(
                'tool_choice: this engine (transformers) cannot make the model call a tool; use "auto"',
                "tool_choice",
            )
        if not call.tools or choice == "none":
            return []
        if not self.has_tools:
            raise Unsupported("tools: the model's chat template does not know tools", "tools")
        return call.tools

    def _response_template(self) -> dict[str, Any] | None:
        """Return what says how answers are read: the tokenizer's own, or that of its family, or None."""
        own: dict[str, Any] | None = getattr(self._tokenizer, "response_template", None)
        if own is not None:
            return own
        template = self._template + self._tool_template
        is_tagged = "<|im_start|>" in template and ("<tool_call>" in template or "<think>" in template)
        # The calls of Qwen3-Coder and Qwen3.5 are XML within the same tag, and cannot be read so.
        return _TAGGED if is_tagged and "<function=" not in template else None


class ResponseReader:
    """What an answer says, read as it comes: its text, what the model thought, its calls of tools."""

    def __init__(self, parser: Any) -> None:
        # What the template wrote of the answer, such as an opening <think>, is the parser's to know only.
        self._parser = parser
        self._call_count = 0
        self._is_blank = True

    def add(self, text: str) -> Piece:
        """Return what `text` adds. Raises CallError where the model wrote what is no call of a tool."""
        return self._piece(lambda: self._parser.feed(text))

    def end(self, *, is_cut: bool = False) -> Piece:
        """Return what was kept back until the end; of an answer that is cut, no call that is half written."""
        try:
            return self._piece(lambda: self._parser.finalize()[1])
        except CallError:
            if is_cut:
                return Piece()
            raise

    def _piece(self, read: Callable[[], list[dict[str, Any]]]) -> Piece:
        text = reasoning = ""
        calls: list[ToolCall] = []
        try:
            for event in read():
                name = event.get("field")
                if event["type"] == "region_close" and name == "tool_calls":
                    calls += self._calls(event["value"])
                elif event["type"] == "region_chunk" and not event.get("dirty"):
                    added = event.get("text") or ""
                    text += self._content(added) if name == "content" else ""
                    reasoning += added if name in _REASONING else ""
        except (ValueError, KeyError, TypeError) as error:
            raise CallError(f"the model's answer cannot be read: {error!r}", status=500) from error
        return Piece(text, reasoning, tuple(calls))

    def _content(self, added: str) -> str:
        """Return text of the answer, which does not begin with the empty lines after what was thought."""
        if self._is_blank:
            added = added.lstrip("\n")
            self._is_blank = not added
        return added

    def _calls(self, value: Any) -> list[ToolCall]:
        calls = []
        for call in value if isinstance(value, list) else [value]:
            function = call["function"]
            arguments = function.get("arguments", {})
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
            calls.append(ToolCall(self._call_count, str(function["name"]), text))
            self._call_count += 1
        return calls


def _template(tokenizer: Any, tools: list[Tool]) -> str:
    """Return the template for a call with or without tools; "" where there is none."""
    if not tokenizer.chat_template:
        return ""
    template: str = tokenizer.get_chat_template(tools=tools or None)
    return template


def _message(message: Message, place: int) -> Message:
    """Return a message as templates read it: content as text, arguments of tools as objects."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise CallError(f"messages.{place}.role: a message needs a role", param="messages")
    plain = {**message, "content": _text(content, place)}
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        plain["tool_calls"] = [_with_object(call, place) for call in calls]
    return plain


def _text(content: Any, place: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise CallError(f"messages.{place}.content: text, or a list of parts", param="messages")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise Unsupported(
                f"messages.{place}.content: this engine (transformers) reads text only, not {kind!r}",
                "messages",
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _with_object(call: Any, place: int) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError as error:
        raise CallError(
            f"messages.{place}.tool_calls: the arguments are no JSON: {error}", param="messages"
        ) from error
    return {**call, "function": {**function, "arguments": arguments}}
