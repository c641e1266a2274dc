"""The spellings in which Kitfiles say how a language model is run."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.kits.language_parameters import SPELLINGS, language_parameters
from gateway.serving import ENGINE_BOUNDS, SAMPLING_BOUNDS
from runtimes.engines.task import Task

NUMBERS = {name: bounds for name, bounds in {**ENGINE_BOUNDS, **SAMPLING_BOUNDS}.items() if name != "seed"}
"""A seed in a Kitfile is most often that of the training."""


def values(parameters: dict[str, Any]) -> dict[str, Any]:
    language, faults = language_parameters(parameters)
    assert faults == []
    return dict(language.values)


@pytest.mark.parametrize(
    ("spelling", "name"), [(spelling, name) for name in NUMBERS for spelling in SPELLINGS[name]]
)
def test_every_spelling_of_a_number_is_read(spelling: str, name: str) -> None:
    bounds = NUMBERS[name]
    for written in (bounds.maximum, f"{bounds.maximum:.0f}", int(bounds.maximum)):
        assert values({spelling: written}) == {name: bounds.maximum}
        assert isinstance(values({spelling: written})[name], int if bounds.is_whole else float)
    assert values({spelling.upper().replace("_", "-"): bounds.maximum}) == {name: bounds.maximum}


def test_no_setting_is_spelled_as_another_and_each_that_has_bounds_is_there() -> None:
    spellings = [spelling for several in SPELLINGS.values() for spelling in several]
    assert len(spellings) == len(set(spellings))
    assert set(SPELLINGS) == {*NUMBERS, "task", "chat_template", "stop", "system_prompt"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"stop": "</s>"}, {"stop": ("</s>",)}),
        ({"stop_sequences": ["a", "b", "a", ""]}, {"stop": ("a", "b")}),
        ({"system": "  Be brief. \n"}, {"system_prompt": "Be brief."}),
        ({"task": "embedding"}, {"task": Task.EMBEDDING}),
        ({"pipeline_tag": "sentence-similarity"}, {"task": Task.EMBEDDING}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_k": 42.0}, {"top_k": 42}),
    ],
)
def test_other_values(parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    assert values(parameters) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_predict": -1},
        {"num_predict": -2},
        {"seed": 42},
        {"n_ctx": 0},
        {"stop": []},
        {"stop": ""},
        {"system": " "},
        {"task": "summarization"},
        {"temperature": None},
        {"learning_rate": 0.1},
        {"batch_size": 8},
        {"epochs": "many"},
        {"inputs": [{"name": "x", "datatype": "FP32"}]},
    ],
)
def test_what_says_nothing_is_left_alone_and_listed(parameters: dict[str, Any]) -> None:
    language, faults = language_parameters(parameters)
    assert (language.values, language.taken, faults) == ({}, {}, [])
    assert list(language.ignored) == list(parameters)


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"temperature": 2.1}, "model.parameters.temperature is 2.1, and must be 0 to 2"),
        ({"temperature": "hot"}, "model.parameters.temperature must be a number, not 'hot'"),
        ({"temperature": True}, "model.parameters.temperature must be a number, not True"),
        ({"temperature": float("nan")}, "model.parameters.temperature must be a number, not nan"),
        ({"top_p": float("inf")}, "model.parameters.top_p must be a number, not inf"),
        ({"n_ctx": 4096.5}, "model.parameters.n_ctx must be a whole number, not 4096.5"),
        ({"n_ctx": {"a": 1}}, "model.parameters.n_ctx must be a whole number, not a mapping"),
        ({"max_tokens": 1e9}, "model.parameters.max_tokens is 1000000000.0, and must be 1 to 16,777,216"),
        ({"max_tokens": 10**400}, "model.parameters.max_tokens must be a whole number, not 1000000"),
        ({"top_k": -5}, "model.parameters.top_k is -5, and must be 0 to 1,000,000"),
        ({"stop": 7}, "model.parameters.stop must be a text or a list of texts, not 7"),
        ({"stop": ["a", 7]}, "model.parameters.stop must be a text or a list of texts, not ['a', 7]"),
        ({"stop": ["a" * 201]}, "model.parameters.stop may have 16 texts of 200 characters"),
        ({"system": ["a"]}, "model.parameters.system must be a text, not ['a']"),
        ({"system": "a" * 1_000_001}, "has 1,000,001 characters, and may have 1,000,000"),
        ({"chat_template": 7}, "model.parameters.chat_template must be a text, not 7"),
    ],
)
def test_what_cannot_be_meant_is_a_fault(parameters: dict[str, Any], fault: str) -> None:
    language, faults = language_parameters(parameters)
    assert len(faults) == 1
    assert fault in faults[0]
    assert len(faults[0]) < 200
    assert language.values == {}


def test_of_several_spellings_that_of_an_engine_counts_before_that_of_a_description() -> None:
    language, _ = language_parameters({"context_length": 131_072, "n_ctx": 4096, "max_model_len": 9})
    assert language.values == {"context": 4096}
    assert language.ignored == {
        "context_length": "n_ctx counts first",
        "max_model_len": "n_ctx counts first",
    }


def test_what_the_config_has_is_not_read() -> None:
    language, faults = language_parameters({"temp": "hot", "top_p": 0.5}, {"temperature": "the config"})
    assert (language.values, language.ignored) == ({"top_p": 0.5}, {"temp": "the config says it"})
    assert faults == []
