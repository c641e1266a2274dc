"""The calls of the OpenAI API that generate text, checked.

What the engine cannot do is refused, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runtimes.engines.openai_errors import CallError, Unsupported

Message = dict[str, Any]
Tool = dict[str, Any]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class StreamOptions(BaseModel):
    """What a stream has besides its text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class _Call(BaseModel):
    """What both kinds of calls have."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    n: int = Field(1, ge=1, le=64)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    logit_bias: dict[str, float] = {}
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[str], BeforeValidator(_listed), Field(max_length=16)] = []
    ignore_eos: bool = False
    user: str | None = None
    """Who calls; it changes nothing in the answer, as do the four below."""
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class ChatCall(_Call):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] = []
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: str | None = None


class CompletionCall(_Call):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each as text or as tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class ScoreCall(BaseModel):
    """POST /score: how likely the model finds an answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    prompt: str | list[int] | None = None
    messages: list[Message] = []
    tools: list[Tool] = []
    chat_template_kwargs: dict[str, Any] = {}
    answer: str | list[int]


AnyCall = TypeVar("AnyCall", ChatCall, CompletionCall, ScoreCall)


# By name: (the values that ask for nothing, why any other is refused)
_UNSUPPORTED: dict[str, tuple[tuple[object, ...], str]] = {
    "response_format": (
        ({"type": "text"},),
        "this engine (transformers) cannot hold answers to a format; llama.cpp (a GGUF file) and vLLM can",
    ),
    "echo": ((False,), "this engine (transformers) does not repeat the prompt"),
    "suffix": (("",), "this engine (transformers) does not fill in text before a suffix"),
    "best_of": ((1,), "this engine (transformers) does not choose among answers; use n"),
    "functions": (([],), "functions have become tools in the OpenAI API: use tools"),
    "function_call": (
        ("none", "auto"),
        "function calls have become tools in the OpenAI API: use tool_choice",
    ),
    "modalities": ((["text"],), "this engine (transformers) answers in text only"),
    "audio": ((), "this engine (transformers) answers in text only"),
    "prediction": ((), "this engine (transformers) takes no predicted answer"),
    "verbosity": (("medium",), "this engine (transformers) has no setting for verbosity"),
    "web_search_options": ((), "this engine (transformers) searches nothing"),
    "service_tier": (("auto", "default"), "there is one tier of service here"),
}


def read(kind: type[AnyCall], body: bytes) -> AnyCall:
    """Return the call in a body of JSON. Raises CallError, which names what is wrong or not supported."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CallError(f"the body is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CallError("the body must be a JSON object")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, (harmless, reason) in _UNSUPPORTED.items():
        if name in fields and fields.pop(name) not in harmless:
            raise Unsupported(f"{name}: {reason}", name)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> CallError:
    """Return the error for the first fault."""
    fault = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in fault["loc"][:1])
    if fault["type"] == "extra_forbidden":
        return Unsupported(f"{path}: this engine (transformers) does not know this parameter", path)
    place = ".".join(str(part) for part in fault["loc"])
    return CallError(f"{place}: {fault['msg']}", param=path)
