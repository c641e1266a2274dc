"""What the config says of a language model, as its engine and its calls have it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.serving import NO_GENERATION, Engine, Generation, Serving
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """How a language model is loaded, and what its calls have that do not say it themselves."""

    options: EngineOptions = DEFAULT_OPTIONS
    generation: Generation = NO_GENERATION


def language_model(serving: Serving) -> LanguageModel:
    """Return how a version's language model is run."""
    return LanguageModel(_options(serving.engine), serving.generation)


def _options(engine: Engine) -> EngineOptions:
    return EngineOptions(
        context=engine.context,
        slots=engine.slots or DEFAULT_OPTIONS.slots,
        batch=engine.batch or DEFAULT_OPTIONS.batch,
        task=engine.task,
        chat_template=engine.chat_template,
    )
