"""Kits of Hugging Face's directories, as `kit import` packs them: each file a part of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.errors import UnusableModel
from gateway.kits.language import LanguageModel
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.memory import check_total, need_of
from gateway.kits.model import check, choose_runtime, load
from gateway.metrics.machine import MachineMemory
from gateway.oci.reference import LayoutReference
from runtimes.base import Resources, TensorModel
from tests.support.artifacts import LayoutBuilder
from tests.support.hugging_face import TEXTS, texts, write_bert, write_modules
from tests.support.kitops import pack_kit


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    write_bert(directory)
    write_modules(directory)
    return directory


def packed(tmp_path: Path, directory: Path, first: str = "model.safetensors") -> UnpackedKit:
    """Pack each file as a layer of its own, `first` as the model and all others as its parts."""
    paths = sorted(
        (str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()),
        key=lambda name: (name != first, name),
    )
    builder = LayoutBuilder(tmp_path / "layout")
    kinds = ["model", *["part"] * (len(paths) - 1)]
    layers = [
        (kind, path, {path: (directory / path).read_bytes()}) for kind, path in zip(kinds, paths, strict=True)
    ]
    pack_kit(builder, "kit:v1", *layers)
    return Library(tmp_path / "library").open(LayoutReference(builder.directory, "kit", "v1", None))


def test_a_kit_of_parts_is_served(tmp_path: Path, directory: Path) -> None:
    kit = packed(tmp_path, directory)
    choice = choose_runtime(kit, None)
    assert (choice.runtime.name, choice.path) == ("transformers", kit.path / "model.safetensors")
    model = load(kit, choice, Resources())
    assert isinstance(model, TensorModel)
    assert check(kit, choice) == model.signature
    assert model.infer({"text": texts(*TEXTS)})["embedding"].shape == (len(TEXTS), 16)
    model.close()


def test_a_model_that_the_machine_has_no_memory_for_is_refused_before_it_is_loaded(
    tmp_path: Path, directory: Path
) -> None:
    kit = packed(tmp_path, directory)
    choice = choose_runtime(kit, None)
    need = need_of(kit, choice, LanguageModel())
    assert need is not None
    data = choice.path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert need.memory.weights == len(data) - header  # all FP32
    check_total(kit, need, MachineMemory(2 * need.memory.total, 0))
    with pytest.raises(UnusableModel, match=r"buffers; this machine has .*; take a kit with a smaller"):
        check_total(kit, need, MachineMemory(need.memory.total, 0))


def test_weights_as_a_pickle_give_way_to_safetensors(tmp_path: Path, directory: Path) -> None:
    import torch

    torch.save({"w": torch.ones(2)}, directory / "pytorch_model.bin")
    kit = packed(tmp_path, directory, "pytorch_model.bin")
    assert choose_runtime(kit, None).path == kit.path / "model.safetensors"


def test_code_in_a_directory_is_refused_whatever_the_policy(tmp_path: Path, directory: Path) -> None:
    config = directory / "config.json"
    config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoModel": "mine.Mine"},', 1))
    (directory / "mine.py").write_text("class Mine: ...")
    kit = packed(tmp_path, directory)
    for allow_code in (False, True):
        with pytest.raises(UnusableModel, match=r"kit:v1@sha256:\w+: config\.json names code of the kit"):
            choose_runtime(kit, None, allow_code)


def test_a_damaged_file_is_named_before_a_worker_starts(tmp_path: Path, directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UnusableModel, match=r"model\.safetensors is a safetensors file that is cut short"):
        choose_runtime(packed(tmp_path, directory), None)


def test_flipped_bits_never_end_the_process(tmp_path: Path, directory: Path) -> None:
    """Each file is damaged in turn: it is refused with an error of ours, or the model loads and answers."""
    random = np.random.default_rng(0)
    kit = packed(tmp_path, directory)
    names = ["model.safetensors", "config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
    refused = 0
    for name in names * 3:
        path = kit.path / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        end = min(len(damaged), 4000)
        for place in random.integers(0, end, 3):
            damaged[place] ^= 1 << int(random.integers(0, 8))
        path.chmod(0o644)
        path.unlink()
        path.write_bytes(damaged)
        try:
            model = load(kit, choose_runtime(kit, None), Resources())
            model.close()
        except UnusableModel:
            refused += 1
        finally:
            path.unlink()
            path.write_bytes(whole)
    assert refused >= 5
