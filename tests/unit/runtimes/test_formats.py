"""A format is identified by content alone, and only a bounded part of it is read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.errors import LoadError
from runtimes.formats import Format, Hazard, identify, is_pickle
from tests.support.artifacts import tar
from tests.support.model_files import Double, chunk, identity_onnx, number, save_script, zipped


class Thing:
    def __init__(self) -> None:
        self.weights = [1.5, 2.5]
        self.name = "thing"


def identified(directory: Path, data: bytes, name: str = "file") -> Format:
    path = directory / name
    path.write_bytes(data)
    return identify(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Thing(), {"a": [1, 2.5, "x"]}, [b"x" * 200_000], np.arange(50_000)])
@pytest.mark.parametrize("name", ["model.pkl", "model.onnx", "model.safetensors", "README.md"])
def test_pickles_of_every_protocol_under_any_name(
    tmp_path: Path, protocol: int, value: object, name: str
) -> None:
    assert identified(tmp_path, pickle.dumps(value, protocol), name) is Format.PICKLE


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_compressed_pickles(tmp_path: Path, compress: object, protocol: int) -> None:
    assert callable(compress)
    assert identified(tmp_path, compress(pickle.dumps(Thing(), protocol))) is Format.PICKLE


def test_a_compression_bomb_is_opened_a_little(tmp_path: Path) -> None:
    began = time.monotonic()
    assert identified(tmp_path, gzip.compress(bytes(200_000_000), 1)) is Format.ARCHIVE
    assert time.monotonic() - began < 5


def test_old_torch_checkpoints_are_pickles(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert identify(path) is Format.PICKLE


def test_archives_of_pytorch(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "state")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole")
    save_script(Double(), tmp_path / "script")
    torch.export.save(torch.export.export(Double(), (torch.ones(2),)), tmp_path / "export")
    told_as = {name: identify(tmp_path / name) for name in ("state", "whole", "script", "export")}
    assert told_as == {
        "state": Format.TORCH_PICKLE,
        "whole": Format.TORCH_PICKLE,
        "script": Format.TORCHSCRIPT,
        "export": Format.TORCH_EXPORT,
    }


def test_the_older_layout_of_an_exported_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "5.1")
        archive.writestr("serialized_exported_program.json", "{}")
    assert identify(tmp_path / "old.pt2") is Format.TORCH_EXPORT


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()

OTHERS = [
    (b"", Format.EMPTY),
    (bytes(200_000), Format.EMPTY),
    (bytes(200_000) + b"x", Format.UNKNOWN),
    (identity_onnx(), Format.ONNX),
    (struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), Format.SAFETENSORS),
    (struct.pack("<Q", 2**60) + HEADER + bytes(4), Format.UNKNOWN),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), Format.GGUF),
    (b"\x89HDF\r\n\x1a\n" + bytes(90), Format.HDF5),
    (b' {"a": 1}', Format.JSON),
    (b"[1, 2]", Format.JSON),
    (b"a,b\n1,2\n", Format.TEXT),
    (b"# A model\n\nIt is good.\n", Format.TEXT),
    ("é".encode() * 40_000, Format.TEXT),
    (b"x" + "é".encode() * 40_000, Format.TEXT),
    (b"\xff\xfe\x00\x01", Format.UNKNOWN),
    (b"PK\x03\x04", Format.CUT_ZIP),
    (b"PK\x05\x06" + bytes(18), Format.UNKNOWN),
    (b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 46, 2**31, 0), Format.UNKNOWN),
    (b"\x80\x02", Format.UNKNOWN),
    (b"0.", Format.TEXT),
    (b".", Format.TEXT),
    (b"(lp0\n", Format.TEXT),
    (b"import os\nos.system('x')\n", Format.TEXT),
]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def saved_model() -> bytes:
    graph = chunk(1, chunk(1, "x") + chunk(2, "Placeholder"))
    return number(1, 1) + chunk(2, chunk(1, chunk(5, "2.16")) + chunk(2, graph) + chunk(5, b"signature"))


NO_MODELS = [
    (LFS, Format.LFS_POINTER),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", Format.HTML),
    (b"\n <html lang='en'><head>", Format.HTML),
    (b"<!-- a --><!-- b -->\n<head>", Format.HTML),
    (b"<!---->" * 9_000 + b"x", Format.TEXT),
    (b"<root>", Format.TEXT),
    (gzip.compress(identity_onnx(), mtime=0), Format.ARCHIVE),
    (bz2.compress(b"x" * 99), Format.ARCHIVE),
    (lzma.compress(b"x" * 99), Format.ARCHIVE),
    (b"\x28\xb5\x2f\xfd" + bytes(9), Format.ARCHIVE),
    (tar(("model.onnx", identity_onnx())), Format.ARCHIVE),
    (gzip.compress(tar(("model.onnx", identity_onnx())), mtime=0), Format.ARCHIVE),
    (zipped(dict.fromkeys(("MAR-INF/MANIFEST.json", "model.pt"), b"")), Format.ARCHIVE),
    (zipped(dict.fromkeys(("a.npy", "b.npy"), b"")), Format.NUMPY),
    (zipped(dict.fromkeys(("config.json", "metadata.json", "model.weights.h5"), b"")), Format.KERAS),
    (zipped(dict.fromkeys(("schema.json", "1.npy"), b"")), Format.SKOPS),
    (zipped(dict.fromkeys(("config.json", "metadata.json", "model.weights.h5"), b""))[:-40], Format.CUT_ZIP),
    (saved_model(), Format.SAVED_MODEL),
    (number(1, 1) + chunk(2, b"te\0t"), Format.UNKNOWN),
    (chunk(1, chunk(1, "x") + chunk(2, "Placeholder")) * 2 + chunk(4, number(1, 27)), Format.GRAPH_DEF),
    (chunk(1, b"no node"), Format.TEXT),
    (b"\x1c\0\0\0TFL3" + bytes(90), Format.TFLITE),
    (b"{L\0\0\0\0\0\0\0\x07learner{L", Format.XGBOOST),
    (b"{i\x07learner{", Format.XGBOOST),
    (b'{"learner":{"attributes":{}}}', Format.XGBOOST),
    (b'{ "version": [1, 7, 6], "learner": {}}', Format.XGBOOST),
    (b'{"version": 3}', Format.JSON),
    (b'{"learner":{"attributes":{}},"version":[3,2,0]}', Format.XGBOOST),
    (b'{\n  "learner": {\n    "attributes": {}', Format.XGBOOST),
    (b"binf\0\0\0?", Format.XGBOOST_BINARY),
    (b'[\n  { "nodeid": 0, "depth": 0, "split": "f0"', Format.XGBOOST_DUMP),
    (b"booster[0]:\n0:[f0<1.5] yes=1,no=2,missing=1\n", Format.XGBOOST_DUMP),
    (b"tree\nversion=v4\nnum_class=1\n", Format.LIGHTGBM),
    (b"tree\nversion=v2\nnum_class=1\n", Format.LIGHTGBM),
    (b'{"name": "tree", "version": "v4", "num_class": 3', Format.LIGHTGBM_DUMP),
    (b"CBM1" + bytes(9), Format.CATBOOST),
    (b'{\n  "features_info":\n    {\n      "float_features":\n', Format.CATBOOST),
    (b'{\n"features_info":{\n"cat_features_hash":[\n', Format.CATBOOST),
    (b'{"features_info": {"age": "float"}}', Format.JSON),
    (b'{"name": "tree", "rings": 3}', Format.JSON),
    (b'[{"id": 0}]', Format.JSON),
    (b"\x93NUMPY\x01\0v\0{}", Format.NUMPY),
    (b'<?xml version="1.0"?>\n<net name="Model0" version="11">\n\t<layers>', Format.OPENVINO),
    (
        b'\xef\xbb\xbf<?xml version="1.0" ?>\n<!-- a -->\n<net batch="1" version="7" name="a">',
        Format.OPENVINO,
    ),
    (b'<?xml version="1.0"?><net name="a">', Format.TEXT),
    (identity_onnx()[:-3], Format.CUT_ONNX),
    (identity_onnx()[:30], Format.CUT_ONNX),
    (struct.pack("<Q", len(HEADER)) + HEADER + bytes(3), Format.CUT_SAFETENSORS),
    (struct.pack("<Q", len(HEADER)) + HEADER[:20], Format.CUT_SAFETENSORS),
]


@pytest.mark.parametrize(("data", "format_"), OTHERS + NO_MODELS)
def test_other_contents(tmp_path: Path, data: bytes, format_: Format) -> None:
    assert identified(tmp_path, data) is format_


@pytest.mark.parametrize(
    "text", ["N.B. this", "Internal notes.", "I1\nI2\n", "aaa", "].x", "comments here\nand there\n"]
)
def test_prose_is_no_pickle(text: str) -> None:
    assert not is_pickle(text.encode())


def test_a_zip_that_declares_too_many_members_is_not_opened(tmp_path: Path) -> None:
    end = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**40, 2**40, 2**40, 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 4, 1)
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    began = time.monotonic()
    assert identified(tmp_path, b"PK\x03\x04" + end + locator + tail) is Format.UNKNOWN
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_what_cannot_be_read_is_a_load_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "here"
    if kind == "directory":
        path.mkdir()
    with pytest.raises(LoadError, match="here"):
        identify(path)


def test_three_classes() -> None:
    code = {Format.PICKLE, Format.TORCH_PICKLE, Format.PYTHON}
    assert {f for f in Format if f.hazard is Hazard.CODE} == code
    assert {f for f in Format if f.hazard is Hazard.PROGRAM} == {
        Format.TORCHSCRIPT,
        Format.TORCH_EXPORT,
        Format.SAVED_MODEL,
    }


SAMPLES = [data for data, _ in OTHERS] + [pickle.dumps(Thing(), protocol) for protocol in range(6)]


@settings(max_examples=300, deadline=2_000)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.builds(lambda data, n: data[:n], st.sampled_from(SAMPLES), st.integers(0, 200)),
        st.builds(
            lambda magic, rest: magic + rest,
            st.sampled_from([b"PK\x03\x04", b"\x80\x04", b"x\x9c"]),
            st.binary(),
        ),
    )
)
def test_any_bytes_have_a_format(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert isinstance(identified(tmp_path_factory.getbasetemp(), data, f"any-{os.getpid()}"), Format)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=300, deadline=2_000)
@given(value=values, protocol=st.integers(0, 5))
def test_any_value_pickled_is_a_pickle(value: object, protocol: int) -> None:
    assert is_pickle(pickle.dumps(value, protocol))
