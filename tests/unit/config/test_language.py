"""What a user writes about a language model."""

from __future__ import annotations

import pytest

from gateway.config.config import parse_config
from gateway.config.models import Model
from gateway.errors import ConfigError
from gateway.serving import NO_ENGINE, NO_GENERATION, SAMPLING_BOUNDS, Engine, Generation
from runtimes.engines.task import Task

CHAT = "models:\n  - name: chat\n    kit: registry.test/team/chat:v1\n"


def chat(written: str) -> Model:
    (model,) = parse_config(f"{CHAT}    {written}\n").models
    return model


def test_where_nothing_is_written_all_is_left_to_the_kit() -> None:
    serving = chat("runtime: auto").serving()
    assert serving.engine == NO_ENGINE
    assert serving.generation == NO_GENERATION


def test_an_engine() -> None:
    written = (
        "engine: {context: 8192, slots: 2, batch: 256, task: embedding, chat_template: '{{ messages }}'}"
    )
    assert chat(written).serving().engine == Engine(8192, 2, 256, Task.EMBEDDING, "{{ messages }}")


def test_what_calls_lack_is_in_the_order_of_the_bounds() -> None:
    written = (
        "generation: {seed: 7, max_tokens: 64, temperature: 0, stop: [</s>, User], system_prompt: Be brief.}"
    )
    assert chat(written).serving().generation == Generation(
        (("temperature", 0.0), ("max_tokens", 64), ("seed", 7)), ("</s>", "User"), "Be brief."
    )


@pytest.mark.parametrize("name", SAMPLING_BOUNDS)
def test_every_number_of_a_call_may_be_written_within_its_bounds(name: str) -> None:
    bounds = SAMPLING_BOUNDS[name]
    for number in (bounds.minimum, bounds.maximum):
        value = int(number) if bounds.is_whole else float(number)
        assert chat(f"generation: {{{name}: {value}}}").serving().generation.sampling == ((name, value),)
    with pytest.raises(ConfigError, match=rf"generation\.{name}: must be at most"):
        chat(f"generation: {{{name}: {int(bounds.maximum) + 1}}}")


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("engine: {context: 8}", "engine.context: must be at least 16, not 8"),
        ("engine: {slots: 0}", "engine.slots: must be at least 1, not 0"),
        ("engine: {slots: many}", "engine.slots: "),
        ("engine: {task: poetry}", "engine.task: "),
        ("engine: {chat_template: chatml}", "engine.chat_template: this is no Jinja template"),
        ("engine: {thread: 2}", "engine.thread: "),
        ("generation: {temperature: .nan}", "generation.temperature: "),
        ("generation: {top_k: 1.5}", "generation.top_k: "),
        ("generation: {stop: ['']}", "generation.stop"),
        ("generation: {system_prompt: ''}", "generation.system_prompt: "),
    ],
)
def test_a_fault_is_told_at_its_place(written: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chat(written)
    assert f"line 4: models[0].{fault}" in str(caught.value).replace("models.0", "models[0]")


def test_there_are_at_most_16_stop_words() -> None:
    assert len(chat(f"generation: {{stop: {['word'] * 16}}}").generation.stop) == 16
    with pytest.raises(ConfigError, match=r"generation\.stop: at most 16 texts, not 17"):
        chat(f"generation: {{stop: {['word'] * 17}}}")
