"""The weights that an ONNX file keeps beside it come from whatever layer has them, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import UnusableModel
from gateway.kits import entry
from gateway.kits.directories import KitDirectories
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.mlflow import mlflow_model
from gateway.kits.model import choose_runtime, load
from gateway.oci.reference import LayoutReference
from runtimes.base import Resources, TensorModel
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.model_files import chunk, external_onnx, identity_onnx, number

MODEL, WEIGHTS = external_onnx("model.onnx.data")
CODE = {"train.py": b"print('secret')", "requirements.txt": b"torch\n"}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "layout")


def reference(builder: LayoutBuilder) -> LayoutReference:
    return LayoutReference(builder.directory, "kit", "v1", None)


@pytest.fixture
def packed(library: Library, builder: LayoutBuilder) -> Callable[..., UnpackedKit]:
    """Open a kit of these layers, see `pack_kit`."""

    def pack(*layers: tuple[str, str, Mapping[str, bytes | None]], packing: str = "tar") -> UnpackedKit:
        pack_kit(builder, "kit:v1", *layers, packing=packing)
        return library.open(reference(builder))

    return pack


def files(kit: UnpackedKit) -> list[str]:
    return sorted(str(path.relative_to(kit.path)) for path in kit.path.rglob("*") if path.is_file())


def assert_answers(kit: UnpackedKit) -> None:
    model = load(kit, choose_runtime(kit, None), Resources())
    assert isinstance(model, TensorModel)
    assert model.infer({"x": np.zeros(2, np.float32)})["y"].tolist() == [1.0, 2.0]
    model.close()


@pytest.mark.parametrize("packing", ["tar", "tar+gzip", "tar+zstd"])
def test_weights_in_a_code_layer_are_taken_from_it_without_the_code(
    packed: Callable[..., UnpackedKit], packing: str
) -> None:
    kit = packed(
        ("model", "model.onnx", {"model.onnx": MODEL}),
        ("code", ".", {"model.onnx.data": WEIGHTS, **CODE}),
        packing=packing,
    )
    assert files(kit) == ["model.onnx", "model.onnx.data"]
    assert kit.pulled_bytes == sum(layer.descriptor.size for layer in kit.kit.layers)
    assert_answers(kit)


@pytest.mark.parametrize("path", ["onnx", "./onnx/", "onnx/model.onnx.data"])
@pytest.mark.parametrize("kind", ["code", "dataset", "docs"])
def test_the_most_specific_layer_is_asked_first_and_others_are_not_fetched(
    packed: Callable[..., UnpackedKit], library: Library, path: str, kind: str
) -> None:
    kit = packed(
        ("model", "onnx/model.onnx", {"onnx": None, "onnx/model.onnx": MODEL}),
        ("code", ".", CODE),
        ("code", "src", {"src/app.py": b""}),
        (kind, path, {"onnx": None, "onnx/model.onnx.data": WEIGHTS, "onnx/more.py": b""}),
    )
    assert files(kit) == ["onnx/model.onnx", "onnx/model.onnx.data"]
    model, *code, holder = kit.kit.layers
    # The two directories of code were looked into for a kitserve.py, and nothing else was fetched.
    assert kit.pulled_bytes == sum(layer.descriptor.size for layer in (model, *code, holder))
    assert_answers(kit)


def test_a_layer_of_one_raw_file(packed: Callable[..., UnpackedKit]) -> None:
    kit = packed(
        ("model", "model.onnx", {"model.onnx": MODEL}),
        ("code", "model.onnx.data", {"model.onnx.data": WEIGHTS}),
        ("code", "train.py", {"train.py": b""}),
        packing="raw",
    )
    assert files(kit) == ["model.onnx", "model.onnx.data"]
    assert_answers(kit)


def test_every_model_of_the_kit_gets_its_weights(packed: Callable[..., UnpackedKit]) -> None:
    model, weights = external_onnx("model_fp16.onnx_data", 3)
    kit = packed(
        ("model", "onnx/model.onnx", {"onnx/model.onnx": MODEL}),
        ("part", "onnx/model_fp16.onnx", {"onnx/model_fp16.onnx": model}),
        ("part", "config.json", {"config.json": b"{}"}),
        ("code", ".", {"onnx/model.onnx.data": WEIGHTS, "onnx/model_fp16.onnx_data": weights, **CODE}),
    )
    assert files(kit) == [
        "config.json",
        "onnx/model.onnx",
        "onnx/model.onnx.data",
        "onnx/model_fp16.onnx",
        "onnx/model_fp16.onnx_data",
    ]
    assert_answers(kit)


def test_no_code_is_fetched_where_nothing_is_missing(packed: Callable[..., UnpackedKit]) -> None:
    kit = packed(
        ("model", "model", {"model/model.onnx": MODEL, "model/model.onnx.data": WEIGHTS}),
        ("code", "train.py", {"train.py": b"print('secret')"}),
        ("code", "requirements.txt", {"requirements.txt": b"torch\n"}),
    )
    assert kit.pulled_bytes == kit.kit.layers[0].descriptor.size
    assert_answers(kit)


def test_a_directory_of_code_is_looked_into_and_nothing_of_it_kept(
    packed: Callable[..., UnpackedKit], library: Library
) -> None:
    kit = packed(
        ("model", "model", {"model/model.onnx": MODEL, "model/model.onnx.data": WEIGHTS}),
        ("code", ".", CODE),
    )
    assert files(kit) == ["model/model.onnx", "model/model.onnx.data"]
    assert kit.pulled_bytes == sum(layer.descriptor.size for layer in kit.kit.layers)
    assert_answers(kit)
    kit.lease.release()
    assert library.open(kit.kit.reference).from_cache


def test_a_large_layer_of_code_is_not_looked_into(
    packed: Callable[..., UnpackedKit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "LOOKED_INTO_BYTES", 1_000)
    kit = packed(
        ("model", "model", {"model/model.onnx": MODEL, "model/model.onnx.data": WEIGHTS}),
        ("code", ".", {**CODE, "large": bytes(10_000)}),
    )
    assert kit.pulled_bytes == kit.kit.layers[0].descriptor.size


def test_a_file_that_no_layer_has_is_named_when_the_model_is_loaded(
    packed: Callable[..., UnpackedKit],
) -> None:
    kit = packed(("model", "model.onnx", {"model.onnx": MODEL}), ("code", ".", CODE))
    assert files(kit) == ["model.onnx"]
    with pytest.raises(
        UnusableModel, match=r"keeps weights in 'model\.onnx\.data', which is no regular file"
    ):
        load(kit, choose_runtime(kit, None), Resources())


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..", "", "a\0b", "a\\b"])
def test_no_path_leads_out_of_the_kit(packed: Callable[..., UnpackedKit], location: str) -> None:
    kit = packed(
        ("model", "sub/model.onnx", {"sub/model.onnx": external_onnx(location)[0]}),
        ("code", ".", {"secret": WEIGHTS, "sub/secret": WEIGHTS}),
    )
    assert files(kit) == ["sub/model.onnx"]
    # The code was looked into for a kitserve.py alone.
    assert kit.pulled_bytes == sum(layer.descriptor.size for layer in kit.kit.layers)


def test_the_weights_of_a_parents_model(library: Library, builder: LayoutBuilder) -> None:
    pack_kit(
        builder,
        "parent:v1",
        ("model", "model.onnx", {"model.onnx": MODEL}),
        ("code", ".", {"model.onnx.data": WEIGHTS, **CODE}),
    )
    child = pack_kit(builder, "kit:v1", ("code", ".", {"child.py": b""}))
    config = {"model": {"path": "localhost:5000/parent:v1"}}
    document = json.loads((builder.directory / "blobs" / child.replace(":", "/")).read_text())
    kitfile = json.loads(
        (builder.directory / "blobs" / document["config"]["digest"].replace(":", "/")).read_text()
    )
    document["config"] = builder.blob(
        document["config"]["mediaType"], json.dumps({**kitfile, **config}).encode()
    )
    builder.artifact("kit:v2", document)
    kit = library.open(LayoutReference(builder.directory, "kit", "v2", None))
    assert files(kit) == ["model.onnx", "model.onnx.data"]
    assert_answers(kit)


def test_the_layer_stays_in_the_cache_with_the_kit_and_goes_with_it(
    packed: Callable[..., UnpackedKit], library: Library, builder: LayoutBuilder
) -> None:
    kit = packed(
        ("model", "model.onnx", {"model.onnx": MODEL}), ("code", ".", {"model.onnx.data": WEIGHTS, **CODE})
    )
    kit.lease.release()
    (cached,) = library.cache.kits()
    assert cached.stored > sum(layer.descriptor.size for layer in kit.kit.layers)
    library.cache.prune(keep=10**9)
    shutil.rmtree(builder.directory)
    again = library.open(kit.kit.reference)
    assert again.from_cache
    (again.path / "model.onnx.data").chmod(0o644)
    (again.path / "model.onnx.data").write_bytes(b"damaged")
    again.lease.release()
    mended = library.open(kit.kit.reference)
    assert (mended.from_cache, mended.pulled_bytes) == (False, 0)
    assert_answers(mended)
    mended.lease.release()
    library.cache.prune()
    assert library.cache.kits() == []


def before_companions(library: Library, kit: UnpackedKit) -> None:
    """Make an unpacked kit what an earlier release left: without the weights, and without a word of them."""
    directories = KitDirectories(kit.path.parent)
    inventory = directories.read(kit.path.name)
    assert inventory is not None
    kit.path.chmod(0o755)
    (kit.path / "model.onnx.data").unlink()
    kit.path.chmod(0o555)
    document = inventory.model_dump(mode="json")
    document["files"] = [file for file in document["files"] if file["path"] == "model.onnx"]
    del document["has_companions"]
    kit.path.with_name(f"{kit.path.name}.seal.json").write_text(json.dumps(document))
    assert files(kit) == ["model.onnx"]


def test_a_kit_that_an_earlier_release_unpacked_is_completed(
    packed: Callable[..., UnpackedKit], library: Library, builder: LayoutBuilder
) -> None:
    kit = packed(
        ("model", "model.onnx", {"model.onnx": MODEL}), ("code", ".", {"model.onnx.data": WEIGHTS, **CODE})
    )
    before_companions(library, kit)
    assert_answers(library.open(kit.kit.reference))
    assert library.open(kit.kit.reference).from_cache


def test_a_kit_of_an_earlier_release_is_kept_while_its_source_is_away(
    packed: Callable[..., UnpackedKit], library: Library, builder: LayoutBuilder
) -> None:
    kit = packed(
        ("model", "model.onnx", {"model.onnx": MODEL}), ("code", ".", {"model.onnx.data": WEIGHTS, **CODE})
    )
    before_companions(library, kit)
    blob = builder.directory / "blobs/sha256" / kit.kit.layers[1].descriptor.digest.hex
    (kit.path.parents[1] / "blobs/sha256" / blob.name).unlink()
    away = blob.rename(blob.with_name("away"))
    opened = library.open(kit.kit.reference)
    assert files(opened) == ["model.onnx"]
    away.rename(blob)
    assert_answers(library.open(kit.kit.reference))


def test_a_kit_of_an_earlier_release_that_lacks_nothing_is_not_touched(
    packed: Callable[..., UnpackedKit], library: Library, builder: LayoutBuilder
) -> None:
    kit = packed(("model", "model.onnx", {"model.onnx": identity_onnx()}), ("code", ".", CODE))
    seal = kit.path.with_name(f"{kit.path.name}.seal.json")
    document = json.loads(seal.read_text())
    del document["has_companions"]
    seal.write_text(json.dumps(document))
    shutil.rmtree(builder.directory)
    assert library.open(kit.kit.reference).from_cache
    assert json.loads(seal.read_text())["has_companions"]


def test_the_mlmodel_of_a_directory_that_was_packed_by_file_comes_from_the_code(
    packed: Callable[..., UnpackedKit],
) -> None:
    mlmodel = b"flavors: {onnx: {data: model.onnx, onnx_version: 1.19.0}}"
    kit = packed(
        ("model", "model.onnx", {"model.onnx": identity_onnx()}),
        ("part", "python_env.yaml", {"python_env.yaml": b"python: 3.11"}),
        ("code", ".", {**CODE, "MLmodel": mlmodel}),
    )
    assert files(kit) == ["MLmodel", "model.onnx", "python_env.yaml"]
    mlflow = mlflow_model(kit, choose_runtime(kit, None))
    assert mlflow is not None
    assert mlflow.maker == "ONNX 1.19.0"


IR = b"""<?xml version="1.0"?>
<net name="sample" version="11"><layers>
<layer id="0" name="w" type="Const" version="opset1"><data element_type="f32" offset="0" shape="2" size="8"/>
<output><port id="0" names="w" precision="FP32"><dim>2</dim></port></output></layer>
<layer id="1" name="r" type="Result" version="opset1"><input><port id="0" precision="FP32"/></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


def test_the_weights_of_an_openvino_ir(packed: Callable[..., UnpackedKit]) -> None:
    kit = packed(
        ("model", "model.xml", {"model.xml": IR}),
        ("code", ".", {"model.bin": bytes(8), "other.bin": bytes(8), **CODE}),
    )
    assert files(kit) == ["model.bin", "model.xml"]
    assert choose_runtime(kit, None).runtime.name == "openvino"


def test_the_variables_and_assets_of_a_saved_model(packed: Callable[..., UnpackedKit]) -> None:
    output = chunk(1, "y") + chunk(2, chunk(1, "y:0") + number(2, 1) + chunk(3, b""))
    meta = (
        chunk(1, chunk(4, "serve"))
        + chunk(2, b"")
        + chunk(5, chunk(1, "serving_default") + chunk(2, chunk(2, output)))
        + chunk(6, chunk(1, chunk(1, "a:0")) + chunk(2, "words.txt"))
        + chunk(7, b"")
    )
    variables = {"variables/variables.index": b"x", "variables/variables.data-00000-of-00001": b"y"}
    kit = packed(
        ("model", "saved_model.pb", {"saved_model.pb": number(1, 1) + chunk(2, meta)}),
        ("code", ".", {**variables, "assets/words.txt": b"a\n", "assets/more.txt": b"b\n", **CODE}),
    )
    assert files(kit) == ["assets/words.txt", "saved_model.pb", *sorted(variables)]
    assert choose_runtime(kit, None).runtime.name == "tensorflow"
