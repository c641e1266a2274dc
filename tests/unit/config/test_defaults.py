"""The defaults of a config file: every model has them that does not say otherwise."""

from __future__ import annotations

import pytest

from gateway.config.config import GatewayConfig, parse_config
from gateway.config.yaml_file import MAX_NODES
from gateway.errors import ConfigError

MODELS = "models:\n- {name: a, kit: r.io/a:v1}\n- {name: b, kit: r.io/b:v1}\n"


def faults(text: str, may_read_files: bool = True) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, runtimes=["onnx"], may_read_files=may_read_files)
    return caught.value.faults


def test_each_model_has_them_unless_it_says_otherwise() -> None:
    config = parse_config(
        "defaults:\n"
        "  replicas: {min: 1, max: 4}\n"
        "  timeout: 5s\n"
        "  trust: {licenses: [MIT, Apache-2.0], pickles: never}\n"
        "  batching: {max_batch_size: 8}\n"
        "models:\n"
        "- {name: a, kit: r.io/a:v1}\n"
        "- name: b\n"
        "  kit: r.io/b:v1\n"
        "  replicas: {max: 2}\n"
        "  timeout: 9s\n"
        "  trust: {licenses: [MIT]}\n"
        "  batching: null\n"
        "- {name: c, kit: r.io/c:v1, replicas: 3}\n"
    )
    a, b, c = config.models
    assert (a.replicas.max, a.timeout, a.trust.licenses) == (4, 5, ("MIT", "Apache-2.0"))
    assert (b.replicas.min, b.replicas.max, b.timeout, b.batching) == (1, 2, 9, None)
    assert (b.trust.licenses, b.trust.pickles) == (("MIT",), "never")
    assert (c.replicas.min, c.replicas.max) == (3, 3)


def test_what_is_sent_says_it_of_each_model() -> None:
    config = parse_config(f"defaults: {{timeout: 5s}}\n{MODELS}")
    sent = config.model_dump_json()
    assert "defaults" not in GatewayConfig.model_validate_json(sent).model_fields_set
    assert [model.timeout for model in parse_config(sent, may_read_files=False).models] == [5, 5]
    (fault,) = faults(f"defaults: {{timeout: 5s}}\n{MODELS}", may_read_files=False)
    assert fault.startswith("defaults: only a config file has it")


def test_a_fault_in_them_is_told_once_and_where_it_is_written() -> None:
    text = f"defaults:\n  replicas:\n    min: many\n  queue: {{max_length: 3}}\n  name: x\n{MODELS}"
    found = faults(text)
    assert found[0] == "line 3: defaults.replicas.min: must be a whole number, not 'many'"
    assert [fault.partition("; ")[0] for fault in found[1:]] == [
        "line 4: defaults.queue.max_length: unknown field",
        "line 5: defaults.name: unknown field",
    ]


def test_a_fault_between_a_model_and_them_names_where_each_is_written() -> None:
    text = "defaults: {runtime: onx}\n" + MODELS
    (fault,) = faults(text)
    assert fault.startswith("line 1: defaults.runtime: there is no runtime 'onx'; did you mean 'onnx'?")
    (fault,) = faults("defaults:\n  track: 30s\nmodels:\n- name: a\n  kit: r.io/a@sha256:" + "a" * 64 + "\n")
    assert fault.startswith("line 2: defaults.track: ")


@pytest.mark.parametrize("text", ["defaults: 3\n", "defaults: [a]\n"])
def test_what_is_no_mapping_is_a_fault(text: str) -> None:
    (fault,) = faults(text + MODELS)
    assert fault.startswith("line 1: defaults: must be a mapping")


def test_they_do_not_multiply_without_end() -> None:
    count = int(MAX_NODES**0.5) + 1
    many = "".join(f"    - x{number}\n" for number in range(count))
    models = "".join(f"- {{name: m{number}, kit: r.io/a:v1}}\n" for number in range(count))
    (fault,) = faults(f"defaults:\n  trust:\n   registries:\n{many}models:\n{models}")
    assert fault == "line 1: its models have too many fields from `defaults`"
