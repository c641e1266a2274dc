"""The header of GGUF files: what is read of it, and what is refused, without an engine."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from runtimes import gguf_file, gguf_kinds
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.gguf import GgufRuntime
from runtimes.gguf_file import Length
from tests.support import gguf_files
from tests.support.gguf_files import Raw, header
from tests.support.models import smollm2

WEIGHTS = {"w": np.ones((3, 32), np.float32), "b": np.ones(5, np.float32)}
LEAST = {"general.architecture": "llama", "llama.context_length": 64}


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_metadata_and_tensors_are_read(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 3,
        "llama.heads": np.array([1, 2, 4], np.int32),
        "llama.epsilon": 0.5,
        "llama.causal": False,
        "tokenizer.ggml.tokens": ["a", "ß", ""],
        "tokenizer.ggml.kinds": np.zeros(5_000, np.int32),
        "small": Raw(0, b"\x07"),
        "large": Raw(10, struct.pack("<Q", 2**63)),
        "double": Raw(12, struct.pack("<d", 0.25)),
    }
    file = gguf_file.read(gguf_files.write(tmp_path / "m", metadata, WEIGHTS))
    assert file.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 3,
        "llama.heads": (1, 2, 4),
        "llama.epsilon": 0.5,
        "llama.causal": False,
        "tokenizer.ggml.tokens": Length(3),
        "tokenizer.ggml.kinds": Length(5_000),
        "small": 7,
        "large": 2**63,
        "double": 0.25,
    }
    assert [(tensor.name, tensor.shape, tensor.bytes) for tensor in file.tensors] == [
        ("w", (32, 3), 384),
        ("b", (5,), 20),
    ]
    assert file.data_bytes == 384 + 32
    assert file.number(file.own("heads")) == 4
    assert file.number(file.own("epsilon")) is None
    assert file.part == (1, 1)


def test_a_real_model() -> None:
    file = GgufRuntime().check(smollm2())
    assert file.architecture == "llama"
    assert gguf_kinds.context_of(file) == 8_192
    assert file.metadata["tokenizer.ggml.tokens"] == Length(49_152)
    assert len(file.tensors) == 272
    assert sum(tensor.bytes or 0 for tensor in file.tensors) == file.data_bytes


START = b"GGUF" + struct.pack("<I", 3)
KEY = struct.pack("<Q", 1) + b"k"

DAMAGED: Mapping[str, tuple[bytes, str]] = {
    "magic": (b"GGUX" + bytes(40), "is no GGUF file"),
    "empty": (b"", "cut short or damaged in its header"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "has version 1 of GGUF, and 2 and 3 can be read"),
    "version 4": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4 of GGUF.*or use a newer release"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file"),
    "tensors": (START + struct.pack("<QQ", 2**60, 0), f"declares {2**60} tensors, which is too many"),
    "keys": (START + struct.pack("<QQ", 0, 2**60), f"declares {2**60} keys, which is too many"),
    "more keys than bytes": (START + struct.pack("<QQ", 0, 100) + bytes(99), "declares 100 keys"),
    "long key": (START + struct.pack("<QQQ", 0, 1, 2**63) + bytes(40), f"{2**63} bytes for a key"),
    "empty key": (START + struct.pack("<QQQ", 0, 1, 0) + bytes(40), "key '' twice or empty"),
    "long text": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IQ", 8, 2**62),
        f"declares {2**62} bytes for the value of k",
    ),
    "text beyond the end": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IQ", 8, 1_000),
        "cut short or damaged in its header",
    ),
    "type of a value": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IQ", 13, 0),
        "value of the unknown type 13 at k",
    ),
    "array of arrays": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 9, 1),
        "array of the unknown type 9 at k",
    ),
    "texts": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 8, 2**61),
        f"declares {2**61} texts at k",
    ),
    "numbers": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 4, 2**61),
        "cut short or damaged in its header",
    ),
    "a text in an array beyond the end": (
        START + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQQ", 9, 8, 1, 2**63),
        "cut short or damaged in its header",
    ),
    "alignment": (header(LEAST | {"general.alignment": 24}, {}), "alignment of 24, which is no power of 2"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    data, text = DAMAGED[name]
    path = put(tmp_path / "m.gguf", data)
    with pytest.raises(LoadError, match=rf"^{re.escape(str(path))} .*{text}"):
        gguf_file.read(path)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b"\x01\0\0\0\0\0\0\0b\x01\0\0\0", b"\x01\0\0\0\0\0\0\0w\x01\0\0\0", "tensor 'w' twice"),
        (b"\x01\0\0\0\0\0\0\0b\x01\0\0\0", b"\x01\0\0\0\0\0\0\0b\x05\0\0\0", "with 5 dimensions"),
        (
            b"\x01\0\0\0\0\0\0\0b\x01\0\0\0",
            b"\x99\0\0\0\0\0\0\0b\x01\0\0\0",
            "153 bytes for the name of a tensor",
        ),
        (struct.pack("<Q", 384), struct.pack("<Q", 352), "tensor 'b' at 352 instead of 384"),
        (
            struct.pack("<QI", 5, 0),
            struct.pack("<QI", 5, 8),
            "has 5 numbers in a row of 'b', no multiple of 32",
        ),
        (struct.pack("<QQ", 32, 3), struct.pack("<QQ", 32, 2**61), "instead of"),
    ],
)
def test_tensors_that_cannot_be_so_are_refused(tmp_path: Path, old: bytes, new: bytes, text: str) -> None:
    data = gguf_files.write(tmp_path / "m", LEAST, WEIGHTS).read_bytes()
    assert data.count(old) == 1
    with pytest.raises(LoadError, match=text):
        gguf_file.read(put(tmp_path / "m", data.replace(old, new)))


def test_a_type_of_tensor_that_is_not_known_is_left_to_the_engine(tmp_path: Path) -> None:
    data = gguf_files.write(tmp_path / "m", LEAST, WEIGHTS).read_bytes()
    changed = data.replace(struct.pack("<IQ", 0, 384), struct.pack("<IQ", 99, 384))
    assert gguf_file.read(put(tmp_path / "m", changed)).tensors[1].bytes is None


def test_every_cut_of_a_model_is_refused(tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    data = path.read_bytes()
    for length in [*range(400), *range(400, len(data) - 32, 1_777), len(data) - 300]:
        put(path, data[:length])
        with pytest.raises(LoadError, match=r"cut short|no GGUF file|too many"):
            gguf_file.read(path)


def test_the_message_on_a_cut_file_has_its_size(tmp_path: Path) -> None:
    path = gguf_files.tiny_llama(tmp_path / "m.gguf")
    size = path.stat().st_size
    put(path, path.read_bytes()[:-1_000])
    with pytest.raises(LoadError, match=rf"cut short: it has {size - 1_000} bytes of {size}; copy it again"):
        GgufRuntime().check(path)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"general.architecture": "clip"}, "is a projector, .*and no model: pack it beside the model"),
        ({"general.type": "mmproj"}, "is a projector"),
        (LEAST | {"general.type": "adapter"}, "is a LoRA adapter, and no model"),
        ({"general.type": "imatrix"}, "is an importance matrix"),
        ({"general.architecture": "controlvector"}, "is a control vector"),
        ({"general.name": "x"}, "does not say its architecture"),
        (
            {"general.architecture": "llama"},
            r"does not say how many tokens it takes \(llama\.context_length\)",
        ),
    ],
)
def test_what_is_no_model_is_called_what_it_is(
    tmp_path: Path, metadata: dict[str, object], text: str
) -> None:
    path = gguf_files.write(tmp_path / "m.gguf", metadata, WEIGHTS)
    with pytest.raises(LoadError, match=text):
        GgufRuntime().check(path)


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf", LEAST, {})
    with pytest.raises(LoadError, match="is a vocabulary without a model"):
        GgufRuntime().check(path)


def test_a_split_model_is_all_its_files(tmp_path: Path) -> None:
    first, second = gguf_files.split(tmp_path, "tiny")
    assert [part.path for part in gguf_kinds.parts(GgufRuntime().check(first))] == [first, second]
    with pytest.raises(
        LoadError, match=r"is part 2 of 2 of a model: name the first, tiny-00001-of-00002\.gguf"
    ):
        GgufRuntime().check(second)


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    first, second = gguf_files.split(tmp_path, "tiny")
    second.unlink()
    with pytest.raises(
        LoadError, match=r"part 1 of 2 of a model, and tiny-00002-of-00002\.gguf is not beside it"
    ):
        GgufRuntime().check(first)


def test_a_part_of_another_name_or_another_model_is_refused(tmp_path: Path) -> None:
    first, second = gguf_files.split(tmp_path, "tiny")
    second.write_bytes(first.read_bytes())
    with pytest.raises(LoadError, match="says that it is part 1 of 2; it is another model's"):
        GgufRuntime().check(first)
    with pytest.raises(LoadError, match=r"must be named so: NAME-00001-of-00002\.gguf"):
        GgufRuntime().check(first.rename(tmp_path / "model.gguf"))


def test_a_cut_in_any_part_is_told(tmp_path: Path) -> None:
    first, second = gguf_files.split(tmp_path, "tiny")
    second.write_bytes(second.read_bytes()[:-100])
    with pytest.raises(LoadError, match=r"tiny-00002-of-00002\.gguf is a GGUF file that is cut short"):
        GgufRuntime().check(first)


CHAT, EMBEDDING, RERANK = {Task.CHAT, Task.COMPLETION}, {Task.EMBEDDING}, {Task.RERANK}


@pytest.mark.parametrize(
    ("metadata", "task", "tasks"),
    [
        (LEAST, None, CHAT),
        (LEAST, Task.EMBEDDING, EMBEDDING),
        (LEAST, Task.RERANK, RERANK),
        (LEAST | {"llama.pooling_type": 3}, None, EMBEDDING),
        (LEAST | {"llama.pooling_type": 4}, None, RERANK),
        (LEAST | {"llama.pooling_type": 0}, None, CHAT),
        (LEAST | {"llama.pooling_type": 3}, Task.CHAT, CHAT),
        (LEAST | {"llama.attention.causal": False}, None, EMBEDDING),
        ({"general.architecture": "bert", "bert.pooling_type": 1}, None, EMBEDDING),
        ({"general.architecture": "nomic-bert"}, None, EMBEDDING),
        ({"general.architecture": "bert", "bert.pooling_type": 4}, None, RERANK),
    ],
)
def test_the_tasks_are_those_of_the_header(
    tmp_path: Path, metadata: dict[str, object], task: Task | None, tasks: set[Task]
) -> None:
    file = gguf_file.read(gguf_files.write(tmp_path / "m.gguf", metadata, WEIGHTS))
    assert gguf_kinds.tasks(file, task, has_template=True) == tasks


def test_a_model_without_a_chat_template_completes_texts(tmp_path: Path) -> None:
    file = gguf_file.read(gguf_files.write(tmp_path / "m.gguf", LEAST, WEIGHTS))
    assert gguf_kinds.tasks(file, None, has_template=False) == {Task.COMPLETION}


def test_an_encoder_writes_no_text(tmp_path: Path) -> None:
    file = gguf_file.read(gguf_files.tiny_bert(tmp_path / "m.gguf"))
    with pytest.raises(LoadError, match=r"writes no text: .* is bert; task chat is wrong"):
        gguf_kinds.tasks(file, Task.CHAT, has_template=True)
