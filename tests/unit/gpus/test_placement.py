"""Which GPU a worker gets, and with which sum it is refused."""

from __future__ import annotations

import pytest

from gateway.gpus.devices import Gpu, Gpus, MigSlice
from gateway.gpus.placement import Claim, Demand, Unplaced, cuda_environment, place
from tests.support.fake_nvml import GIB

TERMS = "9.2 GiB: 7.9 GiB weights + 1.3 GiB key-value cache (4 slots of 8192 tokens)"


def gpus(*free: float, total: float = 24) -> Gpus:
    return Gpus(
        tuple(
            Gpu(index, f"GPU-{index}", "L4", int(total * GIB), int(room * GIB))
            for index, room in enumerate(free)
        )
    )


def demand(size: float | None, *names: str, is_whole: bool = False) -> Demand:
    return Demand(None if size is None else int(size * GIB), TERMS, names, is_whole)


def claim(size: float, *uuids: str, is_whole: bool = False) -> Claim:
    return Claim(uuids, int(size * GIB), is_whole)


def placed(wanted: Demand, there: Gpus, *claims: Claim, visible: str | None = None) -> list[str]:
    return [device.uuid for device in place(wanted, there, claims, visible)]


def test_several_workers_share_a_gpu_as_its_memory_allows() -> None:
    assert placed(demand(9), gpus(24)) == ["GPU-0"]
    assert placed(demand(9), gpus(24), claim(9, "GPU-0")) == ["GPU-0"]
    with pytest.raises(Unplaced):
        placed(demand(9), gpus(24), claim(9, "GPU-0"), claim(9, "GPU-0"))


def test_the_gpu_with_the_least_room_that_is_enough_is_taken() -> None:
    assert placed(demand(9), gpus(24, 10, 6)) == ["GPU-1"]
    assert placed(demand(9), gpus(24, 10, 6), claim(2, "GPU-1")) == ["GPU-0"]


def test_a_refusal_has_the_sum_and_what_each_gpu_has() -> None:
    with pytest.raises(Unplaced) as caught:
        placed(demand(9.2), gpus(6.1, 8, total=23.7), claim(3, "GPU-1"))
    assert str(caught.value) == (
        f"needs {TERMS}; GPU 0 (L4) has 6.1 GiB free of 23.7 GiB; "
        "GPU 1 (L4) has 8.0 GiB free of 23.7 GiB, of which workers that run may take 3.0 GiB"
    )
    assert caught.value.may_pass, "another worker may end"


def test_what_no_gpu_can_ever_hold_does_not_pass() -> None:
    with pytest.raises(Unplaced) as caught:
        placed(demand(30), gpus(24, 24))
    assert not caught.value.may_pass


def test_a_worker_whose_need_nobody_knows_gets_a_gpu_of_its_own() -> None:
    assert placed(demand(None), gpus(24, 24), claim(1, "GPU-0")) == ["GPU-1"]
    assert placed(demand(9), gpus(24, 20), claim(0, "GPU-1", is_whole=True)) == ["GPU-0"]
    with pytest.raises(Unplaced, match=r"GPU 0 \(L4\) is another worker's alone"):
        placed(demand(9), gpus(24), claim(0, "GPU-0", is_whole=True))


def test_a_worker_gets_the_gpus_that_it_names() -> None:
    assert placed(demand(9, "1"), gpus(24, 12)) == ["GPU-1"]
    assert placed(demand(9, "GPU-1", "0"), gpus(24, 12)) == ["GPU-1", "GPU-0"]
    with pytest.raises(Unplaced, match=r"GPU 1 \(L4\) has 6.0 GiB free"):
        placed(demand(9, "1"), gpus(24, 6))
    with pytest.raises(Unplaced, match=r"`device` names 2, and this machine has GPU 0 \(L4\) GPU-0"):
        placed(demand(9, "2"), gpus(24))


def test_the_slices_of_mig_are_placed_like_gpus() -> None:
    parts = tuple(MigSlice(f"MIG-{n}", "1g.10gb", 10 * GIB, free * GIB) for n, free in ((1, 4), (2, 10)))
    there = Gpus((Gpu(0, "GPU-0", "H100", 80 * GIB, 80 * GIB, is_mig=True, slices=parts),))
    assert placed(demand(9), there) == ["MIG-2"]
    assert placed(demand(3, "MIG-1"), there) == ["MIG-1"]
    with pytest.raises(Unplaced, match=r"has MIG on, .* name one \(MIG-1, MIG-2\)"):
        placed(demand(9, "0"), there)
    chosen = place(demand(9), there, ())
    assert cuda_environment(chosen, there)["CUDA_VISIBLE_DEVICES"] == "MIG-2"


def test_cuda_sees_the_gpus_by_the_numbers_of_nvml() -> None:
    there = gpus(24, 24)
    environment = cuda_environment(place(demand(1, "1", "0"), there, ()), there)
    assert environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}


def test_only_the_gpus_that_kitserve_sees_are_used() -> None:
    assert placed(demand(1), gpus(24, 20, 10), visible="0, GPU-1") == ["GPU-1"]
    with pytest.raises(Unplaced, match="names no GPU here"):
        placed(demand(1), gpus(24), visible="7")


def test_without_gpus_the_reason_is_told() -> None:
    with pytest.raises(Unplaced, match="there is none: no driver of NVIDIA's is installed") as caught:
        placed(demand(1), Gpus(trouble="no driver of NVIDIA's is installed"))
    assert not caught.value.may_pass
