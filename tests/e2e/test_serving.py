"""Kits become models that real clients call."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.running import IRIS, Running
from tests.registry import Registry

ROWS = Path(__file__).parents[1] / "iris.csv"


def digest_of(layout: Path, name: str) -> str:
    manifests = json.loads((layout / "index.json").read_text())["manifests"]
    return next(
        str(entry["digest"])
        for entry in manifests
        if entry["annotations"]["org.opencontainers.image.ref.name"] == name
    )


def test_every_sample_is_served_by_tag_and_by_digest(
    kitserve: Running, registry: Registry, layout: Path
) -> None:
    digest = digest_of(layout, "samples/iris:v1")
    kitserve.models = {
        "by-tag": {"kit": f"{registry.host}/samples/iris:v1"},
        "by-digest": {"kit": f"{registry.host}/samples/iris@{digest}"},
        "gzip": {"kit": f"{registry.host}/samples/iris:v1-gzip"},
        "torchscript": {"kit": f"{registry.host}/samples/iris-torchscript:v1"},
        "export": {"kit": f"{registry.host}/samples/iris-export:v1"},
    }
    kitserve.apply()
    inputs = {
        model: requests.get(f"{kitserve.url}/v2/models/{model}", timeout=10).json()["inputs"][0]["name"]
        for model in kitserve.models
    }
    for model, version, runtime in [
        ("by-tag", "v1", "onnx"),
        ("by-digest", digest.removeprefix("sha256:")[:12], "onnx"),
        ("gzip", "v1-gzip", "onnx"),
        ("torchscript", "v1", "torchscript"),
        ("export", "v1", "torch-export"),
    ]:
        answer = kitserve.infer(model, name=inputs[model])
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["model_version"] == version
        assert int(np.argmax(body["outputs"][0]["data"])) == 0
        assert answer.headers["ModelKit-Version"] == version
        assert answer.headers["ModelKit-Role"] == "stable"
        assert len(answer.headers["X-Request-Id"]) == 36
        shown = kitserve.model(model)
        assert shown["state"] == "ready"
        assert [(at["tag"], at["weight"], at["replicas"], at["runtime"]) for at in shown["versions"]] == [
            (version, 100, 1, runtime)
        ]
        for name in (version, answer.headers["ModelKit-Digest"], answer.headers["ModelKit-Digest"][7:19]):
            assert kitserve.infer(model, version=name, name=inputs[model]).status_code == 200


def test_two_formats_of_one_model_agree_on_every_row(kitserve: Running, layout: Path) -> None:
    kitserve.models = {
        "iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"},
        "iris-torch": {"kit": f"oci-layout:{layout}:samples/iris-torchscript:v1"},
    }
    kitserve.apply()
    with ROWS.open() as file:
        rows = [[float(value) for value in row[:4]] for row in list(csv.reader(file))[1:]]
    assert len(rows) == 150
    answers = {}
    for model, name in (("iris", "input"), ("iris-torch", "x")):
        tensor = {"name": name, "shape": [150, 4], "datatype": "FP32", "data": rows}
        body = requests.post(
            f"{kitserve.url}/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=20
        ).json()
        output = body["outputs"][0]
        answers[model] = np.array(output["data"]).reshape(output["shape"])
    assert np.abs(answers["iris"] - answers["iris-torch"]).max() < 1e-5


def test_tritonclient_reads_metadata_and_infers(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.apply()
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{kitserve.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "kitserve"
    for version in ("", "v1"):
        assert client.is_model_ready("iris", version)
        metadata = client.get_model_metadata("iris", version)
        assert metadata["platform"] == "onnxruntime_onnx"
        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
        tensor = tritonclient.http.InferInput("input", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array([IRIS], np.float32), binary_data=False)
        wanted = [tritonclient.http.InferRequestedOutput("label", binary_data=False)]
        result = client.infer("iris", [tensor], version, outputs=wanted, request_id="r-7")
        assert result.as_numpy("label").tolist() == [0]
        assert result.get_response()["id"] == "r-7"
        assert result.as_numpy("probabilities") is None
    assert not client.is_model_ready("iris", "v9")
    with pytest.raises(tritonclient.http.InferenceServerException, match="no model is named nothing"):
        client.get_model_metadata("nothing")
    tensor.set_data_from_numpy(np.array([IRIS], np.float32), binary_data=True)
    with pytest.raises(tritonclient.http.InferenceServerException, match="binary tensors are not supported"):
        client.infer("iris", [tensor])
    client.close()


def test_metrics_count_every_call_of_every_worker(kitserve: Running, layout: Path) -> None:
    kitserve.models = {
        "counted": {
            "kit": f"oci-layout:{layout}:samples/iris:v1",
            "replicas": 2,
            "canary": {"kit": f"oci-layout:{layout}:samples/iris:v2", "weight": 50},
        }
    }
    kitserve.apply()
    for _ in range(40):
        assert kitserve.infer("counted").status_code == 200
    assert kitserve.infer("counted", data=["no"] * 4).status_code == 400

    def counted(name: str) -> list[tuple[dict[str, str], float]]:
        families = text_string_to_metric_families(kitserve.metrics())
        return [
            (sample.labels, sample.value)
            for family in families
            for sample in family.samples
            if sample.name == name and sample.labels.get("model", "counted") == "counted"
        ]

    kitserve.wait(lambda _: sum(value for _, value in counted("kitserve_requests_total")) == 41, 10)
    requests_ = counted("kitserve_requests_total")
    assert {(at["version"], at["role"]) for at, _ in requests_} == {("v1", "stable"), ("v2", "canary")}
    assert {at["runtime"] for at, _ in requests_} == {"onnx"}
    assert sum(value for at, value in requests_ if at["status"] == "400") == 1
    for part in ("request", "queue", "compute"):
        assert sum(value for _, value in counted(f"kitserve_{part}_duration_seconds_count")) == 41
    assert {at["version"]: value for at, value in counted("kitserve_traffic_weight_ratio")} == {
        "v1": 0.5,
        "v2": 0.5,
    }
    assert sum(value for at, value in counted("kitserve_replicas") if at["state"] == "ready") == 4
    assert sum(value for _, value in counted("kitserve_load_duration_seconds_count")) == 4
    assert counted("kitserve_build_info")[0][1] == 1
