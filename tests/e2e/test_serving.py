"""Kits become models that real clients call."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.http import (
    InferenceServerClient,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
)

from gateway.wire.texts import EXTENSIONS
from tests.support.artifacts import digest_of
from tests.support.kitserve import IRIS, Running
from tests.support.registry import Registry

ROWS = Path(__file__).parents[1] / "iris.csv"


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
        assert [
            (entry["tag"], entry["weight"], entry["replicas"], entry["runtime"])
            for entry in shown["versions"]
        ] == [(version, 100, 1, runtime)]
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


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "json"])
def test_tritonclient_infers(kitserve: Running, layout: Path, binary: bool) -> None:
    kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.apply()
    with InferenceServerClient(f"127.0.0.1:{kitserve.port}") as client:
        tensor = InferInput("input", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array([IRIS], np.float32), binary_data=binary)
        for version in ("", "v1"):
            whole = client.infer("iris", [tensor], version, request_id="r-7")
            assert whole.as_numpy("label").tolist() == [0]
            assert int(whole.as_numpy("probabilities").argmax()) == 0
            answer = whole.get_response()
            assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-7", "iris", "v1")
            assert "binary_data_size" in answer["outputs"][0]["parameters"]
        wanted = [InferRequestedOutput("label", binary_data=binary)]
        one = client.infer("iris", [tensor], outputs=wanted)
        assert one.as_numpy("label").tolist() == [0]
        assert one.as_numpy("probabilities") is None
        classes = [InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
        array = client.infer("iris", [tensor], outputs=classes).as_numpy("probabilities")
        assert array.shape == (1, 2)
        texts = [item.decode() if isinstance(item, bytes) else item for item in array[0].tolist()]
        assert [text.split(":")[1:] for text in texts] == [["0", "setosa"], ["1", "versicolor"]]
        rows = np.tile(np.array([IRIS], np.float32), (20_000, 1))
        many = InferInput("input", list(rows.shape), "FP32").set_data_from_numpy(rows, binary_data=binary)
        for coding in (None, "gzip", "deflate"):
            large = client.infer(
                "iris",
                [many],
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            assert large.as_numpy("label").tolist() == [0] * len(rows)


def test_tritonclient_learns_what_is_served_and_what_is_wrong(kitserve: Running, layout: Path) -> None:
    flowers = {
        "kit": f"oci-layout:{layout}:samples/iris:v1",
        "replicas": 2,
        "canary": {"kit": f"oci-layout:{layout}:samples/iris:v2", "weight": 0},
    }
    kitserve.models = {"petals": flowers}
    kitserve.apply()
    with InferenceServerClient(f"127.0.0.1:{kitserve.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata()["extensions"] == list(EXTENSIONS)
        assert client.get_model_repository_index() == [
            {"name": "petals", "version": version, "state": "READY", "reason": ""} for version in ("v1", "v2")
        ]
        for version in ("", "v1"):
            assert client.is_model_ready("petals", version)
            metadata = client.get_model_metadata("petals", version)
            assert metadata["platform"] == "onnxruntime_onnx"
            assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
            config = client.get_model_config("petals", version)
            assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 4]}]
        assert not client.is_model_ready("petals", "v9")
        assert not client.is_model_ready("nothing")

        tensor = InferInput("input", [1, 4], "FP32").set_data_from_numpy(np.array([IRIS], np.float32))
        short = InferInput("input", [1, 3], "FP32").set_data_from_numpy(np.array([IRIS[:3]], np.float32))
        other = InferInput("other", [1, 4], "FP32").set_data_from_numpy(np.array([IRIS], np.float32))
        colour = [InferRequestedOutput("colour")]
        faults: list[tuple[str, str, Callable[[], object]]] = [
            ("404", "no model is named nothing", lambda: client.infer("nothing", [tensor])),
            ("404", "no model is named nothing", lambda: client.get_model_metadata("nothing")),
            ("404", "no model is named nothing", lambda: client.get_inference_statistics("nothing")),
            ("404", "model petals has no version v9", lambda: client.infer("petals", [tensor], "v9")),
            (
                "404",
                "model petals has no version v9",
                lambda: client.get_inference_statistics("petals", "v9"),
            ),
            ("400", "input 'input' must have shape", lambda: client.infer("petals", [short])),
            ("400", "unknown input 'other'", lambda: client.infer("petals", [tensor, other])),
            ("400", "unknown output 'colour'", lambda: client.infer("petals", [tensor], outputs=colour)),
            ("501", "models are loaded and unloaded by the config", lambda: client.load_model("petals")),
        ]
        for status, text, call in faults:
            with pytest.raises(InferenceServerException, match=text) as caught:
                call()
            assert caught.value.status() == status

        for _ in range(20):
            client.infer("petals", [tensor])
        client.infer("petals", [tensor], "v2")

        def counted(model: str = "", version: str = "") -> dict[str, tuple[int, int]]:
            statistics = client.get_inference_statistics(model, version)["model_stats"]
            return {
                entry["version"]: (entry["inference_count"], entry["inference_stats"]["fail"]["count"])
                for entry in statistics
                if entry["name"] == "petals"
            }

        # each worker reports once a second, and two share the calls
        kitserve.wait(lambda _: counted() == {"v1": (20, 3), "v2": (1, 0)}, 10)
        assert counted("petals") == counted()
        assert counted("petals", "v2") == {"v2": (1, 0)}
        (entry,) = client.get_inference_statistics("petals", "v1")["model_stats"]
        steps = entry["inference_stats"]
        assert steps["success"]["ns"] >= steps["compute_infer"]["ns"] > 0


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
    assert {(labels["version"], labels["role"]) for labels, _ in requests_} == {
        ("v1", "stable"),
        ("v2", "canary"),
    }
    assert {labels["runtime"] for labels, _ in requests_} == {"onnx"}
    assert sum(value for labels, value in requests_ if labels["status"] == "400") == 1
    for part in ("request", "queue", "compute"):
        assert sum(value for _, value in counted(f"kitserve_{part}_duration_seconds_count")) == 41
    assert {labels["version"]: value for labels, value in counted("kitserve_traffic_weight_ratio")} == {
        "v1": 0.5,
        "v2": 0.5,
    }
    assert sum(value for labels, value in counted("kitserve_replicas") if labels["state"] == "ready") == 4
    assert sum(value for _, value in counted("kitserve_load_duration_seconds_count")) == 4
    assert counted("kitserve_build_info")[0][1] == 1
