"""A whole Kitserve over gRPC: NVIDIA's client on kits with a canary, and a worker that is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.support.kitserve import IRIS, Running

SECONDS = 20


def test_a_model_and_its_canary_over_grpc(kitserve: Running, layout: Path) -> None:
    kitserve.models = {
        "lily": {
            "kit": f"oci-layout:{layout}:samples/iris:v1",
            "canary": {"kit": f"oci-layout:{layout}:samples/iris:v2", "weight": 20},
        }
    }
    kitserve.apply()
    values = np.array([IRIS], np.float32)
    tensor = InferInput("input", [1, 4], "FP32").set_data_from_numpy(values)
    with InferenceServerClient(f"127.0.0.1:{kitserve.port}") as client:
        kitserve.wait(lambda _: client.is_server_ready())
        assert client.is_server_live()
        assert client.is_model_ready("lily", "v2")
        assert client.get_server_metadata().name == "kitserve"
        metadata = client.get_model_metadata("lily", "v1")
        assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["v1"])
        assert client.get_model_config("lily").config.input[0].name == "input"
        expected = kitserve.infer("lily", version="v1").json()["outputs"]
        result = client.infer("lily", [tensor], "v1", request_id="r-1")
        assert [output.name for output in result.get_response().outputs] == [
            output["name"] for output in expected
        ]
        for output in expected:
            array = result.as_numpy(output["name"])
            assert list(array.shape) == output["shape"]
            assert np.allclose(array.reshape(-1).astype(float), output["data"]) or array.dtype == object
        answers = Counter(client.infer("lily", [tensor]).get_response().model_version for _ in range(400))
        assert 40 <= answers["v2"] <= 130, answers
        index = client.get_model_repository_index().models
        assert [(entry.name, entry.version, entry.state) for entry in index] == [
            ("lily", "v1", "READY"),
            ("lily", "v2", "READY"),
        ]

        def counted() -> int:
            statistics = client.get_inference_statistics("lily").model_stats
            return sum(entry.inference_stats.success.count for entry in statistics)

        kitserve.wait(lambda _: counted() == 402, 10)
        with pytest.raises(InferenceServerException, match="no model is named nothing") as caught:
            client.infer("nothing", [tensor])
        assert caught.value.status() == "StatusCode.NOT_FOUND"
    with grpc.insecure_channel(f"127.0.0.1:{kitserve.port}") as channel:
        request = health_pb2.HealthCheckRequest(service="lily")
        assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS).status == 1


def test_a_killed_worker_costs_no_grpc_call(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"pair": {"kit": f"oci-layout:{layout}:samples/iris:v1", "replicas": 2}}
    kitserve.apply()
    kitserve.wait(lambda _: len(kitserve.workers("pair")) == 2 and kitserve.infer("pair").ok)
    kitserve.wait(lambda _: kitserve.model("pair")["versions"][0]["replicas"] == 2)
    request = service_pb2.ModelInferRequest(model_name="pair")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.array([IRIS], np.float32).tobytes())
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def load(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{kitserve.port}", options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.ModelInfer(request, timeout=SECONDS)
                    outcomes["OK"] += 1
                except grpc.RpcError as error:
                    outcomes[f"{error.code()}: {error.details()}"] += 1

    threads = [threading.Thread(target=load, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    victim = min(kitserve.workers("pair"))
    os.kill(victim, signal.SIGKILL)
    kitserve.wait(lambda _: len(kitserve.workers("pair")) == 2 and victim not in kitserve.workers("pair"))
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join(SECONDS)
    assert set(outcomes) == {"OK"}, outcomes
    assert outcomes["OK"] > 100
