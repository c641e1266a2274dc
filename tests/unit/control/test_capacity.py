"""GPUs and CPUs that are not there: the arithmetic, as people are told it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.config import GatewayConfig
from gateway.control.loop.capacity import gpu_faults, waiting_message
from gateway.control.state.desired import Desired, desired_from


def desired(**models: dict[str, Any]) -> Desired:
    """Return a config in which each model has these fields beside its kit."""
    documents = [{"name": name, "kit": "oci-layout:a:iris:v1", **model} for name, model in models.items()]
    return desired_from(GatewayConfig.model_validate({"models": documents}))


def gpu(number: float, **fields: Any) -> dict[str, Any]:
    return {"resources": {"gpus": number}, **fields}


@pytest.mark.parametrize(
    ("config", "gpus"),
    [
        (desired(iris={}), 0),
        (desired(iris={"resources": {"cpus": 512}}), 0),
        (desired(iris=gpu(1)), 1),
        (desired(iris=gpu(0.5), other=gpu(0.5)), 1),
        (desired(iris=gpu(0.25, replicas={"min": 1, "max": 64})), 1),
        (desired(iris=gpu(1, replicas={"min": 0, "max": 1}), other=gpu(1)), 1),
        (desired(), 0),
    ],
)
def test_what_fits_is_not_refused(config: Desired, gpus: float) -> None:
    assert gpu_faults(config, gpus) == []


@pytest.mark.parametrize(
    ("config", "gpus", "faults"),
    [
        (desired(iris=gpu(1)), 0, ["models: iris asks for 1 GPU for each worker; this machine has 0"]),
        (desired(iris=gpu(0.5)), 0, ["models: iris asks for 0.5 GPUs for each worker; this machine has 0"]),
        (
            desired(a=gpu(4), b=gpu(1), c=gpu(8, replicas={"min": 0, "max": 1})),
            2,
            [
                "models: a asks for 4 GPUs for each worker; this machine has 2",
                "models: c asks for 8 GPUs for each worker; this machine has 2",
            ],
        ),
        (
            desired(a=gpu(1), b=gpu(0.5, replicas=2), c={}),
            1,
            ["models: they ask for 2 GPUs in all (a 1, b 1); this machine has 1"],
        ),
        (
            desired(a=gpu(1, canary={"kit": "oci-layout:a:iris:v2", "weight": 5})),
            1,
            ["models: they ask for 2 GPUs in all (a 2); this machine has 1"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    config: Desired, gpus: float, faults: list[str]
) -> None:
    assert gpu_faults(config, gpus) == faults


def test_what_a_worker_waits_for() -> None:
    text = waiting_message({"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}, {"CPU": 8.0, "memory": 1e9})
    assert text == (
        "waits for a node with 4 CPUs and 1 GPU free: "
        "on all nodes together, 2 of 8 CPUs and 0 of 0 GPUs are free"
    )
    assert waiting_message({"node:a": 0.001}, {}, {}).startswith("waits for a node with 0.001 node:a free")
    assert waiting_message({}, {"CPU": 2.0}, {"CPU": 2.0}) == "waits for Ray to start its worker"
