"""What NVML tells of GPUs; a module with the calls of nvidia-ml-py stands in for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pynvml
import pytest

from gateway.gpus.devices import Gpu, Gpus, MigSlice
from gateway.gpus.nvml import Nvml, read_gpus
from gateway.gpus.watch import GpuWatch
from tests.support.fake_nvml import GIB, gpu, library, write_gpus
from tests.support.waiting import wait

_CALLS = [name for name in vars(library(Path("/nonexistent"))) if name.startswith("nvml")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gpus.json"


def test_each_gpu_tells_what_it_can(file: Path) -> None:
    nvml = Nvml(library(file))
    assert nvml.read() == Gpus(trouble="no driver of NVIDIA's is installed")
    full = gpu(
        "GPU-4f",
        80 * GIB,
        79 * GIB,
        name="NVIDIA H100",
        utilization=37,
        power=351_200,
        limit=700_000,
        reasons=0x1 | 0x4 | 0x20,
        capability=[9, 0],
        processes={"77": GIB},
    )
    write_gpus(file, [full, {"uuid": "GPU-50"}])
    gpus = nvml.read()
    assert gpus == Gpus(
        (
            Gpu(
                index=0,
                uuid="GPU-4f",
                name="NVIDIA H100",
                total=80 * GIB,
                free=79 * GIB,
                utilization=0.37,
                power=351.2,
                power_limit=700.0,
                throttle_reasons=("sw_power_cap", "sw_thermal_slowdown"),
                compute_capability=(9, 0),
                processes={77: GIB},
            ),
            Gpu(1, "GPU-50"),
        ),
        driver="580.65.06",
        cuda="13.0",
    )
    assert [device.used for device in gpus] == [GIB, None]
    assert (gpus.process_bytes(77), gpus.process_bytes(78)) == (GIB, None)
    assert (gpus.device("0"), gpus.device("GPU-50"), gpus.device("2")) == (gpus.gpus[0], gpus.gpus[1], None)


def test_the_slices_of_a_gpu_with_mig_compute_and_it_does_not(file: Path) -> None:
    parts = [gpu(f"MIG-{number}", 10 * GIB, 9 * GIB, processes={"5": GIB}) for number in (1, 2)]
    write_gpus(file, [gpu("GPU-0", mig=parts), gpu("GPU-1")])
    gpus = Nvml(library(file)).read()
    part = MigSlice("MIG-1", "", 10 * GIB, 9 * GIB, {5: GIB})
    assert [device.uuid for device in gpus.devices] == ["MIG-1", "MIG-2", "GPU-1"]
    assert gpus.device("MIG-1") == part
    assert gpus.process_bytes(5) == 2 * GIB


def test_earlier_drivers_tell_reasons_under_their_earlier_name(file: Path) -> None:
    write_gpus(file, [gpu(throttle_reasons=0x80)])
    assert Nvml(library(file)).read().gpus[0].throttle_reasons == ("hw_power_brake_slowdown",)


def test_a_driver_that_was_taken_away_is_opened_again(file: Path) -> None:
    module = library(file)
    nvml = Nvml(module)
    write_gpus(file, [gpu()])
    assert len(nvml.read()) == 1
    module.nvmlShutdown()
    assert nvml.read().trouble == "NVML says: Uninitialized"
    assert len(nvml.read()) == 1


@pytest.mark.parametrize("name", _CALLS)
def test_the_real_library_has_the_calls_of_the_stand_in(name: str) -> None:
    assert callable(getattr(pynvml, name))


def test_this_machine_tells_its_gpus_or_why_not() -> None:
    gpus = read_gpus()
    assert len(gpus) or gpus.trouble


def test_a_watch_tells_what_was_read_last(file: Path) -> None:
    write_gpus(file, [gpu()])
    watch = GpuWatch(Nvml(library(file)).read)
    wait(lambda: len(watch.latest()) == 1)


def test_a_driver_that_hangs_holds_nobody_up() -> None:
    release, asked = threading.Event(), []

    def read() -> Gpus:
        asked.append(1)
        release.wait(10)
        return Gpus()

    watch = GpuWatch(read)
    assert [watch.latest() for _ in range(5)] == [Gpus()] * 5
    wait(lambda: asked != [])
    assert watch.latest() == Gpus()
    release.set()
    assert len(asked) == 1, "it is not asked a second time beside"
