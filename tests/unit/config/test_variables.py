"""Variables of the environment stand in values of a config file, and in nothing that is a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.config import GatewayConfig, load_config, parse_config
from gateway.config.variables import Variables
from gateway.errors import ConfigError

ENVIRONMENT = {"REGISTRY": "r.io", "TAG": "v2", "EMPTY": "", "COPIES": "3", "SECRET": "hunter2"}


def parsed(text: str) -> GatewayConfig:
    return parse_config(text, variables=Variables(ENVIRONMENT))


def faults(text: str, variables: Variables | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, variables=variables or Variables(ENVIRONMENT))
    return caught.value.faults


def test_values_are_filled_in_before_it_is_decided_what_they_are() -> None:
    model = parsed(
        "models:\n"
        "- name: iris\n"
        "  kit: ${REGISTRY}/iris:${TAG}\n"
        "  replicas: ${COPIES}\n"
        "  runtime: ${EMPTY:-onnx}\n"
        "  timeout: '${ABSENT:-5s}'\n"
    ).models[0]
    assert (model.kit, model.replicas.min, model.runtime, model.timeout) == ("r.io/iris:v2", 3, "onnx", 5)


def test_a_variable_adds_no_field_and_no_list() -> None:
    variables = Variables({"EVIL": "r.io/a:v1\n  trust: {allow_code: signed}", "LIST": "[x]"})
    found = faults("models:\n- name: a\n  kit: ${EVIL}\n  file: ${LIST}\n", variables)
    assert len(found) == 1
    assert found[0].startswith("line 3: models[0].kit: ")


def test_what_is_not_set_is_a_fault_with_its_line_and_is_told_once() -> None:
    assert faults("models:\n- name: iris\n  kit: ${ABSENT}/iris:v1\n") == [
        "line 3: models[0].kit: the environment variable ABSENT is not set; set it, or write what is used "
        "without it: ${ABSENT:-default}"
    ]


@pytest.mark.parametrize("written", ["${}", "${A B}", "${A-b}", "${A", "${1A}"])
def test_what_only_looks_like_a_variable_is_a_fault(written: str) -> None:
    (fault,) = faults(f"models:\n- name: a\n  kit: 'r.io/{written}'\n")
    assert "is not ${NAME} or ${NAME:-default}; write $${ where ${ is meant as text" in fault


def test_two_dollars_stand_for_one_and_a_dollar_alone_for_itself() -> None:
    text = "models: []\ntrust: {registries: ['$${TAG}', $TAG, '$$']}\n"
    assert parsed(text).trust.registries == ("${TAG}", "$TAG", "$$")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "registries:\n  r.io: {username: a, password_env: '${SECRET}'}",
            "the name of the variable alone, SECRET",
        ),
        ("webhooks: ['https://hooks.example.com/${SECRET}']", "may hold a secret"),
        ("registries:\n  r.io: {proxy: 'http://a:${SECRET:-b}@p'}", "may hold a secret"),
    ],
)
def test_no_secret_is_filled_in(text: str, advice: str) -> None:
    (fault,) = faults(f"models: []\n{text}\n")
    assert advice in fault
    assert "hunter2" not in fault


def test_fields_names_are_as_they_are_written() -> None:
    (fault,) = faults("models: []\nregistries:\n  ${REGISTRY}: {plain_http: true}\n")
    assert "'${REGISTRY}' is not the host of a registry" in fault


def test_without_variables_what_looks_like_one_is_text() -> None:
    with pytest.raises(ConfigError, match=r"models\[0\]\.kit: .*\$\{TAG\}"):
        parse_config("models:\n- name: a\n  kit: r.io/a:${TAG}\n")
    config = parse_config("models: []\ntrust: {registries: ['$${TAG}']}\n", may_read_files=False)
    assert config.trust.registries == ("$${TAG}",)


def test_within_brackets_the_advice_is_to_put_it_in_quotes() -> None:
    (fault,) = faults("models: []\ncallers: {max_connections: ${COPIES}}\n")
    assert fault.endswith("within {…} and […], put what has ${ in it in quotes")
    assert parsed("models: []\ncallers: {max_connections: '${FEW:-16}'}\n").callers.max_connections == 16


def test_a_file_is_read_with_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_TAG", "v7")
    file = tmp_path / "kitserve.yaml"
    file.write_text("models:\n- name: iris\n  kit: r.io/iris:${KIT_TAG}\n")
    assert load_config(file).models[0].kit == "r.io/iris:v7"
