"""`kitserve doctor`; NVML is made up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli import doctor
from gateway.gpus import nvml
from gateway.gpus.nvml import Nvml
from runtimes import gpu_libraries
from runtimes.gpu_libraries import Engine
from tests.support.cli import Cli
from tests.support.fake_nvml import GIB, gpu, library, write_gpus
from tests.support.waiting import wait

ORT = Engine("ONNX Runtime", "1.31.1", "13.0", ("CUDAExecutionProvider", "CPUExecutionProvider"))
IRIS = "oci-layout:configs/samples:samples/iris:v1"


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file from which NVML tells; there is no driver before it is written."""
    file = tmp_path / "gpus.json"
    monkeypatch.setattr(nvml, "_NVML", Nvml(library(file)))
    monkeypatch.setattr(gpu_libraries, "engines", lambda: (ORT,))
    monkeypatch.setattr(gpu_libraries, "libraries", lambda: {"CUDA": "13.0.96", "cuDNN": "9.20.0.48"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return file


def config(directory: Path, resources: str) -> str:
    file = directory / "gpu.yaml"
    file.write_text(f"models: [{{name: iris, kit: '{IRIS}', resources: {resources}}}]")
    return str(file)


def test_a_machine_without_a_driver_has_something_to_mend(cli: Cli, gpus: Path, tmp_path: Path) -> None:
    text, _ = cli("doctor", code=1)
    assert "driver: none" in text
    assert "to mend: no driver of NVIDIA's is installed; install NVIDIA's driver" in text
    assert text.endswith("without a GPU, models are served on the CPU, but for those that must have one\n")
    text, _ = cli("doctor", config(tmp_path, "{}"))
    assert "iris" in text
    assert "note: no driver" in text
    assert text.endswith("nothing to mend\n")
    cli("doctor", config(tmp_path, "{gpu_memory: 6GiB, device: prefer-gpu}"))
    text, _ = cli("doctor", config(tmp_path, "{gpu_memory: 6GiB}"), code=1)
    assert "to mend: iris: it needs a GPU, and there is none" in text


def test_what_each_version_needs_and_where_it_would_be(cli: Cli, gpus: Path, tmp_path: Path) -> None:
    write_gpus(gpus, [gpu("GPU-0", 24 * GIB, 4 * GIB, name="L4"), gpu("GPU-1", 24 * GIB, name="L4")])
    document = json.loads(cli("doctor", config(tmp_path, "{gpu_memory: 6GiB}"), "-o", "json")[0])
    assert (document["driver"], document["cuda"], document["faults"]) == ("580.65.06", "13.0", [])
    assert [each["uuid"] for each in document["gpus"]] == ["GPU-0", "GPU-1"]
    (iris,) = document["models"]
    assert (iris["devices"], iris["needs"]) == (["GPU 1 (L4)"], "6.0 GiB (`gpu_memory`)")
    text, _ = cli("doctor", config(tmp_path, "{gpu_memory: 40GiB}"), code=1)
    assert "to mend: iris: needs 40.0 GiB (`gpu_memory`); GPU 0 (L4) has 4.0 GiB free of 24.0 GiB" in text


def test_a_terminal_says_what_is_waited_for_and_a_pipe_gets_the_answer_alone(
    cli: Cli, gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gpus(gpus, [gpu("GPU-0", 24 * GIB, name="L4")])
    file = config(tmp_path, "{gpu_memory: 6GiB}")
    text, error = cli("doctor", file, "-o", "json")
    assert (json.loads(text)["faults"], error) == ([], "")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(doctor, "err", Console(file=screen, force_terminal=True, width=80))

    def engines() -> tuple[Engine, ...]:
        wait(lambda: "importing ONNX Runtime and PyTorch" in screen.getvalue())
        return (ORT,)

    monkeypatch.setattr(gpu_libraries, "engines", engines)
    text, _ = cli("doctor", file)
    assert "importing" not in text
    assert text.endswith("nothing to mend\n")
