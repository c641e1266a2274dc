"""The JSON Schema of the config: it takes what the strict check takes, and refuses what that refuses."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from gateway.config.config import parse_config
from gateway.config.schema import config_schema
from gateway.errors import ConfigError

ROOT = Path(__file__).parents[3]
NO_CONFIGS = ("alerts.yaml",)
SCHEMA = config_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
PEM = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    "-----END PUBLIC KEY-----\n"
)
FULL: dict[str, Any] = {
    "listen": "127.0.0.1:8080",
    "admin": {"host": "::1", "port": 8081},
    "access_log": "all",
    "callers": {"max_connections": 100, "trusted_proxies": ["10.0.0.0/8"]},
    "models": [
        {
            "name": "iris",
            "kit": "registry.example.com:5000/team/iris:v1",
            "runtime": "onnx",
            "resources": {"cpus": 0.5, "gpus": 1, "memory": "2 GiB"},
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "replicas": {"min": 0, "max": 2, "upscale_delay": "500ms"},
            "batching": {"max_batch_size": 8, "max_delay": "2ms"},
            "timeout": 30,
            "rollout": {
                "steps": [
                    {"weight": 5, "for": "1m", "match": {"X-Canary": "yes"}},
                    {"weight": 50, "pause": True},
                ],
                "checks": {
                    "max_error_rate": None,
                    "agreement": {"min": 0.9},
                    "answers": {"skip": ["cut_off"]},
                },
                "golden": "rows",
                "sticky": {"cookie": "session"},
            },
            "track": "5m",
            "trust": {"allow_code": f"sha256:{'0' * 64}", "pickles": "never"},
        },
        {
            "name": "llama",
            "kit": "kit:llama:v1",
            "variant": {"quantization": "q4_0", "vram": 6},
            "canary": {
                "kit": f"oci-layout:some dir:team/llama@sha256:{'1' * 64}",
                "weight": 5,
                "variant": "auto",
            },
            "replicas": 2,
            "engine": {"context": 4096, "task": "chat"},
            "generation": {"temperature": 0.2, "stop": ["."]},
        },
    ],
    "registries": {"registry.example.com:5000": {"plain_http": True, "stall_timeout": "30s"}},
    "cache": {"max_size": "100GiB"},
    "trust": {"keys": [{"name": "a.pub", "pem": PEM}], "licenses": ["MIT"]},
    "webhooks": ["https://hooks.example.com/x"],
}
VALUES = [
    None,
    [],
    {},
    "x",
    "",
    -1,
    3.5,
    10**12,
    True,
    False,
    "5m",
    "1GiB",
    "auto",
    "a:1",
    {"x": 1},
    [1],
    ["x"],
]


def is_strictly_valid(config: Any) -> bool:
    try:
        parse_config(json.dumps(config))
    except ConfigError:
        return False
    return True


def pages() -> Iterator[Any]:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        if path.name not in NO_CONFIGS:
            yield pytest.param(path.read_text(), id=path.name)
    for page in sorted((ROOT / "docs").glob("*.md")):
        blocks = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.M)
        for number, block in enumerate(blocks):
            if isinstance(yaml.safe_load(block), dict):
                yield pytest.param(block, id=f"{page.stem}-{number}")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value within a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """Return the full config with another value at a path, or with a member beside it."""
    config = copy.deepcopy(FULL)
    target = config
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return config


PLACES = [path for path in places(FULL) if path]


def test_it_is_a_schema_and_every_field_of_it_has_a_description() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert all(each["additionalProperties"] is False for each in objects)
    fields = [
        field
        for each in objects
        for name, field in each["properties"].items()
        if name not in ("host", "port")
    ]
    missing = [field for field in fields if not field["description"]]
    assert len(missing) <= 2, missing


@pytest.mark.parametrize("text", list(pages()))
def test_every_config_of_the_project_is_valid(text: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))] == []


def test_the_full_config_is_valid_by_both() -> None:
    assert [error.message for error in VALIDATOR.iter_errors(FULL)] == []
    parse_config(json.dumps(FULL))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(VALUES))
def test_what_is_right_by_the_strict_check_is_right_by_the_schema(path: tuple[Any, ...], value: Any) -> None:
    config = changed(path, value)
    if is_strictly_valid(config):
        assert [error.message for error in VALIDATOR.iter_errors(config)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model",), []),
        (("models", 0, "kitt"), "r.io/a:v1"),
        (("models", 0, "kit"), "https://r.io/a:v1"),
        (("models", 0, "kit"), "r.io/a b:v1"),
        (("models", 0, "kit"), "r.io/A:v1"),
        (("models", 0, "name"), "no spaces"),
        (("models", 0, "timeout"), "5 minutes"),
        (("models", 0, "timeout"), True),
        (("models", 0, "resources", "memory"), "much"),
        (("models", 0, "resources", "cpus"), 0),
        (("models", 0, "replicas"), 0),
        (("models", 0, "replicas"), "many"),
        (("models", 0, "rollout", "steps"), []),
        (("models", 0, "rollout", "steps", 0, "weight"), 101),
        (("models", 0, "rollout", "steps", 0, "hold"), "1m"),
        (("models", 0, "rollout", "checks", "agreement", "metric"), "guess"),
        (("models", 1, "variant"), "largest"),
        (("models", 1, "engine", "task"), "dance"),
        (("models",), {}),
        (("listen",), 8080),
        (("access_log",), "some"),
        (("registries", "registry.example.com:5000", "password"), "secret"),
        (("cache", "max_size"), "20 apples"),
        (("trust", "pickles"), "always"),
    ],
)
def test_what_is_wrong_by_itself_is_refused_by_both(path: tuple[Any, ...], value: Any) -> None:
    config = changed(path, value)
    assert not VALIDATOR.is_valid(config)
    assert not is_strictly_valid(config)
