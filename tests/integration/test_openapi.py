"""The OpenAPI document against the real edge, workers' servers and gateway's API."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from runtimes.base import Datatype, Resources, TensorModel, TensorSpec
from runtimes.onnx import OnnxRuntime
from tests.support.conformance import check_conformance
from tests.support.echo import Echo
from tests.support.model_files import identity_onnx
from tests.support.plane import data_plane


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("plane")
    file = directory / "model.onnx"
    file.write_bytes(identity_onnx())
    models: dict[str, TensorModel] = {
        "onnx": OnnxRuntime().load(file, Resources()),
        "every": Echo(*(TensorSpec(f"x_{datatype}", datatype, (-1, 2)) for datatype in Datatype)),
        "text": Echo(TensorSpec("x_text", "BYTES", (-1,))),
        "image": Echo(TensorSpec("x_image", "UINT8", (-1, 64, 64, 3))),
    }
    with data_plane(directory, models) as url:
        yield url


def test_calls_by_the_document_and_against_it(url: str, tmp_path: Path) -> None:
    check_conformance(url, 15, 1, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3])
def test_many_calls_by_the_document_and_against_it(url: str, seed: int, tmp_path: Path) -> None:
    check_conformance(url, 300, seed, tmp_path)


def test_each_command_of_the_document_works_when_pasted(url: str) -> None:
    paths = requests.get(f"{url}/openapi.json", timeout=10).json()["paths"]
    commands = [
        operation["x-codeSamples"][0]["source"]
        for operations in paths.values()
        for operation in operations.values()
        if "x-codeSamples" in operation
    ]
    assert len([command for command in commands if "/infer" in command]) == 8
    assert len([command for command in commands if "/predict" in command]) == 6
    for command in commands:
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=20, check=True)
        answer = json.loads(done.stdout)
        assert answer["predictions" if "/predict" in command else "outputs"], command


def test_pages_are_at_the_edge(url: str) -> None:
    for path in ("/docs", "/v2/models/text/docs"):
        page = requests.get(url + path, timeout=10)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert f"curl {url}/v2/models/text/infer" in page.text
