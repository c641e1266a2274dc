"""Every field of the config, written wrong: its fault names it in plain words, and says what it takes."""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from gateway.config.access import Keys, TokenIssuer
from gateway.config.config import Address, GatewayConfig, parse_config
from gateway.config.faults import describe_faults
from gateway.config.kits import Key
from gateway.config.models import Canary, Model
from gateway.config.rollout import Rollout, Sticky
from gateway.errors import ConfigError
from tests.support.faults import LEAKED

KIT = "r.io/team/iris:v1"
# What must be written beside a field, so that the field alone is at fault; else any value of its type.
NEEDED: dict[type[BaseModel], dict[str, Any]] = {
    GatewayConfig: {"models": []},
    Address: {"host": "127.0.0.1", "port": 80},
    Model: {"name": "iris", "kit": KIT},
    Canary: {"kit": "r.io/team/iris:v2", "weight": 5},
    Rollout: {"steps": [{"weight": 5}]},
    Sticky: {"header": "x-user"},
    TokenIssuer: {
        "name": "people",
        "issuer": "https://id.example.com",
        "audience": "kitserve",
        "algorithm": "RS256",
        "key_file": "id.pem",
    },
    Keys: {"file": "keys.yaml"},
}

Path = tuple[str | int, ...]


def models_in(annotation: Any) -> Iterator[tuple[type[BaseModel], Path]]:
    """Yield the models in a type, and the steps to each from where the type stands."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ()
        return
    origin = get_origin(annotation)
    step: Path = (0,) if origin is tuple else ("r.io",) if origin is dict else ()
    for argument in get_args(annotation) if origin is not Literal else ():
        yield from ((model, (*step, *path)) for model, path in models_in(argument))


def fields(model: type[BaseModel], path: Path, parents: tuple[Any, ...]) -> Iterator[tuple[Path, Any]]:
    """Yield each field at and below a model: its path, and the models on the way there with their paths."""
    parents = (*parents, (model, path))
    for name, field in model.model_fields.items():
        place = (*path, field.alias or name)
        yield place, parents
        for inner, steps in models_in(field.annotation):
            yield from fields(inner, (*place, *steps), parents)


def needed(model: type[BaseModel]) -> dict[str, Any]:
    """Return what must be written of a model."""
    if model in NEEDED:
        return copy.deepcopy(NEEDED[model])
    return {
        name: _some_value(field.annotation)
        for name, field in model.model_fields.items()
        if field.is_required()
    }


def _some_value(annotation: Any) -> Any:
    if annotation is int:
        return 5
    return next(iter(annotation)).value if issubclass(annotation, StrEnum) else "x"


def put(document: Any, path: Path, value: Any) -> None:
    """Write a value into a document; lists and mappings on the way are made."""
    for step, following in pairwise(path):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            if not document:
                document.append(empty)
            document = document[step]
        else:
            if not isinstance(document.get(step), type(empty)) or not document[step]:
                document[step] = empty
            document = document[step]
    if isinstance(path[-1], int):
        document.append(value)
    else:
        document[path[-1]] = value


def written(path: Path, parents: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a config in which the field at `path` has this value, and all else is as it should be."""
    document: dict[str, Any] = {}
    for model, place in parents:
        for name, needed_value in needed(model).items():
            put(document, (*place, name), needed_value)
    put(document, path, value)
    return document


FIELDS = dict(fields(GatewayConfig, (), ()))
SCALARS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2.5,
    150,
    10**30,
    float("inf"),
    float("nan"),
    "",
    "x",
    "a b",
    "\u2028",
    "5 parsecs",
    "-5",
    "yes",
    datetime.date(2026, 11, 28),
    b"\xff",
]
TREES: list[Any] = [[], [5], [None], [True], [[]], [{}], {}, {"x": 1}, {"a b": "c\nd"}]


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.faults


def faults_of(document: dict[str, Any]) -> list[str]:
    """Return the faults of a document that was read already, which is faster."""
    try:
        GatewayConfig.model_validate(document)
    except ValidationError as error:
        return describe_faults(error.errors(), {}, GatewayConfig)
    return []


def dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def test_a_field_that_there_is_not_is_the_only_fault_of_a_document() -> None:
    """So what is written beside a field that is to be at fault is right."""
    for parents in FIELDS.values():
        model, place = parents[-1]
        if model is not Key:  # there is none in a test that has no files
            (fault,) = faults_of(written((*place, "x"), parents, 1))
            assert fault.startswith(f"line 1: {dotted((*place, 'x'))}: unknown field")


@pytest.mark.parametrize("path", FIELDS, ids=dotted)
def test_a_wrong_value_is_a_fault_of_its_field_in_plain_words(path: Path) -> None:
    for value in [*SCALARS, *TREES]:
        document = written(path, FIELDS[path], value)
        reported = faults_of(document)
        for fault in reported:
            assert not LEAKED.search(fault), fault
            assert fault.splitlines() == [fault]
            place = dotted(path)
            # A model's rule may be about several of its fields, and then names the model.
            parent = dotted(path[:-1])
            assert re.match(rf"line 1: ({re.escape(place)}|{re.escape(parent)}: )", fault), (document, fault)
        if not isinstance(value, list | dict):
            assert len(reported) <= 1, (document, reported)


@pytest.mark.parametrize("path", FIELDS, ids=dotted)
def test_true_is_no_number_and_no_text(path: Path) -> None:
    parents = FIELDS[path]
    model = parents[-1][0]
    annotation = next(
        field.annotation for name, field in model.model_fields.items() if path[-1] in (name, field.alias)
    )
    if annotation is not bool:
        assert faults_of(written(path, parents, True)), f"{dotted(path)}: true"
    # Labels have any names but none.
    mapping = {"": 1} if path[-1] == "variant" else {"x": 1}
    assert faults_of(written(path, parents, mapping)), f"{dotted(path)}: a mapping"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("listen: 24000", "line 1: listen: 24000 is not HOST:PORT; write 127.0.0.1:24000"),
        ("listen: [a]", 'line 1: listen: ["a"] is not HOST:PORT, such as 127.0.0.1:8080'),
        (
            "trust: {requirements: pypi}",
            "line 1: trust.requirements: must be 'kit', 'index' or 'never', not 'pypi'",
        ),
        (
            "trust: {allow_code: true}",
            "line 1: trust.allow_code: write `signed`, the digest of a kit, or a list of these",
        ),
        (
            "models: [{name: a, kit: r.io/a:v1, rollout: {steps: [{weight: 150}]}}]",
            "line 1: models[0].rollout.steps[0].weight: must be at most 100, not 150",
        ),
        (
            "models: [{name: a, kit: r.io/a:v1, rollout: {steps: [{weight: 20, match: {X Y: a}}]}}]",
            "line 1: models[0].rollout.steps[0].match[0].X Y: 'X Y' is not the name of a header: "
            "letters, digits and '-', at most 64",
        ),
        (
            "models: [{name: a, kit: r.io/a:v1, replicas: 2000}]",
            "line 1: models[0].replicas: must be at least 1, and at most 256, not 2000",
        ),
        (
            "models: [{name: a, kit: r.io/a:v1, replicas: {min: 2000}}]",
            "line 1: models[0].replicas.min: must be at most 256, not 2000",
        ),
        (
            "models: [{name: a, kit: r.io/a:v1, replicas: '2'}]",
            "line 1: models[0].replicas: write how many workers there are, such as 2, "
            "or bounds, such as {min: 1, max: 4}",
        ),
        (
            "models: [{name: a, kit: r.io/a:v1, timeout: true}]",
            "line 1: models[0].timeout: must be a duration, such as 500ms, 30s, 5m or 2h, not true",
        ),
        (
            "models: [{name: 1.10, kit: r.io/a:v1}]",
            "line 1: models[0].name: must be text, not 1.1; put it in quotes if it is meant as text",
        ),
        (
            "models: [a]",
            "line 1: models[0]: must be a mapping, not 'a'; known in it: name, kit, parents, file, ",
        ),
        ("cache: 5GiB", "line 1: cache: must be a mapping, not '5GiB'; known in it: max_size"),
        (
            "cache: {max_size: true}",
            "line 1: cache.max_size: must be a size, such as 256MiB or 20GB, not true",
        ),
        ("kitops_home: 5", "line 1: kitops_home: must be a path, not 5"),
        ("trust: {registries: r.io}", "line 1: trust.registries: must be a list, not 'r.io'; write [r.io]"),
        (
            "trust: {keys: [5]}",
            "line 1: trust.keys[0]: write the path of a PEM file, with a public key in it",
        ),
        (
            "webhooks: ['ftp://x']",
            "line 1: webhooks[0]: 'ftp://x' is not an address, such as https://hooks.example.com/rollouts",
        ),
        ("models:", "line 1: models: is empty; it must be a list"),
    ],
)
def test_a_fault_says_what_to_write(text: str, fault: str) -> None:
    (reported,) = faults(text)
    assert reported.startswith(fault)


def test_the_access_log_may_be_off_without_quotes() -> None:
    """YAML reads the word off as false."""
    assert parse_config("access_log: off").access_log == "off"
    assert faults("access_log: on") == ["line 1: access_log: must be 'off', 'errors' or 'all', not true"]
