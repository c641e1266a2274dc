"""Which kit of an index is meant: by its labels, or by the memory that is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import KitError, NotAKit
from gateway.gpus.nvml import Nvml
from gateway.kits.library import Library
from gateway.kits.variants import Candidate, IndexEntry, Room
from gateway.metrics import machine
from gateway.metrics.machine import MachineMemory
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest, Reference, parse_reference
from tests.support.artifacts import LayoutBuilder
from tests.support.dialects import gguf, modelkit, modelkit_index
from tests.support.fake_nvml import gpu, library, write_gpus

MB = 1_000_000
LABELS: dict[str, dict[str, Any]] = {
    "q4": {"quantization": "q4_0", "vram": "1GB"},
    "q8": {"quantization": "q8_0", "vram": "2GB", "bits": 8},
    "bf16": {"quantization": "bf16", "vram": "4 GB"},
}


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "layout")


@pytest.fixture
def digests(builder: LayoutBuilder) -> dict[str, str]:
    """An index `llm:all` of three kits that are also there by themselves."""
    digests = {}
    for size, tag in enumerate(LABELS, 1):
        digests[tag] = modelkit(builder, f"llm:{tag}", {"m.gguf": gguf(tag, size * 20_000)})
    modelkit_index(builder, "llm:all", {f"llm:{tag}": labels for tag, labels in LABELS.items()})
    return digests


Describe = Callable[..., Any]


@pytest.fixture
def describe(tmp_path: Path, builder: LayoutBuilder) -> Describe:
    library = Library(tmp_path / "cache")

    def describe(name: str, free: int = 0, chosen: Digest | None = None) -> Any:
        reference: Reference = parse_reference(f"oci-layout:{builder.directory}:{name}")
        return library.describe(reference, room=lambda: Room(free, chosen=chosen))

    return describe


@pytest.mark.parametrize(
    ("labels", "tag"),
    [
        ("quantization=q4_0", "q4"),
        ("vram=2GB", "q8"),
        ("bits=8", "q8"),
        ("quantization=bf16,vram=4%20GB", "bf16"),
    ],
)
def test_labels_name_one_kit(digests: dict[str, str], describe: Describe, labels: str, tag: str) -> None:
    kit = describe(f"llm:all[{labels}]")
    assert str(kit.digest) == digests[tag]
    assert kit.reference.variant is None
    assert kit.reference.tag == "all"
    assert (kit.choice.reason, "quantization=" in kit.choice.labels) == ("", True)
    # What a worker is told names the kit itself.
    assert describe(f"llm:all@{kit.digest}").digest == kit.digest


@pytest.mark.usefixtures("digests")
def test_labels_of_no_kit_or_of_several(builder: LayoutBuilder, describe: Describe) -> None:
    with pytest.raises(NotAKit) as caught:
        describe("llm:all[quantization=q5_0]")
    for tag in LABELS:
        assert f"quantization={LABELS[tag]['quantization']}" in str(caught.value)
    assert "has no kit with quantization=q5_0; it has sha256:" in str(caught.value)
    modelkit_index(builder, "llm:two", {"llm:q4": {"a": "1", "b": "1"}, "llm:q8": {"a": "1", "b": "2"}})
    with pytest.raises(NotAKit, match=r"has 2 kits with a=1: .*b=1.*b=2.*; add a label"):
        describe("llm:two[a=1]")
    with pytest.raises(NotAKit, match="say which with `variant`"):
        describe("llm:two")


@pytest.mark.parametrize(
    ("free", "tag"), [(4000 * MB, "bf16"), (3999 * MB, "q8"), (2000 * MB, "q8"), (1000 * MB, "q4")]
)
def test_auto_takes_the_largest_that_fits(
    digests: dict[str, str], describe: Describe, free: int, tag: str
) -> None:
    kit = describe("llm:all[auto]", free)
    assert str(kit.digest) == digests[tag]
    assert kit.choice.reason.startswith(f"variant {kit.choice.labels}: it is the largest")
    assert "of memory are free on this machine" in kit.choice.reason


def test_auto_keeps_what_it_chose(
    digests: dict[str, str], builder: LayoutBuilder, describe: Describe
) -> None:
    chosen = Digest.parse(digests["q4"])
    assert describe("llm:all[auto]", 4000 * MB, chosen).digest == chosen
    assert describe("llm:all[auto]", 0, chosen).choice.reason.endswith("it was chosen before, and is kept")
    modelkit_index(builder, "llm:less", {"llm:q8": {}, "llm:bf16": {}})
    assert str(describe("llm:less[auto]", 4000 * MB, chosen).digest) == digests["bf16"]


@pytest.mark.usefixtures("digests")
def test_auto_says_what_each_needs_where_none_fits(describe: Describe) -> None:
    with pytest.raises(KitError) as caught:
        describe("llm:all[auto]", 999 * MB)
    text = str(caught.value)
    assert "has no kit that fits: 999.0 MB of memory are free on this machine" in text
    assert "which needs 1.0 GB" in text
    assert "which needs 4.0 GB" in text


def test_a_kit_that_is_no_index_has_no_variants(digests: dict[str, str], describe: Describe) -> None:
    with pytest.raises(NotAKit, match="is no index, so it has no variants"):
        describe("llm:q4[quantization=q4_0]")
    assert str(describe("llm:q4[auto]").digest) == digests["q4"]


def test_the_only_kit_of_an_index_needs_no_variant_but_must_have_the_labels(
    digests: dict[str, str], builder: LayoutBuilder, describe: Describe
) -> None:
    modelkit_index(builder, "llm:one", {"llm:q4": {"quantization": "q4_0"}})
    for name in ("llm:one", "llm:one[auto]", "llm:one[quantization=q4_0]"):
        assert str(describe(name).digest) == digests["q4"]
    with pytest.raises(NotAKit, match="has no kit with quantization=q8_0"):
        describe("llm:one[quantization=q8_0]")


@pytest.mark.parametrize(
    ("label", "memory"),
    [
        ("6GB", 6_000_000_000),
        ("6 GB", 6_000_000_000),
        ("6GiB", 6 * 1024**3),
        ("6", 6_000_000_000),
        ("1.5", 1_500_000_000),
        ("500MB", 500_000_000),
        ("much", 1200 + 256 * 1024**2),
        ("-1", 1200 + 256 * 1024**2),
        ("1e400", 1200 + 256 * 1024**2),
        ("NaN", 1200 + 256 * 1024**2),
        (None, 1200 + 256 * 1024**2),
    ],
)
def test_the_memory_of_a_kit(label: str | None, memory: int) -> None:
    labels = {} if label is None else {"vram": label}
    entry = IndexEntry(Descriptor("x/y", Digest.of(b""), 1), None, None, labels)
    assert Candidate(entry, 1000).memory == memory


def test_the_room_on_a_machine_is_what_workers_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: MachineMemory(20 * 10**9, 3 * 10**9))
    assert Room.here() == Room(2 * 10**9)


def test_the_room_on_gpus(tmp_path: Path) -> None:
    nvml = Nvml(library(tmp_path / "gpus.json"))
    with pytest.raises(KitError, match="on GPUs is not known \\(no driver of NVIDIA's is installed\\)"):
        Room.here(1, read=nvml.read)
    assert Room.here().free > 0
    free = (1024, None, 4096)
    gpus = [{**gpu(f"GPU-{mib}"), "free": mib and mib * 1024**2} for mib in free]
    write_gpus(tmp_path / "gpus.json", gpus)
    assert Room.here(1, read=nvml.read) == Room(4096 * 1024**2, "on one GPU")
    assert Room.here(0.5, read=nvml.read) == Room(2048 * 1024**2, "on 0.5 of a GPU")
    assert Room.here(2, read=nvml.read) == Room(5120 * 1024**2, "on 2 GPUs")
