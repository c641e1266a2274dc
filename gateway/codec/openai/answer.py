"""What a language model answered, told apart from how it was sent: in one piece or as a stream of events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens a call took."""

    input: int = 0
    """Of its prompt, the cached ones included."""
    cached: int = 0
    """Of its prompt: those whose work the engine had kept."""
    output: int = 0


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that an answer asks its caller to call."""

    name: str
    arguments: str
    """JSON, as the model wrote it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a call; there are several where `n` is more than 1, or of several prompts."""

    text: str
    finish_reason: str = ""
    """`stop`, `length`, `tool_calls`, …; "" where the engine gave none."""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    """What the model thought first, where its template keeps that apart."""


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A call that a language model answered, and its answer; durations in seconds."""

    path: str
    """Of the OpenAI API, such as `/v1/chat/completions`."""
    role: str
    """Of the version that answered: `stable`, `canary`, `mirror` for a call that is only compared, or ""."""
    asked: bytes
    """The call's body as its caller sent it, which any other version can be asked as well."""
    request: bytes
    """The body as the engine got it: with the defaults of the kit and the config, and streamed."""
    status: int
    """HTTP's; any but 200 came with an error in place of choices."""
    choices: tuple[Choice, ...] = ()
    """In the order of their index."""
    usage: Usage = NO_USAGE
    first_seconds: float = 0.0
    """From the call's arrival to the first token; 0 where there was none."""
    seconds: float = 0.0
    """From the call's arrival to the end of its answer."""
