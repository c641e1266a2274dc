"""A version that cannot be served is refused before Serve hears of it; the rest is left to the worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.config import GatewayConfig
from gateway.control.loop import judge as judge_module
from gateway.control.loop import tasks as tasks_module
from gateway.control.loop.judge import Judge, check_version
from gateway.control.state.database import State
from gateway.control.state.desired import desired_from
from gateway.control.state.versions import Version, version_of
from gateway.errors import RegistryUnavailable, UnusableModel
from gateway.gpus.devices import Gpu, Gpus
from gateway.kits import examination
from gateway.kits.library import Library, UnpackedKit, cache_directory
from gateway.kits.policy import ANYTHING
from gateway.metrics.machine import MachineMemory
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from runtimes.engines.base import Memory
from runtimes.formats import Format
from runtimes.select import Choice
from tests.support.artifacts import LayoutBuilder
from tests.support.control_plane import wait_for_tasks
from tests.support.kitops import pack_kit
from tests.support.language import GIB, MadeUpEngines
from tests.support.model_files import external_onnx, identity_onnx
from tests.support.waiting import wait


class Plane:
    """A state, a judge, and kits in a layout."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.builder = LayoutBuilder(home / "layout")
        self.state = State(home / "state.db")
        self.judge = Judge(self.state, home, lambda: None)

    def version(self, name: str, data: bytes | None, **fields: object) -> Version:
        """Pack a kit, none where there are no data, apply a config with it, and return its version."""
        digest = Digest.of(b"nothing")
        if data is not None:
            packed = pack_kit(self.builder, f"{name}:v1", ("model", "model.onnx", {"model.onnx": data}))
            digest = Digest.parse(packed)
        kit = f"oci-layout:{self.builder.directory}:{name}:v1"
        model = {"name": name, "kit": kit, **fields}
        desired = desired_from(GatewayConfig.model_validate({"models": [model]}))
        generation = self.state.apply(desired, "{}")
        return version_of(desired.models[0], PinnedReference.of(parse_reference(kit), digest), generation)

    def judged(self, version: Version) -> str | None:
        """Tick until a version is judged; return why it is refused, None if it is admitted."""

        def is_judged() -> bool:
            if version.kind in self.state.failures():
                return True
            return self.judge.admitted([version], {}) == [version]

        wait(is_judged)
        return self.state.failures().get(version.kind)


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.0)
    plane = Plane(tmp_path)
    yield plane
    plane.judge.stop()
    wait_for_tasks()
    plane.state.close()


def test_what_can_be_served_is_admitted_and_is_here_for_the_worker(plane: Plane) -> None:
    version = plane.version("good", identity_onnx())
    assert plane.judge.admitted([version], {}) == []
    assert plane.judged(version) is None
    library = Library(cache_directory(plane.home))
    (kit,) = library.cache.kits()
    assert (kit.digest, kit.in_use) == (version.digest, False)


@pytest.mark.parametrize(
    ("data", "fields", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", {}, "is a Git LFS pointer"),
        (external_onnx("elsewhere")[0], {}, "keeps weights in 'elsewhere'"),
        (identity_onnx(), {"file": "other.onnx"}, "there is no file 'other.onnx'"),
        (identity_onnx(), {"runtime": "torchscript"}, "runtime 'torchscript' does not read model.onnx"),
        (
            identity_onnx(),
            {"inputs": [{"name": "ids", "datatype": "FP32"}]},
            "the config states an input 'ids', but the model has 'x'",
        ),
        (identity_onnx(), {"trust": {"licenses": ["MIT"]}}, "the policy allows the licenses MIT only"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    plane: Plane, data: bytes, fields: dict[str, object], text: str
) -> None:
    refusal = plane.judged(plane.version("bad", data, **fields))
    assert refusal is not None
    assert text in refusal


def test_a_refusal_is_forgotten_with_the_next_config(plane: Plane) -> None:
    version = plane.version("bad", b"")
    assert plane.judged(version) is not None
    again = plane.version("bad", b"")
    assert plane.state.failures() == {}
    assert plane.judge.admitted([again], {}) == []
    assert plane.judged(again) is not None


def test_a_version_that_was_deployed_before_is_not_judged(plane: Plane) -> None:
    version = plane.version("bad", b"")
    assert plane.judge.admitted([version], {version.app}) == [version]
    assert plane.state.failures() == {}


def test_a_source_that_is_away_leaves_the_judgement_to_the_worker(plane: Plane) -> None:
    assert plane.judged(plane.version("missing", None)) is None


def test_a_registry_that_breaks_off_leaves_it_too(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise RegistryUnavailable("no answer")

    monkeypatch.setattr(judge_module, "check_version", silent)
    assert plane.judged(plane.version("good", identity_onnx())) is None


def test_what_cannot_be_read_here_is_left_to_the_worker(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError("/proc/meminfo cannot be read")

    monkeypatch.setattr(judge_module, "check_version", unreadable)
    assert plane.judged(plane.version("good", identity_onnx())) is None


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PULL_LIMIT_BYTES", 10)


@pytest.mark.usefixtures("all_are_large")
def test_a_large_kit_is_judged_only_where_it_is_here(plane: Plane) -> None:
    version = plane.version("bad", b"")
    assert plane.judged(version) is None
    library = Library(cache_directory(plane.home))
    assert library.cache.kits() == []
    library.open(version.reference.reference).lease.release()
    model = plane.state.desired().models[0]
    with pytest.raises(UnusableModel, match="is empty"):
        check_version(library, version, model.policy)


def test_weights_in_a_code_layer_make_a_kit_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PULL_LIMIT_BYTES", 100_000)
    builder = LayoutBuilder(tmp_path / "layout")
    library = Library(tmp_path / "library")
    for size, is_small in ((10_000, True), (30_000, False)):
        model, weights = external_onnx("w", size)
        pack_kit(builder, f"kit:{size}", ("model", "m", {"m": model}), ("code", ".", {"w": weights}))
        kit = library.describe(parse_reference(f"oci-layout:{builder.directory}:kit:{size}"))
        assert examination.is_small(library, kit) is is_small


@pytest.mark.usefixtures("all_are_large")
def test_of_a_large_kit_the_policy_is_judged(plane: Plane) -> None:
    refusal = plane.judged(plane.version("bad", identity_onnx(), trust={"licenses": ["MIT"]}))
    assert refusal is not None
    assert "licenses" in refusal


def test_a_language_model_that_the_machine_can_never_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = Plane(tmp_path)
    version = plane.version("chat", b"GGUF weights")
    gpus = plane.version("fast", b"GGUF weights", resources={"gpus": 1})
    library = Library(cache_directory(tmp_path))

    def choose(kit: UnpackedKit, *_: object, **__: object) -> Choice:
        return Choice(MadeUpEngines(Memory(10 * GIB)), kit.model_path, Format.GGUF)

    monkeypatch.setattr(examination, "choose_runtime", choose)
    with pytest.raises(UnusableModel, match=r"needs 10\.0 GiB: .*; this machine has 8\.0 GiB"):
        check_version(library, version, ANYTHING, MachineMemory(8 * GIB, 8 * GIB))
    # It may be free later, and on a cluster another machine's memory counts.
    check_version(library, version, ANYTHING, MachineMemory(16 * GIB, 0))
    check_version(library, version, ANYTHING)
    check_version(library, gpus, ANYTHING, MachineMemory(8 * GIB, 8 * GIB))


def test_a_version_that_no_gpu_could_hold_is_refused_before_the_one_that_it_swaps_with_is_stopped(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Gpu(0, "GPU-0", "L4", 24 * GIB, GIB)
    resources, swap = {"gpu_memory": "16GiB"}, {"surge": 0}
    monkeypatch.setattr(judge_module, "read_gpus", lambda: Gpus(trouble="no driver"))
    without = plane.judged(plane.version("without", identity_onnx(), resources=resources, rollout=swap))
    assert (without or "").endswith(": it needs a GPU, and there is none: no driver")
    may_use_cpu = {**resources, "device": "prefer-gpu"}
    assert plane.judged(plane.version("cpu", identity_onnx(), resources=may_use_cpu, rollout=swap)) is None
    monkeypatch.setattr(judge_module, "read_gpus", lambda: Gpus((small,)))
    assert plane.judged(plane.version("full", identity_onnx(), resources=resources, rollout=swap)) is None
    larger = plane.version("larger", identity_onnx(), resources={"gpu_memory": "32GiB"}, rollout=swap)
    assert "needs 32.0 GiB (`gpu_memory`)" in (plane.judged(larger) or "")
