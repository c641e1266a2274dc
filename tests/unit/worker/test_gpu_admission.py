"""Workers of a node claim GPUs before they load; NVML is made up."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.gpus.nvml import Nvml
from gateway.gpus.placement import Demand, Unplaced
from gateway.worker.gpu_admission import GpuAdmission, Placed
from tests.support.fake_nvml import GIB, gpu, library, write_gpus

Admit = Callable[..., Placed | None]


class Node:
    """A node with GPUs; `environment` is that of the worker which comes next."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "gpus.json"
        self.claims = directory / "gpus"
        self.environment: dict[str, str] = {}
        self.waits: list[str] = []
        self.while_waiting: Callable[[], object] = lambda: None

    def has(self, *free: float, **fields: object) -> None:
        write_gpus(
            self.file, [gpu(f"GPU-{n}", 24 * GIB, room * GIB, **fields) for n, room in enumerate(free)]
        )

    def admit(self, size: float | None, is_reserved: bool = False, seconds: float = 0) -> Placed | None:
        def wait(reason: str) -> None:
            self.waits.append(reason)
            self.while_waiting()

        self.environment = dict(self.environment) if is_reserved else {}
        read = Nvml(library(self.file)).read
        admission = GpuAdmission(self.claims, read, self.environment, waits=wait, wait_seconds=seconds)
        return admission.admit(
            Demand(None if size is None else int(size * GIB), "its sum"), is_reserved=is_reserved
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_worker_sees_its_gpu_alone_and_others_leave_it_what_it_claimed(node: Node) -> None:
    node.has(24, 12)
    first = node.admit(10)
    assert first is not None
    assert node.environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    assert node.admit(10) is not None
    assert node.environment["CUDA_VISIBLE_DEVICES"] == "0", "of GPU 1, 2 GiB are left"
    first.release()
    assert node.admit(10) is not None
    assert node.environment["CUDA_VISIBLE_DEVICES"] == "1", "a worker that is gone claims nothing"


def test_what_a_worker_has_taken_is_not_claimed_twice(node: Node) -> None:
    node.has(24)
    first = node.admit(10)
    assert first is not None
    node.has(16)
    used = first.used([])
    assert used == 8 * GIB
    first.loaded(used)
    assert node.admit(14) is not None
    with pytest.raises(Unplaced, match=r"workers that run may take 16\.0 GiB"):
        node.admit(1)


def test_nvml_tells_what_a_process_has(node: Node) -> None:
    node.has(24)
    placed = node.admit(10)
    assert placed is not None
    node.has(10, processes={str(os.getpid()): 3 * GIB, "1": GIB})
    assert placed.used([os.getpid()]) == 3 * GIB


def test_a_worker_waits_for_room_while_versions_go_to_sleep(node: Node) -> None:
    node.has(4)
    node.while_waiting = lambda: node.has(12)
    assert node.admit(10, seconds=10) is not None
    assert node.waits == ["needs its sum; GPU 0 has 4.0 GiB free of 24.0 GiB"]
    with pytest.raises(Unplaced):
        node.admit(30, seconds=10)
    assert len(node.waits) == 1, "no GPU is so large"


def test_a_gpu_that_ray_chose_is_checked_and_kept(node: Node) -> None:
    node.has(4, 24)
    node.environment = {"CUDA_VISIBLE_DEVICES": "0"}
    with pytest.raises(Unplaced, match=r"GPU 0 has 4\.0 GiB free"):
        node.admit(10, is_reserved=True)
    node.environment = {"CUDA_VISIBLE_DEVICES": "1"}
    placed = node.admit(10, is_reserved=True)
    assert placed is not None
    assert placed.names == "GPU 1"


def test_gpus_that_ray_declares_and_nvml_does_not_know_are_left_as_they_are(node: Node) -> None:
    node.environment = {"CUDA_VISIBLE_DEVICES": "0"}
    assert node.admit(10, is_reserved=True) is None
    assert node.environment == {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_worker_whose_need_nobody_knows_has_its_gpu_alone(node: Node) -> None:
    node.has(24)
    assert node.admit(None) is not None
    with pytest.raises(Unplaced, match="another worker's alone"):
        node.admit(1)


def test_files_that_are_no_claims_are_removed(node: Node) -> None:
    node.has(24)
    node.claims.mkdir()
    (node.claims / "stray").write_text("what is this")
    (node.claims / "directory").mkdir()
    nested = node.claims / "nested"
    nested.write_text("[" * 4000)
    with nested.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert node.admit(24) is not None
    assert not (node.claims / "stray").exists()
    assert not nested.exists()
