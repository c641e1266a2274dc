"""`kitserve run`: what its options ask for; nothing is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.cli import run as run_module
from gateway.cli.options import out
from gateway.cli.progress import Reporter
from gateway.config.config import GatewayConfig
from tests.support.cli import Cli

IRIS = "oci-layout:configs/samples:samples/iris:v1"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[GatewayConfig]:
    """The configs that would be served."""
    configs: list[GatewayConfig] = []

    def serve(config: GatewayConfig, *_: Any) -> None:
        configs.append(config)

    def in_foreground(_: Any, work: Any) -> None:
        work(Reporter(out, False))
        raise SystemExit(0)

    monkeypatch.setattr(run_module, "serve_config", serve)
    # The real one ends its process.
    monkeypatch.setattr(run_module, "in_foreground", in_foreground)
    return configs


def test_a_share_of_a_gpu_and_a_device_are_asked_for_as_in_a_config(
    cli: Cli, served: list[GatewayConfig]
) -> None:
    cli("run", IRIS, "--gpu-memory", "6GiB", "--device", "1")
    cli("run", IRIS, "--device", "prefer-gpu")
    cli("run", IRIS)
    asked = [config.models[0].resources for config in served]
    assert [(each.gpu_memory, each.device, each.gpus) for each in asked] == [
        (6 << 30, "1", 0),
        (None, "prefer-gpu", 0),
        (None, None, 0),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "warp"), "'warp' is no device: cpu, gpu, prefer-gpu, or GPUs by index or UUID"),
        (("--gpu-memory", "much"), "gpu_memory"),
        (("--device", "cpu", "--gpu-memory", "6GiB"), "cpu, although `gpu_memory` asks for a GPU"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_pulled(
    cli: Cli, served: list[GatewayConfig], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    _, text = cli("run", "oci-layout:nowhere:samples/iris:v1", *options, code=2)
    assert message in text
    assert served == []
