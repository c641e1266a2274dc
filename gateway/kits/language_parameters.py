"""The parameters of a Kitfile that say how its language model is run, in the spellings that kits have.

`model.parameters` is free form: what is not known here is left alone, as it may be for somebody else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway.kits.kitfile import SYSTEM_PROMPTS
from gateway.kits.uses import normal_word
from gateway.serving import (
    ENGINE_BOUNDS,
    MAX_PROMPT,
    MAX_STOP_LENGTH,
    MAX_STOP_WORDS,
    SAMPLING_BOUNDS,
    Bounds,
)
from runtimes.engines.task import Task

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "context": (
        "context",
        "n_ctx",
        "num_ctx",
        "ctx_size",
        "context_size",
        "context_length",
        "context_window",
        "max_context_length",
        "max_model_len",
    ),
    "slots": ("slots", "n_parallel", "num_parallel", "max_num_seqs"),
    # Not batch_size, nor seed: in Kitfiles, these are how the model was trained.
    "batch": ("batch", "n_batch", "num_batch"),
    "task": ("task", "pipeline_tag"),
    "chat_template": ("chat_template",),
    "temperature": ("temperature", "temp"),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "max_tokens": (
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "n_predict",
        "num_predict",
    ),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "stop": ("stop", "stop_sequences", "stop_words", "stop_strings"),
    "system_prompt": (*SYSTEM_PROMPTS, "system_message"),
}
"""The spellings of each setting of the config, first those that count first where a kit has several."""

_SETTINGS = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}
_TASKS: Mapping[str, Task] = {
    **{task.value: task for task in Task},
    "conversational": Task.CHAT,
    "embeddings": Task.EMBEDDING,
    "feature_extraction": Task.EMBEDDING,
    "sentence_similarity": Task.EMBEDDING,
    "reranking": Task.RERANK,
    "text_ranking": Task.RERANK,
}
"""The words for tasks, some of which are Hugging Face's."""
_UNSET: Mapping[str, frozenset[float]] = {
    "context": frozenset({-1, 0}),
    "max_tokens": frozenset({-2, -1}),
}
"""The numbers by which engines mean that nothing is said: the model's own context, no limit."""


@dataclass(frozen=True, slots=True)
class LanguageParameters:
    """What a Kitfile's parameters say of its language model."""

    values: Mapping[str, Any]
    """The settings that they make, by the names in the config: whole and other numbers, texts, a Task, and a
    tuple of texts for `stop`."""
    taken: Mapping[str, str]
    """The setting that each parameter makes, by the parameter's name in the Kitfile."""
    ignored: Mapping[str, str]
    """Why each of the others makes none."""


class _WrongValue(Exception):
    """A value that cannot be meant; the message is what is wrong with it."""


def language_parameters(
    parameters: Mapping[str, Any], settled: Mapping[str, str] = MappingProxyType({})
) -> tuple[LanguageParameters, list[str]]:
    """Return what parameters say, and a line for each value that cannot be meant.

    `settled` says who has said a setting before, such as "the config": what is said of it here is not read.
    """
    values: dict[str, Any] = {}
    taken: dict[str, str] = {}
    ignored: dict[str, str] = {}
    faults: list[str] = []
    for parameter in sorted(parameters, key=_rank):
        name, value = _SETTINGS.get(normal_word(parameter)), parameters[parameter]
        if name is None or value is None:
            ignored[parameter] = "not known" if name is None else "empty"
        elif name in settled:
            ignored[parameter] = f"{settled[name]} says it"
        elif name in values:
            earlier = next(earlier for earlier in taken if taken[earlier] == name)
            ignored[parameter] = f"{earlier} counts first"
        else:
            try:
                setting = _read(name, value)
            except _WrongValue as error:
                faults.append(f"model.parameters.{parameter} {error}")
                continue
            if setting is None:
                ignored[parameter] = f"{value!r} says nothing"
            else:
                values[name], taken[parameter] = setting, name
    return LanguageParameters(values, taken, ignored), sorted(faults)


def _rank(parameter: str) -> tuple[int, str]:
    """Return where a parameter stands among the spellings of its setting."""
    spelling = normal_word(parameter)
    name = _SETTINGS.get(spelling)
    return (0 if name is None else SPELLINGS[name].index(spelling), parameter)


def _read(name: str, value: Any) -> Any:
    """Return a setting; None where the value means that nothing is said."""
    bounds = ENGINE_BOUNDS.get(name) or SAMPLING_BOUNDS.get(name)
    if bounds is not None:
        return _number(name, value, bounds)
    if name == "task":
        return _TASKS.get(normal_word(value)) if isinstance(value, str) else None
    if name == "stop":
        return _stop_words(value)
    if not isinstance(value, str):
        raise _WrongValue(f"must be a text, not {_kind(value)}")
    if len(value) > MAX_PROMPT:
        raise _WrongValue(f"has {len(value):,} characters, and may have {MAX_PROMPT:,}")
    return value.strip() or None


def _number(name: str, value: Any, bounds: Bounds) -> float | None:
    """Return a number within its bounds; texts that are numbers are some, as YAML has them in quotes."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (bounds.is_whole and number != math.floor(number)):
        raise _WrongValue(f"must be a {'whole ' if bounds.is_whole else ''}number, not {_kind(value)}")
    if number in _UNSET.get(name, ()):
        return None
    if name == "top_k" and number == -1:
        number = 0  # both mean all tokens, the one to vLLM, the other to llama.cpp
    if not bounds.minimum <= number <= bounds.maximum:
        raise _WrongValue(f"is {value}, and must be {_shown(bounds.minimum)} to {_shown(bounds.maximum)}")
    return int(number) if bounds.is_whole else number


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number == math.floor(number) else f"{number:g}"


def _stop_words(value: Any) -> tuple[str, ...] | None:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _WrongValue(f"must be a text or a list of texts, not {_kind(value)}")
    words = [word for word in dict.fromkeys(words) if word]
    if len(words) > MAX_STOP_WORDS or any(len(word) > MAX_STOP_LENGTH for word in words):
        raise _WrongValue(f"may have {MAX_STOP_WORDS} texts of {MAX_STOP_LENGTH} characters")
    return tuple(words) or None


def _kind(value: Any) -> str:
    """Return a short word for a value that is of a wrong type."""
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"  # a list, or a long text
