from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidKitfile
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Kitfile, read_kitfile
from gateway.kits.manifest import (
    Archive,
    Compression,
    Format,
    Layer,
    Manifest,
    Role,
)
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest, LayoutReference

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
REFERENCE = LayoutReference(Path(), "x", "v1", None)
CONFIG = Descriptor("x/y", ONE, 1)


def _layer(role: Role, digest: Digest, path: str | None = None) -> Layer:
    return Layer(Descriptor("x/y", digest, 1), role, Archive.TAR, Compression.NONE, path)


def _kit(kitfile: dict[str, Any], *layers: Layer, form: Format = Format.MODELKIT) -> Kit:
    manifest = Manifest(form, CONFIG, layers, {})
    return Kit.of(REFERENCE, ONE, manifest, read_kitfile(manifest, json.dumps(kitfile).encode(), "r"))


def _modern(path: str, digest: Digest, **more: Any) -> dict[str, Any]:
    return {"path": path, "digest": str(digest), "diffId": str(digest), **more}


def test_a_kitfile_of_kit_is_read(layout: Path) -> None:
    data = (
        layout / "blobs/sha256/bd902eb46a38cbd922cda0d8fd4529ceaebd2af2741ce448e2c0ec66411a9705"
    ).read_bytes()
    kitfile = read_kitfile(Manifest(Format.MODELKIT, CONFIG, (), {}), data, "r")
    assert kitfile.package.name == "iris"
    assert kitfile.package.authors == ("KitOps sample",)
    assert kitfile.model is not None
    assert kitfile.model.path == "model/iris.onnx"
    assert kitfile.model.parameters == {"labels": ["setosa", "versicolor", "virginica"]}
    assert kitfile.model.diff_id is not None
    assert [entry.path for entry in kitfile.datasets] == ["data/iris.csv"]


def test_what_others_write_is_taken() -> None:
    kitfile = Kitfile.model_validate(
        {
            "manifestVersion": 1.0,
            "package": {"authors": None},
            "model": {"parts": None, "runtime": "x"},
            "new": 1,
        }
    )
    assert kitfile.manifest_version == "1.0"
    assert kitfile.package.authors == ()
    assert Kitfile.model_validate({}).model is None


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"model":1}', b'{"model":{},"model":{}}', b'{"model":{"digest":"md5:1"}}', b"\xff"]
)
def test_a_broken_kitfile_names_the_kit(data: bytes) -> None:
    with pytest.raises(InvalidKitfile, match=r"r.io/x:v1: its Kitfile"):
        read_kitfile(Manifest(Format.MODELKIT, CONFIG, (), {}), data, "r.io/x:v1")


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("model.onnx", False),
        ("org/base", False),
        ("r.io/base:v1", True),
        ("localhost:5000/base", True),
        ("a:b.onnx", False),
    ],
)
def test_parents(path: str, parent: bool) -> None:
    assert (Kitfile.model_validate({"model": {"path": path}}).parent == path) is parent


def test_layers_are_matched_by_digest() -> None:
    kitfile = {"model": _modern("./m", TWO, parts=[_modern("p.json", ONE)])}
    kit = _kit(kitfile, _layer(Role.PART, ONE), _layer(Role.MODEL, TWO), _layer(Role.DOCS, Digest.of(b"3")))
    assert [layer.path for layer in kit.layers] == ["p.json", "./m", None]
    assert [layer.diff_id for layer in kit.layers] == [ONE, TWO, None]
    assert kit.model_name == "m"
    assert kit.size == 2


def test_equal_blobs_keep_their_own_paths() -> None:
    kitfile = {"model": _modern("a", ONE, parts=[_modern("b", ONE), _modern("c", ONE)])}
    layers = [_layer(role, ONE) for role in (Role.MODEL, Role.PART, Role.PART)]
    assert [layer.path for layer in _kit(kitfile, *layers).layers] == ["a", "b", "c"]


def test_code_is_needed_only_when_asked_for() -> None:
    kitfile = {"model": _modern("m", ONE), "code": [_modern("src", TWO)]}
    kit = _kit(kitfile, _layer(Role.MODEL, ONE), _layer(Role.CODE, TWO))
    assert [layer.role for layer in kit.needed_layers()] == [Role.MODEL]
    assert [layer.role for layer in kit.needed_layers(with_code=True)] == [Role.MODEL, Role.CODE]


def test_old_kits_are_matched_by_order_and_unpacked_beside_their_path() -> None:
    kitfile = {"model": {"path": "./models/a", "parts": [{"path": "tokenizer.json"}]}}
    kit = _kit(kitfile, _layer(Role.MODEL, ONE), _layer(Role.PART, TWO))
    assert [layer.root for layer in kit.layers] == ["models", ""]
    assert kit.model_name == "models/a"


@pytest.mark.parametrize(
    ("kitfile", "layers"),
    [
        ({"model": _modern("m", ONE)}, [_layer(Role.MODEL, TWO)]),
        ({"model": _modern("m", ONE)}, []),
        ({"model": _modern("m", ONE)}, [_layer(Role.MODEL, ONE), _layer(Role.PART, TWO)]),
        ({"datasets": [_modern("m", ONE)]}, [_layer(Role.MODEL, ONE)]),
        ({"model": {"path": "m"}}, [_layer(Role.MODEL, ONE), _layer(Role.MODEL, TWO)]),
        ({"model": _modern("../m", ONE)}, [_layer(Role.MODEL, ONE)]),
        ({"model": {"path": "/etc/m"}}, [_layer(Role.MODEL, ONE)]),
    ],
)
def test_contradictions_are_refused(kitfile: dict[str, Any], layers: list[Layer]) -> None:
    with pytest.raises(InvalidKitfile, match=r"oci-layout:.:x:v1"):
        _kit(kitfile, *layers)


def test_a_modelpack_has_its_name_and_format() -> None:
    config = {
        "descriptor": {"name": "tiny", "version": "1", "licenses": ["MIT", "Apache-2.0"], "authors": ["A"]},
        "config": {"format": "onnx", "paramSize": "1"},
        "modelfs": {"type": "layers", "diffIds": []},
    }
    kit = _kit(config, _layer(Role.MODEL, ONE, "a/m.onnx"), form=Format.MODELPACK)
    assert kit.kitfile.model is not None
    assert (kit.kitfile.model.name, kit.kitfile.model.format) == ("tiny", "onnx")
    assert kit.kitfile.package.license == "MIT, Apache-2.0"
    assert kit.model_name == "a/m.onnx"


def test_a_modelpack_of_kit_has_its_kitfile_as_an_annotation() -> None:
    kitfile = json.dumps({"model": _modern("m", ONE, framework="onnx")})
    manifest = Manifest(
        Format.MODELPACK, CONFIG, (_layer(Role.MODEL, ONE),), {"ml.kitops.modelkit.kitfile": kitfile}
    )
    read = read_kitfile(manifest, b"{}", "r")
    assert read.model is not None
    assert read.model.framework == "onnx"
