"""A new version that has no room on a GPU beside the one that serves: said by the plan."""

from __future__ import annotations

from dataclasses import replace

from gateway.control.planning.gpu_room import room_note
from gateway.control.state.desired import DesiredModel
from gateway.gpus.devices import Gpu, Gpus
from gateway.gpus.placement import Demand
from gateway.oci.reference import parse_reference
from gateway.serving import Serving
from runtimes.signature import Resources
from tests.support.fake_nvml import GIB

KIT = parse_reference("registry.test/iris:v2")
FULL = Gpus((Gpu(0, "GPU-0", "L4", 24 * GIB, 6 * GIB),))
NEED = Demand(9 * GIB, "9.0 GiB: 8.0 GiB weights + 1.0 GiB buffers")


def note(demand: Demand | None, gpus: Gpus = FULL, surge: int = 1, has_earlier: bool = True) -> str:
    return room_note(DesiredModel("iris", KIT, surge=surge), demand, gpus, has_earlier=has_earlier)


def test_a_rollout_that_needs_both_versions_on_one_full_gpu_is_told_of_before_it_starts() -> None:
    assert note(NEED) == (
        "no GPU has room for it beside the version that serves: it needs 9.0 GiB: 8.0 GiB weights + 1.0 GiB "
        "buffers; GPU 0 (L4) has 6.0 GiB free of 24.0 GiB; with `rollout: {surge: 0}` that version "
        "ends first, and nothing answers meanwhile"
    )


def test_the_gap_of_a_swap_is_told() -> None:
    assert note(NEED, surge=0).startswith("`surge: 0`: nothing answers from the end")


def test_nothing_is_said_where_there_is_room_or_nothing_is_known() -> None:
    assert note(Demand(5 * GIB, "5.0 GiB")) == ""
    assert note(None) == ""
    assert note(NEED, Gpus()) == ""
    assert note(NEED, has_earlier=False) == ""
    assert note(NEED, surge=0, has_earlier=False) == ""


def test_a_machine_without_gpus_is_told_of_by_the_first_plan() -> None:
    none = Gpus(trouble="no driver")
    model = DesiredModel("iris", KIT, serving=Serving(resources=Resources(gpu_memory=2 * GIB)))
    text = "it needs a GPU, and there is none: no driver"
    assert room_note(model, NEED, none, has_earlier=False) == text
    assert room_note(replace(model, surge=0), None, none, has_earlier=True) == text
    may_use_cpu = Serving(resources=Resources(gpu_memory=2 * GIB, device="prefer-gpu"))
    assert room_note(replace(model, serving=may_use_cpu), NEED, none, has_earlier=False) == ""
