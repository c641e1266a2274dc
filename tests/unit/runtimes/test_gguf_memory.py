"""What a GGUF model will take, by its header; and how its process is to be run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes import gguf
from runtimes.base import Resources
from runtimes.engines.base import Adapter, EngineOptions, Memory
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.gguf import GgufRuntime
from tests.support import gguf_files

CELLS = 1_024
OPTIONS = EngineOptions(context=512, slots=2)


def memory(path: Path, **more: object) -> Memory:
    return GgufRuntime().memory(gguf_files.tiny_llama(path / "m.gguf", **more), OPTIONS)  # type: ignore[arg-type]


def test_the_cache_is_that_of_all_slots(tmp_path: Path) -> None:
    # 2 layers with 2 heads of 16 numbers; keys and values of 2 bytes.
    assert memory(tmp_path).cache == 2 * 2 * 16 * 2 * 2 * CELLS


def test_the_weights_are_the_tensors(tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    _, tensors = gguf_files.llama_parts()
    expected = GgufRuntime().memory(path, OPTIONS)
    assert expected.weights == sum(array.nbytes for array in tensors.values())
    assert expected.other > 0
    assert expected.total == expected.weights + expected.cache + expected.other


def test_heads_of_a_size_of_their_own(tmp_path: Path) -> None:
    sizes = {"llama__attention__key_length": 24, "llama__attention__value_length": 8}
    assert memory(tmp_path, **sizes).cache == 2 * 2 * (24 + 8) * 2 * CELLS


def test_layers_with_heads_of_their_own_number(tmp_path: Path) -> None:
    heads = {"llama__attention__head_count_kv": np.array([4, 0], np.int32)}
    assert memory(tmp_path, **heads).cache == 4 * 16 * 2 * 2 * CELLS


def test_layers_with_a_state_in_place_of_attention(tmp_path: Path) -> None:
    keys = {"llama__ssm__inner_size": 128, "llama__ssm__state_size": 16, "llama__ssm__conv_kernel": 4}
    heads = {"llama__attention__head_count_kv": np.array([0, 0], np.int32)}
    # FP32, for each layer and slot.
    assert memory(tmp_path, **keys, **heads).cache == 2 * 128 * (16 + 4) * 2 * 4


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    assert GgufRuntime().memory(gguf_files.tiny_bert(tmp_path / "m.gguf"), OPTIONS).cache == 0


def test_without_options_the_context_is_that_of_the_training_but_4096_at_most(tmp_path: Path) -> None:
    runtime = GgufRuntime()
    short = gguf_files.tiny_llama(tmp_path / "s.gguf", context=512)
    assert runtime.memory(short, EngineOptions()) == runtime.memory(short, EngineOptions(context=512))
    long = gguf_files.tiny_llama(tmp_path / "l.gguf", context=100_000)
    assert runtime.memory(long, EngineOptions()) == runtime.memory(long, EngineOptions(context=4_096))
    more = runtime.memory(long, EngineOptions(context=8_192))
    assert more.cache == 2 * runtime.memory(long, EngineOptions()).cache


def test_what_is_loaded_beside_a_model_counts(tmp_path: Path) -> None:
    runtime = GgufRuntime()
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    alone = runtime.memory(path, OPTIONS)
    drafted = runtime.memory(path, EngineOptions(context=512, slots=2, draft=path))
    assert drafted.weights == 2 * alone.weights
    assert drafted.cache == 2 * alone.cache
    adapter = gguf_files.tiny_adapter(tmp_path / "a.gguf")
    adapted = runtime.memory(path, EngineOptions(context=512, slots=2, adapters=(Adapter(adapter),)))
    assert adapted.weights == alone.weights + 2 * 2 * 64 * 4


def test_all_parts_of_a_split_model_count(tmp_path: Path) -> None:
    runtime = GgufRuntime()
    whole = runtime.memory(gguf_files.tiny_llama(tmp_path / "m.gguf"), OPTIONS)
    assert runtime.memory(gguf_files.split(tmp_path, "m")[0], OPTIONS) == whole


def test_a_header_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(LoadError):
        GgufRuntime().memory(tmp_path / "m.gguf", OPTIONS)


def test_threads_sleep_while_they_wait_where_there_are_as_many_as_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert "OMP_WAIT_POLICY" not in gguf.variables(Resources(cpus=1))
    assert gguf.variables(Resources(cpus=2))["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert gguf.variables(Resources(cpus=2))["OMP_WAIT_POLICY"] == "active"
    assert gguf.variables(Resources(cpus=1))["OMP_WAIT_POLICY"] == "active"


def test_a_build_for_gpus_sees_none_where_none_is_asked_for() -> None:
    assert gguf.variables(Resources())["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in gguf.variables(Resources(gpus=0.5))


def test_the_device_is_that_of_the_log() -> None:
    assert gguf.device("0.1 W srv init: x\n") == "cpu"
    assert gguf.device("a\ncomputes on CUDA0\nb") == "cuda:0"
    assert gguf.device("computes on Vulkan1") == "vulkan:1"


@pytest.mark.parametrize(
    ("batch", "gpus", "more", "expected"),
    [
        (512, 0.0, {}, 128),
        (64, 0.0, {}, 64),
        (512, 1.0, {}, 512),
        (512, 0.0, {"projector": "p.gguf"}, 512),
        (512, 0.0, {"task": Task.EMBEDDING}, 1_024),
    ],
)
def test_batches_of_prompts_are_small_on_cpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    gpus: float,
    more: dict[str, Any],
    expected: int,
) -> None:
    arguments: list[dict[str, Any]] = []

    def process(command: object, options: dict[str, Any], **_: object) -> object:
        arguments.append(options)
        raise LoadError("enough")

    monkeypatch.setattr(gguf, "EngineProcess", process)
    if "projector" in more:
        more = {"projector": gguf_files.projector(tmp_path / more["projector"])}
    path = gguf_files.tiny_llama(tmp_path / "m.gguf", context=1_024)
    with pytest.raises(LoadError, match="enough"):
        GgufRuntime().start(path, Resources(gpus=gpus), EngineOptions(batch=batch, **more))
    assert arguments[0]["batch"] == expected
