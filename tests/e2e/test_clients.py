"""Every client does the same with every sample: health, metadata, calls, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http

from loadtests.venvs import NotInstalled, python
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import Running
from tests.support.simple_models import simple_models

REPOSITORY = Path(__file__).parents[2]
SAMPLES = {
    "onnx": ("samples/iris:v1", "onnx"),
    "onnx-v2": ("samples/iris:v2", "onnx"),
    "onnx-gzip": ("samples/iris:v1-gzip", "onnx"),
    "torchscript": ("samples/iris-torchscript:v1", "torchscript"),
    "torch-export": ("samples/iris-export:v1", "torch-export"),
    "sklearn": ("samples/iris-pickle:v1", "sklearn"),
}
# What a file does not say, so that other tensors are refused.
STATED = {"torchscript": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}


@pytest.fixture(scope="module")
def served(
    shared: Running, layout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of a Kitserve with every sample that can be served, and a file that describes these."""
    shared.models = {
        model: {
            "kit": f"oci-layout:{layout}:{kit}",
            "resources": {"cpus": 0.1},
            "inputs": STATED.get(model, []),
        }
        for model, (kit, runtime) in SAMPLES.items()
    }
    shared.apply()
    shared.wait(lambda status: all(model["state"] == "ready" for model in status["models"]))
    samples = []
    for model, (kit, runtime) in SAMPLES.items():
        metadata = requests.get(f"{shared.url}/v2/models/{model}", timeout=10).json()
        (version,) = shared.model(model)["versions"]
        assert (version["runtime"], version["tag"]) == (runtime, kit.rpartition(":")[2])
        names = [version["tag"], version["digest"], version["digest"][7:19]]
        (tensor,) = metadata["inputs"]
        samples.append(
            {"model": model, "versions": names, "input": tensor["name"], "datatype": tensor["datatype"]}
        )
    file = tmp_path_factory.mktemp("clients") / "samples.json"
    file.write_text(json.dumps(samples))
    yield shared.url.partition("://")[2], file
    shared.models = {}
    shared.apply()


def run(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("client", "modes"), [("triton_http", ["raw", "json", "gzip"]), ("triton_grpc", ["unary", "stream"])]
)
def test_nvidias_clients(served: tuple[str, Path], client: str, modes: list[str]) -> None:
    address, samples = served
    printed = run([sys.executable, "-m", f"tests.clients.{client}", address, str(samples)])
    assert printed.splitlines() == [f"{mode}: {9 * len(SAMPLES)} calls" for mode in modes]


@pytest.mark.timeout(900)  # the first one installs KServe's client
@pytest.mark.parametrize(
    ("client", "modes"), [("kserve_rest", ["raw", "json"]), ("kserve_grpc", ["raw", "typed"])]
)
def test_kserves_clients(served: tuple[str, Path], client: str, modes: list[str]) -> None:
    address, samples = served
    try:
        interpreter = str(python("kserve"))
    except NotInstalled as error:
        pytest.skip(str(error))
    printed = run([interpreter, str(REPOSITORY / f"tests/clients/{client}.py"), address, str(samples)])
    assert printed.splitlines() == [f"{mode}: {9 * len(SAMPLES)} calls" for mode in modes]


def test_curl(served: tuple[str, Path]) -> None:
    address, samples = served
    script = str(REPOSITORY / "tests/clients/curl.sh")
    for sample in json.loads(samples.read_text()):
        arguments = [sample["model"], sample["input"], sample["datatype"], *sample["versions"]]
        assert run(["bash", script, address, *arguments]) == "31 calls\n"


def test_the_document_describes_every_sample_and_its_commands_work(served: tuple[str, Path]) -> None:
    address, _ = served
    document: dict[str, Any] = requests.get(f"http://{address}/openapi.json", timeout=10).json()
    for model in SAMPLES:
        call = document["paths"][f"/v2/models/{model}/infer"]["post"]
        command = call["x-codeSamples"][0]["source"]
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=20, check=True)
        assert ("outputs" in json.loads(done.stdout)) is ("description" not in call), (command, done.stdout)
    assert (
        "Softmax regression over four iris flower measurements."
        in requests.get(f"http://{address}/v2/models/onnx/docs", timeout=10).text
    )


@pytest.mark.parametrize("protocol", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_what_nvidias_examples_do(kitserve: Running, tmp_path: Path, protocol: Any) -> None:
    layout = LayoutBuilder(tmp_path / "layout")
    kitserve.models = {}
    for model, file in simple_models().items():
        name = f"examples/{model.replace('_', '-')}:v1"
        layout.kit(name, tar(("model.onnx", file)), path="model.onnx")
        kitserve.models[model] = {"kit": f"oci-layout:{layout.directory}:{name}", "resources": {"cpus": 0.1}}
    kitserve.apply()
    kitserve.wait(lambda status: all(model["state"] == "ready" for model in status["models"]))
    numbers, ones = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    texts = [
        np.array([str(number).encode() for number in row], object).reshape(1, 16) for row in (*numbers, *ones)
    ]
    held = np.array([b"he\x00llo"] * 16, object).reshape(1, 16)

    def tensor(name: str, datatype: str, array: Any) -> Any:
        infer_input = protocol.InferInput(name, list(array.shape), datatype)
        infer_input.set_data_from_numpy(array)
        return infer_input

    with protocol.InferenceServerClient(f"127.0.0.1:{kitserve.port}") as client:
        for model, datatype, arrays in [
            ("simple", "INT32", (numbers, ones)),
            ("simple_int8", "INT8", (numbers.astype(np.int8), ones.astype(np.int8))),
            ("simple_string", "BYTES", texts),
        ]:
            inputs = [tensor(f"INPUT{n}", datatype, array) for n, array in enumerate(arrays)]
            for outputs in (None, [protocol.InferRequestedOutput(f"OUTPUT{n}") for n in range(2)]):
                result = client.infer(model, inputs, outputs=outputs)
                assert (result.as_numpy("OUTPUT0").astype(np.int32) == numbers + ones).all()
                assert (result.as_numpy("OUTPUT1").astype(np.int32) == numbers - ones).all()
        result = client.infer("simple_identity", [tensor("INPUT0", "BYTES", held)])
        assert (result.as_numpy("OUTPUT0") == held).all()
        result = client.infer("custom_identity_int32", [tensor("INPUT0", "INT32", numbers)])
        assert (result.as_numpy("OUTPUT0") == numbers).all()
        # what the examples look for in the error
        with pytest.raises(tritonclient.utils.InferenceServerException, match="Request for unknown model"):
            client.infer("wrong_model_name", [tensor("INPUT0", "INT32", numbers)])
