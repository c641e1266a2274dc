"""What an apply changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config.changes import config_changes
from gateway.config.config import parse_config

BASE: dict[str, Any] = {
    "models": [{"name": "iris", "kit": "r.io/iris:v1"}, {"name": "wine", "kit": "r.io/wine:v1"}]
}


def config(**fields: Any) -> dict[str, Any]:
    return parse_config(json.dumps(BASE | fields)).model_dump(mode="json")


def iris(**fields: Any) -> dict[str, Any]:
    return config(models=[BASE["models"][0] | fields, BASE["models"][1]])


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (config(), []),
        (config(models=[]), ["iris: removed", "wine: removed"]),
        (config(models=BASE["models"][::-1]), []),
        (
            config(models=[*BASE["models"][:1], {"name": "rose", "kit": "r.io/rose:v1"}]),
            ["rose: added, r.io/rose:v1", "wine: removed"],
        ),
        (iris(kit="r.io/iris:v2"), ["iris: changed, kit r.io/iris:v1 -> r.io/iris:v2"]),
        (iris(track="60s", runtime="onnx"), ["iris: changed, runtime auto -> onnx, track 60.0"]),
        (iris(rollout={"steps": [{"weight": 5}]}), ["iris: changed, rollout added"]),
        (iris(batching={}), ["iris: changed, batching added"]),
        (
            config(registries={"r.io": {"plain_http": True}}, cache={"max_size": "1GiB"}),
            ["registries.r.io added", "cache.max_size 1GiB"],
        ),
        (config(webhooks=["http://x"]), ["webhooks changed"]),
    ],
)
def test_each_change_is_named(after: dict[str, Any], lines: list[str]) -> None:
    assert config_changes(config(), after) == lines


def test_what_is_taken_away_or_inside_a_list_is_named() -> None:
    before = iris(rollout={"steps": [{"weight": 5}]}, batching={}, track="1m")
    assert config_changes(before, iris(rollout={"steps": [{"weight": 50}]}, batching={})) == [
        "iris: changed, rollout.steps changed, track removed"
    ]
    assert config_changes(before, config()) == [
        "iris: changed, batching removed, rollout removed, track removed"
    ]


def test_a_config_of_another_release_is_compared_too() -> None:
    assert config_changes({"later": 1}, config())[:2] == [
        "iris: added, r.io/iris:v1",
        "wine: added, r.io/wine:v1",
    ]
    assert "later removed" in config_changes({"later": 1}, config())
