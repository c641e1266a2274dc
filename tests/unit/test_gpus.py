"""What the driver's command tells of GPUs; a script stands in for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gateway.metrics.gpus import Gpu, GpuWatch, gpus
from tests.support.waiting import wait

MIB = 1 << 20


def test_each_gpu_tells_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()
    assert GpuWatch().latest() == ()
    command = tmp_path / "nvidia-smi"
    lines = ("0, GPU-4f, 81559, 1024, 37", "1, GPU-50, [N/A], [N/A], [N/A]", "what is this")
    command.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    command.chmod(0o755)
    expected = (
        Gpu("0", "GPU-4f", 81559 * MIB, 1024 * MIB, 0.37),
        Gpu("1", "GPU-50", None, None, None),
    )
    assert gpus() == expected
    watch = GpuWatch()
    wait(lambda: watch.latest() == expected)


def test_a_driver_that_hangs_holds_nobody_up() -> None:
    release, asked = threading.Event(), []

    def read() -> tuple[Gpu, ...]:
        asked.append(1)
        release.wait(10)
        return ()

    watch = GpuWatch(read)
    assert [watch.latest() for _ in range(5)] == [()] * 5
    release.set()
    assert len(asked) == 1, "it is not asked a second time beside"
