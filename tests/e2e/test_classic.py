"""Kits of classic models are served with no policy written, and answer as their own libraries do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from gateway.worker.containment import ALL
from runtimes.base import Array
from runtimes.containment.containment import lacking
from tests.support.artifacts import LayoutBuilder
from tests.support.classic_kits import CODE, SERVED, ClassicKit, made, plain
from tests.support.kitserve import Running
from tests.support.registry import Registry

TOLERANCE = 1e-6
NAMES = list(SERVED)
MODEL_HEADER = "ModelKit-Model"


@pytest.fixture(scope="module")
def kits() -> dict[str, ClassicKit]:
    return made()


@pytest.fixture(scope="module")
def served(
    shared: Running,
    registry: Registry,
    kits: Mapping[str, ClassicKit],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """One Kitserve that was given all kits, from a registry, and nothing else."""
    builder = LayoutBuilder(tmp_path_factory.mktemp("classic") / "layout")
    for name, kit in kits.items():
        kit.pack(builder, f"classic/{name}:v1")
    registry.push_layout(builder.directory)
    shared.settings = {}
    shared.models = {name: {"kit": f"{registry.host}/classic/{name}:v1"} for name in kits}
    # The one that runs code is refused.
    assert shared.apply(check=False).returncode == 1
    yield shared
    shared.models = {}
    shared.apply()


def answered(answer: requests.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def assert_same(actual: Any, expected: Array) -> None:
    """Compare a flat list with an output: numbers to 1e-6, labels exactly."""
    if expected.dtype.kind in "fc":
        np.testing.assert_allclose(np.ravel(actual), expected.ravel(), rtol=TOLERANCE, atol=TOLERANCE)
    else:
        assert np.ravel(np.array(actual, object)).tolist() == np.ravel(plain(expected)).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_kit_is_served_by_its_runtime(served: Running, kits: Mapping[str, ClassicKit], name: str) -> None:
    model = served.model(name)
    assert model["state"] == "ready", model["message"]
    assert model["versions"][0]["runtime"] == kits[name].runtime
    metadata = answered(requests.get(f"{served.url}/v2/models/{name}", timeout=20))
    assert [tensor["name"] for tensor in metadata["inputs"]] == list(kits[name].inputs)


@pytest.mark.parametrize("name", NAMES)
def test_infer_equals_the_library(served: Running, kits: Mapping[str, ClassicKit], name: str) -> None:
    kit = kits[name]
    url = f"{served.url}/v2/models/{name}/infer"
    document = answered(requests.post(url, json={"inputs": kit.tensors()}, timeout=20))
    outputs = {output["name"]: output for output in document["outputs"]}
    assert list(outputs) == list(kit.expected)
    for output, expected in kit.expected.items():
        assert outputs[output]["shape"][0] == len(expected)
        assert_same(outputs[output]["data"], expected)
    # One output by its name, of one row.
    tensors = [
        {**tensor, "shape": [1, *tensor["shape"][1:]], "data": tensor["data"][: tensor["shape"][-1]]}
        for tensor in kit.tensors()
    ]
    *_, last = kit.expected
    call = {"inputs": tensors, "outputs": [{"name": last}]}
    (output,) = answered(requests.post(url, json=call, timeout=20))["outputs"]
    assert output["name"] == last
    assert_same(output["data"], kit.expected[last][:1])


@pytest.mark.parametrize("name", NAMES)
def test_rows_as_people_write_them(served: Running, kits: Mapping[str, ClassicKit], name: str) -> None:
    kit = kits[name]
    url = f"{served.url}/v2/models/{name}/predict"
    document = answered(requests.post(url, json={"rows": kit.rows()}, timeout=20))
    predictions = document["predictions"]
    for output, expected in kit.expected.items():
        # A model with one output has it without its name, and numbers with labels have those beside them.
        values = [row[output] if isinstance(row, dict) and output in row else row for row in predictions]
        assert len(values) == len(expected)
        assert_same([list(v.values()) if isinstance(v, dict) else v for v in values], expected)


@pytest.mark.parametrize("name", NAMES)
def test_invocations_of_mlflow_and_sagemaker(
    served: Running, kits: Mapping[str, ClassicKit], name: str
) -> None:
    headers = {MODEL_HEADER: name}
    assert_first_output(f"{served.url}/invocations", kits[name], headers)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_of_kserve_and_tensorflow_serving(
    served: Running, kits: Mapping[str, ClassicKit], name: str
) -> None:
    assert_first_output(f"{served.url}/v1/models/{name}:predict", kits[name], {})


def assert_first_output(url: str, kit: ClassicKit, headers: Mapping[str, str]) -> None:
    """Send the rows as instances; compare the predictions with the first output."""
    body = {"instances": kit.rows()}
    document = answered(requests.post(url, json=body, headers=headers, timeout=20))
    first = next(iter(kit.expected.values()))
    assert len(document["predictions"]) == len(first)
    assert_same(document["predictions"], first)


def test_workers_are_contained_in_every_thread(served: Running) -> None:
    models = [model for model in served.status()["models"] if model["name"] in NAMES]
    workers = [worker for model in models for worker in model["versions"][0]["workers"]]
    assert len(workers) >= len(NAMES)
    for worker in workers:
        assert set(worker["not_contained"]) == set(lacking())
        assert set(worker["contained"]) == set(ALL) - set(lacking())
    for process in served.workers(NAMES[0]):
        for thread in Path(f"/proc/{process}/task").iterdir():
            status = (thread / "status").read_text()
            assert "NoNewPrivs:\t1\n" in status
            assert "Seccomp:\t2\n" in status


def test_python_of_a_kit_is_refused_with_the_reason(served: Running) -> None:
    model = served.model(CODE)
    assert model["state"] == "failed"
    assert "kitserve.py" in model["message"]
    assert "allow_code" in model["message"]
    answer = requests.post(f"{served.url}/v2/models/{CODE}/infer", json={"inputs": []}, timeout=20)
    assert answer.status_code == 503
