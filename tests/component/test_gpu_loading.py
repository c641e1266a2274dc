"""A worker loads its model on a GPU, or says why it cannot; NVML is made up, and no GPU is here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.contract import AppName, NodeSettings, WorkerSpec
from gateway.errors import KitserveError, UnusableModel
from gateway.gpus import nvml
from gateway.gpus.nvml import Nvml
from gateway.gpus.placement import Demand
from gateway.kits.memory import Need
from gateway.kits.model import load
from gateway.kits.policy import ANYTHING
from gateway.metrics.tally import Tally
from gateway.oci.options import SourceOptions
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import parse_reference
from gateway.serving import Serving
from gateway.worker import gpu_loading, loading
from gateway.worker.load_limit import LoadLimit
from gateway.worker.loading import Loader
from runtimes import onnx_activations
from runtimes.signature import CPU, Resources
from tests.support.fake_nvml import GIB, gpu, library, write_gpus

IRIS = "oci-layout:configs/samples:samples/iris:v1"


class Node:
    """A node that loads the iris sample; `notes` is what its worker tells."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.file = directory / "gpus.json"
        self.notes: dict[str, Any] = {}
        monkeypatch.setattr(nvml, "_NVML", Nvml(library(self.file)))
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.setenv(name, "")

    def load(self, resources: Resources, measured: int | None = None) -> None:
        from gateway.kits.library import Library, cache_directory

        home = self.directory / "home"
        reference = parse_reference(IRIS)
        kit = Library(cache_directory(home)).describe(reference)
        spec = WorkerSpec(
            app=AppName("iris.v1.1"),
            model="iris",
            reference=PinnedReference.of(reference, kit.digest),
            parents=(),
            runtime=None,
            file=None,
            serving=Serving(resources=resources),
            golden=None,
            policy=ANYTHING,
            sources=SourceOptions(),
            cache_limit=None,
            node=NodeSettings(home, "127.0.0.1", "", "", drain_seconds=0.0),
            gpu_bytes=measured,
        )
        limit = LoadLimit(home, spec.app, 60, lambda _: None)
        loader = Loader(spec, Tally(), lambda **changes: self.notes.update(changes), limit)
        opened = loader.open()
        servable = loader.load(opened, lambda: None)
        servable.model.close()
        servable.lease.release()

    @property
    def claims(self) -> list[Path]:
        return [path for path in (self.directory / "home" / "gpus").glob("*") if path.name != "lock"]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_a_gpu_that_is_not_there_is_an_error_and_never_the_cpu(node: Node) -> None:
    with pytest.raises(UnusableModel, match="needs a GPU, and there is none: no driver of NVIDIA's"):
        node.load(Resources(device="gpu"))


def test_the_cpu_computes_where_the_config_prefers_a_gpu(node: Node) -> None:
    node.load(Resources(device="prefer-gpu"))
    trouble = "it needs a GPU, and there is none: no driver of NVIDIA's is installed"
    assert node.notes["gpu_trouble"] == trouble
    assert "gpus" not in node.notes


def test_an_engine_that_cannot_use_the_gpu_says_why_and_gives_it_back(node: Node) -> None:
    write_gpus(node.file, [gpu("GPU-0", 24 * GIB)])
    with pytest.raises(KitserveError, match="ONNX Runtime"):
        node.load(Resources(gpu_memory=GIB))
    node.load(Resources(gpu_memory=24 * GIB, device="prefer-gpu"))
    assert "ONNX Runtime" in node.notes["gpu_trouble"]


def test_what_does_not_fit_is_refused_with_the_sum(node: Node) -> None:
    write_gpus(node.file, [gpu("GPU-0", GIB // 4)])
    with pytest.raises(
        UnusableModel,
        match=r"iris:v1.*: needs 512 MiB: .* \+ 512 MiB buffers; GPU 0 has 256 MiB free of 256 MiB$",
    ):
        node.load(Resources(device="gpu"))
    # What no GPU here has was never taken here.
    with pytest.raises(UnusableModel, match="needs 512 MiB: "):
        node.load(Resources(device="gpu"), measured=2 * GIB)


def test_a_need_is_called_a_guess_where_the_shapes_cannot_be_told(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gpus(node.file, [gpu("GPU-0", GIB // 4)])
    monkeypatch.setattr(onnx_activations, "_SECONDS", 0.0)
    with pytest.raises(UnusableModel, match=r"\+ 512 MiB buffers \(a guess\); GPU 0 has"):
        node.load(Resources(device="gpu"))


def test_a_need_without_measure_is_refused_as_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gpus(node.file, [gpu("GPU-0")])
    monkeypatch.setattr(onnx_activations, "activations", lambda *_: 1 << 5000)
    with pytest.raises(UnusableModel, match=r"needs more than an EiB: .* \+ more than an EiB buffers; GPU 0"):
        node.load(Resources(device="gpu"))


@pytest.mark.parametrize(("said", "believed"), [(1 << 50, None), (1, "weights"), (GIB, GIB)])
def test_what_a_worker_said_that_it_took_is_no_more_than_a_gpu_has_and_no_less_than_the_weights(
    node: Node, monkeypatch: pytest.MonkeyPatch, said: int, believed: int | str | None
) -> None:
    demands: list[int | None] = []
    write_gpus(node.file, [gpu("GPU-0", 2 * GIB), gpu("GPU-1", 4 * GIB)])

    def gpu_demand(resources: Resources, need: Need | None, measured: int | None) -> Demand:
        demands.append(measured)
        assert (need is None) == (measured is not None)
        return Demand(100 * GIB, "too much")

    monkeypatch.setattr(gpu_loading, "gpu_demand", gpu_demand)
    with pytest.raises(UnusableModel, match="too much"):
        node.load(Resources(device="gpu"), measured=said)
    (model,) = node.directory.rglob("*.onnx")
    assert demands == [model.stat().st_size if believed == "weights" else believed]


def test_a_model_on_a_gpu_is_told_with_what_it_took(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gpus(node.file, [gpu("GPU-0"), gpu("GPU-1", name="L4")])
    loaded_with: list[Resources] = []

    def load_there(kit: Any, choice: Any, resources: Resources, *others: Any) -> Any:
        loaded_with.append(resources)
        write_gpus(node.file, [gpu("GPU-0"), gpu("GPU-1", free=21 * GIB, name="L4")])
        return load(kit, choice, Resources(device=CPU), *others)

    monkeypatch.setattr(loading, "load", load_there)
    node.load(Resources(gpu_memory=6 * GIB, device="1"))
    assert [(each.gpus, each.gpu_memory) for each in loaded_with] == [(1.0, 6 * GIB)]
    assert (node.notes["gpus"], node.notes["gpu_bytes"]) == ("GPU 1 (L4)", 3 * GIB)
    (claim,) = node.claims
    assert f'"size": {3 * GIB}' in claim.read_text()


def test_several_gpus_are_given_together_and_the_engine_is_told_how_many(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gpus(node.file, [gpu("GPU-0"), gpu("GPU-1"), gpu("GPU-2")])
    seen: list[tuple[float, int | None, str]] = []

    def load_there(kit: Any, choice: Any, resources: Resources, *others: Any) -> Any:
        seen.append((resources.gpus, resources.gpu_memory, os.environ["CUDA_VISIBLE_DEVICES"]))
        return load(kit, choice, Resources(device=CPU), *others)

    monkeypatch.setattr(loading, "load", load_there)
    node.load(Resources(gpu_memory=6 * GIB, device="2,0"))
    assert seen == [(2.0, 6 * GIB, "2,0")]
    (claim,) = node.claims
    document = json.loads(claim.read_text())
    assert document["devices"] == ["GPU-2", "GPU-0"]
    assert node.notes["gpus"] == "GPU 2, GPU 0"


def test_of_several_gpus_the_one_without_room_is_named(node: Node) -> None:
    write_gpus(node.file, [gpu("GPU-0"), gpu("GPU-1", 4 * GIB)])
    with pytest.raises(
        UnusableModel, match=r"needs 6\.0 GiB \(`gpu_memory`\); GPU 1 has 4\.0 GiB free of 4\.0 GiB$"
    ):
        node.load(Resources(gpu_memory=6 * GIB, device="0,1"))
