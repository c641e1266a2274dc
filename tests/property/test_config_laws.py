from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.config import GatewayConfig, parse_config
from gateway.config.kits import Cache, Key, Registry, Trust
from gateway.config.models import Canary, Model, Replicas, Resources
from gateway.errors import ConfigError
from tests.support.faults import LEAKED

_fields = st.sampled_from(
    [
        *GatewayConfig.model_fields,
        *Model.model_fields,
        *Canary.model_fields,
        *Resources.model_fields,
        *Replicas.model_fields,
        *Registry.model_fields,
        *Cache.model_fields,
        *Trust.model_fields,
        *Key.model_fields,
        "host",
        "port",
    ]
)
_words = st.sampled_from(["iris", "r.io/iris:v1", "oci-layout:d:iris", "127.0.0.1:80", "onnx", "all"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | _words | st.dates()
_trees: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_fields | _words | _scalars, inner, max_size=4)
    ),
    max_leaves=12,
)
_model = st.fixed_dictionaries(
    {"name": _words | _trees, "kit": _words},
    optional={"canary": _trees, "resources": _trees, "replicas": _trees, "runtime": _trees},
)
_config = st.fixed_dictionaries(
    {"models": st.lists(_model | _trees, max_size=3)},
    optional={"listen": _trees, "admin": _trees, "access_log": _trees, "registries": _trees},
)


def check(text: str) -> None:
    """Check that a text is a config, which is read back as it was, or has faults of one line each.

    A fault may quote the text, and so have any word of it.
    """
    try:
        config = parse_config(text)
    except ConfigError as error:
        faults, lines = error.faults, str(error).splitlines()
    else:
        assert GatewayConfig.model_validate_json(config.model_dump_json()) == config
        return
    assert faults
    assert not [fault for fault in faults for word in LEAKED.finditer(fault) if word[0] not in text]
    assert len(lines) == 1 + len(faults)


@settings(max_examples=300, deadline=None)
@given(_config | _trees)
def test_any_yaml_is_a_config_or_has_faults(value: Any) -> None:
    check(yaml.dump(value, allow_unicode=True))


@settings(max_examples=200, deadline=None)
@given(_config)
def test_any_json_is_a_config_or_has_faults(value: Any) -> None:
    check(json.dumps(value, default=str, skipkeys=True))


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60) | st.text("ab1:-? \n[]{},&*!|>'\"%#@\\xU0<._", max_size=60))
def test_any_text_is_a_config_or_has_faults(text: str) -> None:
    check(text)
    check(f"models: {text}")
    check(f"access_log: !!{text}")


@pytest.mark.parametrize("word", ["Cache", "Model", "type=", "validation"])
def test_a_fault_may_quote_a_word_of_the_text(word: str) -> None:
    check(f"models: {word}")
