"""What engines compiled is kept by kit and GPU, within its bound, and removed with the kit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.gpus.devices import Gpu, Gpus
from gateway.kits import compiled
from gateway.kits.compiled import compiled_directory, directory_for, gpu_kind
from gateway.kits.directories import KitDirectories

TWO = Gpus((Gpu(0, "GPU-a", "NVIDIA H200"), Gpu(1, "GPU-b", "NVIDIA L4")), driver="580.65")


def test_a_kind_names_the_gpu_its_driver_and_the_engines() -> None:
    assert gpu_kind(TWO, "0").startswith("NVIDIA-H200-580.65")
    assert gpu_kind(TWO, "").startswith("NVIDIA-H200-580.65")
    assert gpu_kind(TWO, "GPU-b,GPU-a").startswith("NVIDIA-L4-580.65")
    assert "/" not in gpu_kind(Gpus((Gpu(0, "GPU-a", "../x"),)), "0")
    assert gpu_kind(Gpus(), "0")


def test_it_is_removed_with_its_kit(tmp_path: Path) -> None:
    kits = KitDirectories(tmp_path / "kits")
    first, second = (directory_for(compiled_directory(tmp_path, key), "gpu") for key in ("a1", "b2"))
    (first / "engine").write_bytes(b"x")
    assert directory_for(compiled_directory(tmp_path, "a1"), "gpu") == first
    kits.remove("a1")
    assert not first.parent.exists()
    assert second.is_dir()


def test_what_was_not_used_for_long_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_BYTES", 150)
    for age, key in enumerate("abc"):
        directory = compiled_directory(tmp_path, key)
        (directory_for(directory, "gpu") / "engine").write_bytes(b"x" * 100)
        days_ago = directory.stat().st_mtime - (3 - age) * 90_000
        os.utime(directory, (days_ago, days_ago))
    compiled_directory(tmp_path, "d")
    assert sorted(path.name for path in (tmp_path / "compiled").iterdir()) == ["c", "d"]
    # What was used today stays, whatever its size.
    monkeypatch.setattr(compiled, "MAX_BYTES", 0)
    compiled_directory(tmp_path, "c")
    assert sorted(path.name for path in (tmp_path / "compiled").iterdir()) == ["c", "d"]


def test_what_vanishes_meanwhile_keeps_no_model_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(_directory: Path) -> int:
        raise FileNotFoundError("engine.partial")

    monkeypatch.setattr(compiled, "_size", vanished)
    assert compiled_directory(tmp_path, "a").is_dir()
