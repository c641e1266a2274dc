"""What a user writes about a language model: how its engine is started, and what calls on it lack."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from gateway.config.kits import Strict
from gateway.serving import (
    ENGINE_BOUNDS,
    MAX_PROMPT,
    MAX_STOP_LENGTH,
    MAX_STOP_WORDS,
    SAMPLING_BOUNDS,
    is_template,
)
from gateway.serving import Engine as EngineValue
from gateway.serving import Generation as GenerationValue
from runtimes.engines.task import Task


def _text(longest: int) -> AfterValidator:
    """Return the check that a text is not empty, and not too long."""

    def check(value: str) -> str:
        if not 0 < len(value) <= longest:
            raise ValueError(f"must have 1 to {longest:,} characters, not {len(value):,}")
        return value

    return AfterValidator(check)


_Text = Annotated[str, _text(MAX_PROMPT)]
_StopWord = Annotated[str, _text(MAX_STOP_LENGTH)]


def _within(name: str) -> Any:
    """Return the bounds of a number as pydantic reads them."""
    bounds = ENGINE_BOUNDS.get(name) or SAMPLING_BOUNDS[name]
    if bounds.is_whole:
        return Field(ge=int(bounds.minimum), le=int(bounds.maximum))
    return Field(ge=bounds.minimum, le=bounds.maximum)


class Engine(Strict):
    """How the engine of a language model is started.

    What is absent is as the kit says, else as the engine has it.
    """

    context: Annotated[int, _within("context")] | None = None
    """How many tokens a call may have, its prompt and its answer together."""
    slots: Annotated[int, _within("slots")] | None = None
    """How many calls run at a time in each worker (4 where the kit does not say it); more calls wait. Each
    slot takes memory for a whole context."""
    batch: Annotated[int, _within("batch")] | None = None
    """How many tokens of prompts are computed at a time (512 where the kit does not say it; a GGUF model on
    CPUs never takes more than 128). A call is cancelled between two of these."""
    task: Task | None = None
    """What the model is for, where its GGUF file does not say so; one of Hugging Face's always does."""
    chat_template: _Text | None = None
    """A Jinja template in place of the model's own, as text."""

    @field_validator("chat_template")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is not None and not is_template(value):
            raise ValueError("this is no Jinja template, which has {{ … }} or {% … %} in it")
        return value

    def value(self) -> EngineValue:
        """Return these settings as the value that a version carries."""
        return EngineValue(**dict(self))


class Generation(Strict):
    """What calls on a language model have that do not say it themselves. What is absent is as the kit says.

    Names are those of the OpenAI API, and of engines where that has none.
    """

    temperature: Annotated[float, _within("temperature")] | None = None
    """How far answers vary; with 0, they hardly do."""
    top_p: Annotated[float, _within("top_p")] | None = None
    """The next token is one of the likeliest, which together have this probability."""
    top_k: Annotated[int, _within("top_k")] | None = None
    """The next token is one of so many; with 0, of all."""
    min_p: Annotated[float, _within("min_p")] | None = None
    """The next token is at least this share as likely as the likeliest."""
    max_tokens: Annotated[int, _within("max_tokens")] | None = None
    """How many tokens an answer may have."""
    presence_penalty: Annotated[float, _within("presence_penalty")] | None = None
    """How much less likely tokens become that are in the text already."""
    frequency_penalty: Annotated[float, _within("frequency_penalty")] | None = None
    """How much less likely they become each time that they are."""
    repetition_penalty: Annotated[float, _within("repetition_penalty")] | None = None
    """The factor by which they become less likely; 1 for none (llama.cpp: `repeat_penalty`)."""
    seed: Annotated[int, _within("seed")] | None = None
    """The same call gets the same answer, as far as the engine can do that."""
    stop: tuple[_StopWord, ...] = ()
    """Texts that end an answer, besides those of the call; at most 16."""
    system_prompt: _Text | None = None
    """The first message of a chat whose caller sent no system message."""

    @field_validator("stop")
    @classmethod
    def _few(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > MAX_STOP_WORDS:
            raise ValueError(f"at most {MAX_STOP_WORDS} texts, not {len(value)}")
        return value

    def value(self) -> GenerationValue:
        """Return these settings as the value that a version carries."""
        values = dict(self)
        sampling = tuple((name, values[name]) for name in SAMPLING_BOUNDS if values[name] is not None)
        return GenerationValue(sampling, self.stop, self.system_prompt)
