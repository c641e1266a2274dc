"""Every client does the same with every sample model: health, metadata, calls, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from loadtests.venvs import NotInstalled, python
from tests.e2e.running import Running
from tests.e2e.test_serving import digest_of

REPOSITORY = Path(__file__).parents[2]
SAMPLES = {
    "onnx": ("samples/iris:v1", "onnx"),
    "onnx-v2": ("samples/iris:v2", "onnx"),
    "onnx-gzip": ("samples/iris:v1-gzip", "onnx"),
    "torchscript": ("samples/iris-torchscript:v1", "torchscript"),
    "torch-export": ("samples/iris-export:v1", "torch-export"),
    "sklearn": ("samples/iris-pickle:v1", "sklearn"),
}


@pytest.fixture(scope="module")
def served(
    shared: Running, layout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A Kitserve with every sample that can be served; its address, and what a client needs to know."""
    shared.models = {
        model: {
            "kit": f"oci-layout:{layout}:{kit}",
            "trust": {"allow_code": [digest_of(layout, kit)] if runtime == "sklearn" else []},
            "resources": {"cpus": 0.1},
        }
        for model, (kit, runtime) in SAMPLES.items()
    }
    shared.apply()
    shared.wait(lambda status: all(model["state"] == "ready" for model in status["models"]))
    known = []
    for model, (kit, runtime) in SAMPLES.items():
        found = requests.get(f"{shared.url}/v2/models/{model}", timeout=10).json()
        (version,) = shared.model(model)["versions"]
        assert (version["runtime"], version["tag"]) == (runtime, kit.rpartition(":")[2])
        names = [version["tag"], version["digest"], version["digest"][7:19]]
        (tensor,) = found["inputs"]
        known.append(
            {"model": model, "versions": names, "input": tensor["name"], "datatype": tensor["datatype"]}
        )
    file = tmp_path_factory.mktemp("clients") / "samples.json"
    file.write_text(json.dumps(known))
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
    ("client", "ways"), [("triton_http", ["raw", "json", "gzip"]), ("triton_grpc", ["unary", "stream"])]
)
def test_nvidias_clients(served: tuple[str, Path], client: str, ways: list[str]) -> None:
    address, samples = served
    said = run([sys.executable, "-m", f"tests.clients.{client}", address, str(samples)])
    assert said.splitlines() == [f"{way}: {9 * len(SAMPLES)} calls" for way in ways]


def test_kserves_client(served: tuple[str, Path]) -> None:
    address, samples = served
    try:
        interpreter = str(python("kserve"))
    except NotInstalled as error:
        pytest.skip(str(error))
    said = run([interpreter, str(REPOSITORY / "tests/clients/kserve_rest.py"), address, str(samples)])
    assert said.splitlines() == [f"{way}: {9 * len(SAMPLES)} calls" for way in ("raw", "json")]


def test_curl(served: tuple[str, Path]) -> None:
    address, samples = served
    script = str(REPOSITORY / "tests/clients/curl.sh")
    for sample in json.loads(samples.read_text()):
        arguments = [sample["model"], sample["input"], sample["datatype"], *sample["versions"]]
        assert run(["bash", script, address, *arguments]) == "31 calls\n"


def test_the_document_tells_of_every_sample_and_its_commands_work(served: tuple[str, Path]) -> None:
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
