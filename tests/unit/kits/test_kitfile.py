from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidKitfile
from gateway.kits.dialects import read_kitfile
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Kitfile
from gateway.kits.layer import Archive, Compression, Layer, Role
from gateway.kits.manifest import Format, Manifest
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest, LayoutReference

ONE, TWO, THREE, FOUR = (Digest.of(data) for data in (b"1", b"2", b"3", b"4"))
REFERENCE = LayoutReference(Path(), "x", "v1", None)
CONFIG = Descriptor("x/y", ONE, 1)


def _layer(role: Role, digest: Digest, path: str | None = None) -> Layer:
    return Layer(Descriptor("x/y", digest, 1), role, Archive.TAR, Compression.NONE, path)


def _raw(role: Role, digest: Digest, path: str | None = None) -> Layer:
    return replace(_layer(role, digest, path), archive=Archive.RAW)


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
        ("base:v1", True),
        ("org/base@" + str(ONE), True),
        ("a/b.onnx", False),
        ("oci-layout:a:b:v1", False),
    ],
)
def test_parents(path: str, parent: bool) -> None:
    assert (Kitfile.model_validate({"model": {"path": path}}).parent == path) is parent


def test_a_model_with_a_digest_is_a_path_whatever_its_name() -> None:
    assert Kitfile.model_validate({"model": _modern("a:b.onnx", ONE)}).parent is None


def test_layers_are_matched_by_digest() -> None:
    kitfile = {"model": _modern("./m", TWO, parts=[_modern("p.json", ONE)]), "docs": [_modern("d", THREE)]}
    kit = _kit(kitfile, _layer(Role.PART, ONE), _layer(Role.MODEL, TWO), _layer(Role.DOCS, THREE))
    assert [layer.path for layer in kit.layers] == ["p.json", "./m", "d"]
    assert [layer.diff_id for layer in kit.layers] == [ONE, TWO, THREE]
    assert kit.model_name == "m"
    assert kit.size == 2


def test_equal_blobs_keep_their_own_paths() -> None:
    kitfile = {"model": _modern("a", ONE, parts=[_modern("b", ONE), _modern("c", ONE)])}
    layers = [_layer(role, ONE) for role in (Role.MODEL, Role.PART, Role.PART)]
    assert [layer.path for layer in _kit(kitfile, *layers).layers] == ["a", "b", "c"]


def test_equal_raw_blobs_go_where_the_manifest_has_them() -> None:
    kitfile = {"model": _modern("a", ONE, parts=[_modern("b", ONE), _modern("c", ONE)])}
    roles = (Role.PART, Role.PART, Role.MODEL)
    layers = [_raw(role, ONE, path) for role, path in zip(roles, "cba", strict=True)]
    assert [layer.path for layer in _kit(kitfile, *layers).layers] == ["c", "b", "a"]


def test_code_is_needed_only_when_asked_for() -> None:
    kitfile = {
        "model": _modern("m", ONE),
        "code": [_modern("src", TWO)],
        "prompts": [_modern("ask.txt", THREE)],
        "mcpServers": [_modern("tool.mcpb", FOUR)],
    }
    layers = [
        _layer(Role.MODEL, ONE),
        _layer(Role.CODE, TWO),
        _layer(Role.PROMPT, THREE),
        _layer(Role.MCP_SERVER, FOUR),
    ]
    kit = _kit(kitfile, *layers)
    assert [layer.role for layer in kit.needed_layers()] == [Role.MODEL]
    assert [layer.role for layer in kit.needed_layers(with_code=True)] == [Role.MODEL, Role.CODE]


def test_prompts_that_the_manifest_does_not_mark() -> None:
    kitfile = {"code": [_modern("src", ONE)], "prompts": [_modern("ask.txt", TWO)]}
    kit = _kit(kitfile, _layer(Role.CODE, TWO), _layer(Role.CODE, ONE))
    assert [layer.role for layer in kit.layers] == [Role.PROMPT, Role.CODE]


def test_old_kits_are_matched_by_order_and_unpacked_beside_their_path() -> None:
    kitfile = {
        "model": {"path": "./models/a", "parts": [{"path": "tokenizer.json"}, {"path": "x/y/vocab"}]},
        "docs": [{"path": "../README.md"}],
    }
    roles = (Role.DOCS, Role.PART, Role.MODEL, Role.PART)
    digests = (ONE, TWO, THREE, FOUR)
    kit = _kit(kitfile, *(_layer(role, digest) for role, digest in zip(roles, digests, strict=True)))
    assert [layer.path for layer in kit.needed_layers()] == ["tokenizer.json", "./models/a", "x/y/vocab"]
    assert [layer.root for layer in kit.needed_layers()] == ["", "models", "x/y"]
    assert kit.model_name == "models/a"


def test_parts_without_a_model_path() -> None:
    kitfile = {"model": {"name": "m", "parts": [_modern("a.onnx", ONE), _modern("a.onnx.data", TWO)]}}
    kit = _kit(kitfile, _layer(Role.PART, ONE), _layer(Role.PART, TWO))
    assert (kit.model_name, len(kit.needed_layers())) == ("", 2)


@pytest.mark.parametrize(
    ("kitfile", "layers", "needed"),
    [
        ({"model": {"path": "r.io/base:v1"}}, [], 0),
        ({"model": {"path": "r.io/base:v1"}, "docs": [_modern("d", ONE)]}, [(Role.DOCS, ONE)], 0),
        ({"model": {"path": "r.io/base:v1", "parts": [_modern("lora", ONE)]}}, [(Role.PART, ONE)], 1),
        ({"model": {"path": f"base@{ONE}", "parts": [{"path": "lora"}]}}, [(Role.PART, ONE)], 1),
    ],
)
def test_a_child_kit(kitfile: dict[str, Any], layers: list[tuple[Role, Digest]], needed: int) -> None:
    kit = _kit(kitfile, *(_layer(*layer) for layer in layers))
    assert kit.kitfile.parent is not None
    assert (kit.model_name, len(kit.needed_layers())) == ("", needed)


def test_what_is_elsewhere_has_no_layer() -> None:
    remote = {"path": "data", "remotePath": "s3://bucket/data", "remoteHash": "x"}
    kit = _kit({"model": _modern("m", ONE), "datasets": [remote]}, _layer(Role.MODEL, ONE))
    assert len(kit.layers) == 1


def test_layers_of_unknown_types_are_left_out() -> None:
    kit = _kit({"model": _modern("m", ONE)}, _raw(Role.OTHER, TWO), _layer(Role.MODEL, ONE))
    assert [layer.role for layer in kit.layers] == [Role.OTHER, Role.MODEL]
    assert len(kit.needed_layers(with_code=True)) == 1


MODEL, PART, CODE, DATASET, DOCS = Role.MODEL, Role.PART, Role.CODE, Role.DATASET, Role.DOCS


@pytest.mark.parametrize(
    ("kitfile", "layers", "why"),
    [
        ({"model": _modern("m", ONE)}, [(MODEL, TWO)], r"layers\.0 \(model, sha256:.*not as often"),
        ({"model": _modern("m", ONE)}, [], r"model: the manifest has no layer sha256"),
        ({"model": _modern("m", ONE)}, [(MODEL, ONE), (PART, TWO)], r"layers\.1 \(part"),
        ({"model": _modern("m", ONE)}, [(MODEL, ONE), (MODEL, ONE)], r"layers\.1 \(model.*not as often"),
        ({"datasets": [_modern("m", ONE)]}, [(MODEL, ONE)], r"layers\.0 \(model"),
        ({"model": _modern("m", ONE)}, [(DATASET, ONE)], r"layers\.0 \(dataset"),
        (
            {"model": _modern("m", ONE, parts=[_modern("p", TWO), _modern("q", TWO)])},
            [(MODEL, ONE), (PART, TWO)],
            r"model\.parts\.1: the manifest has sha256:.* as a part layer, or not as often",
        ),
        (
            {"model": _modern("m", ONE, parts=[_modern("p", TWO), {"path": "more"}])},
            [(MODEL, ONE), (PART, TWO)],
            r"model\.parts\.1: has no digest, where others have one",
        ),
        (
            {"model": _modern("m", ONE)},
            [(Role.OTHER, ONE)],
            r"model: its layer has the type 'x/y', which is not",
        ),
        ({"model": {"path": "m"}}, [(MODEL, ONE), (MODEL, TWO)], r"layers\.1 \(model"),
        (
            {"model": {"path": "m", "parts": [{"path": "p"}]}},
            [(MODEL, ONE)],
            r"model\.parts\.0: the manifest has no",
        ),
        ({"model": {"parts": [{"name": "p"}]}}, [(PART, ONE)], r"model\.parts\.0\.path: is missing"),
        ({}, [(MODEL, ONE)], r"layers\.0 \(model"),
        ({"model": None}, [(MODEL, ONE)], r"layers\.0 \(model"),
        ({"model": {"path": "r.io/base:v1"}}, [(MODEL, ONE)], r"layers\.0 \(model"),
        ({"model": _modern("../m", ONE)}, [(MODEL, ONE)], r"model\.path: '\.\./m' has an empty"),
        ({"model": {"path": "/etc/m"}}, [(MODEL, ONE)], r"model\.path: '/etc/m' is an absolute path"),
        ({"model": {"name": "m", "path": "..\\m"}}, [(MODEL, ONE)], r"model\.path: .* backslash"),
        (
            {"model": _modern("m", ONE), "code": [_modern("a/../../b", TWO)]},
            [(MODEL, ONE), (CODE, TWO)],
            r"code\.0\.path: 'a/\.\./\.\./b'",
        ),
    ],
)
def test_contradictions_are_refused(
    kitfile: dict[str, Any], layers: list[tuple[Role, Digest]], why: str
) -> None:
    with pytest.raises(InvalidKitfile, match=rf"^oci-layout:.:x:v1: its manifest and its Kitfile .*{why}"):
        _kit(kitfile, *(_layer(*layer) for layer in layers))


@pytest.mark.parametrize(
    ("more", "layers", "roles"),
    [
        # A section of a newer kit, packed as code that no entry of `code` has.
        ({"agents": [_modern("agent", TWO)]}, [(CODE, TWO)], [Role.OTHER]),
        ({}, [(DOCS, TWO), (DATASET, THREE)], [Role.OTHER, Role.OTHER]),
        ({"code": [_modern("src", TWO), {"path": "elsewhere"}]}, [(CODE, TWO)], [CODE]),
        ({"datasets": [_modern("rows", TWO)], "docs": [_modern("d", THREE)]}, [], []),
    ],
)
def test_what_serving_does_not_need_may_contradict(
    more: dict[str, Any], layers: list[tuple[Role, Digest]], roles: list[Role]
) -> None:
    kit = _kit(
        {"model": _modern("m", ONE), **more}, _layer(MODEL, ONE), *(_layer(*layer) for layer in layers)
    )
    assert [layer.role for layer in kit.layers] == [MODEL, *roles]
    assert (kit.model_name, kit.size) == ("m", 1)


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["a/m.gguf"], "a/m.gguf"),
        (["a/m.gguf", "mmproj-f16.gguf"], "a/m.gguf"),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m.mmproj"], "m-00001-of-00002.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n-00001-of-00001.gguf"], ""),
        (["q4.gguf", "q8.gguf"], ""),
        (["mmproj-f16.gguf"], "mmproj-f16.gguf"),
    ],
)
def test_the_model_among_several_weights(paths: list[str], name: str) -> None:
    layers = [_raw(MODEL, Digest.of(path.encode()), path) for path in paths]
    assert _kit({}, *layers, form=Format.MODELPACK).model_name == name


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([_raw(MODEL, ONE, "../m")], r"layers\.0\.path: '\.\./m'"),
        ([_raw(MODEL, ONE, "m"), _raw(PART, TWO, "a/b/../c")], r"layers\.1\.path: 'a/b/\.\./c'"),
        ([_raw(MODEL, ONE, "m\x00")], r"layers\.0\.path"),
        ([_raw(MODEL, ONE)], r"layers\.0 .* is a single file without a path"),
        ([_raw(MODEL, ONE, "m"), _raw(PART, TWO, "./m")], r"layers\.1 \(part.* repeats layers\.0"),
        ([_layer(MODEL, ONE, "m"), _layer(MODEL, ONE, "m")], r"layers\.1 \(model.* repeats layers\.0"),
    ],
)
def test_modelpacks_that_cannot_be_unpacked(layers: list[Layer], why: str) -> None:
    with pytest.raises(InvalidKitfile, match=why):
        _kit({}, *layers, form=Format.MODELPACK)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"model": [{}, {}]}, "model: "),
        ({"model": "m"}, "model: "),
        ({"model": {"path": {}}}, r"model\.path: "),
        ({"model": {"path": True}}, r"model\.path: "),
        ({"model": {"parts": {}}}, r"model\.parts: "),
        ({"model": {"parts": [None]}}, r"model\.parts\.0: "),
        ({"model": {"digest": "sha256:../../etc/passwd"}}, r"model\.digest: .*64 lower-case"),
        ({"model": {"digest": 1}}, r"model\.digest: .*not a string"),
        ({"model": {"diffId": f"SHA256:{'0' * 64}"}}, r"model\.diffId: "),
        ({"code": [[]]}, r"code\.0: "),
        ({"datasets": {"a": 1}}, "datasets: "),
        ({"package": []}, "package: "),
        ({"package": {"authors": [None]}}, r"package\.authors\.0: "),
    ],
)
def test_wrong_types_say_where(data: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidKitfile, match=rf"^r: its Kitfile is broken: {where}"):
        read_kitfile(Manifest(Format.MODELKIT, CONFIG, (), {}), json.dumps(data).encode(), "r")


def test_nulls_are_absent() -> None:
    names = ("manifestVersion", "package", "model", "code", "datasets", "docs", "prompts", "mcpServers")
    assert Kitfile.model_validate(dict.fromkeys(names)) == Kitfile()
    parts = {"path": None, "parts": None, "digest": None, "diffId": None, "parameters": None}
    assert list(Kitfile.model_validate({"model": parts}).entries()) == []


@pytest.mark.parametrize("nested", ["[", '{"a":'])
def test_deep_nesting_is_refused(nested: str) -> None:
    data = b'{"model":{"parameters":' + nested.encode() * 100_000
    with pytest.raises(InvalidKitfile, match="nested too deeply"):
        read_kitfile(Manifest(Format.MODELKIT, CONFIG, (), {}), data, "r")


@pytest.mark.parametrize("depth", [100, 500, 900])
def test_parameters_of_some_depth_are_read_or_refused(depth: int) -> None:
    data = b'{"model":{"parameters":' + b"[" * depth + b"]" * depth + b"}}"
    with suppress(InvalidKitfile):
        read_kitfile(Manifest(Format.MODELKIT, CONFIG, (), {}), data, "r")


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
    kit = Kit.of(REFERENCE, ONE, manifest, read)
    assert (kit.model_name, kit.layers[0].diff_id) == ("m", ONE)


def test_a_modelpack_of_kit_with_many_weights() -> None:
    shards = [f"model-{number}-of-3.safetensors" for number in (1, 2, 3)]
    digests = [ONE, TWO, THREE]
    first, *rest = (_modern(path, digest) for path, digest in zip(shards, digests, strict=True))
    kitfile = json.dumps({"model": {**first, "parts": [*rest, _modern("config.json", FOUR)]}})
    layers = tuple(_raw(MODEL, digest, path) for path, digest in zip(shards, digests, strict=True))
    layers += (_raw(PART, FOUR, "config.json"),)
    manifest = Manifest(Format.MODELPACK, CONFIG, layers, {"ml.kitops.modelkit.kitfile": kitfile})
    kit = Kit.of(REFERENCE, ONE, manifest, read_kitfile(manifest, b"{}", "r"))
    assert [layer.path for layer in kit.needed_layers()] == [*shards, "config.json"]
    assert kit.model_name == shards[0]


def test_a_modelpack_whose_kitfile_has_no_digests_goes_by_its_manifest() -> None:
    kitfile = json.dumps({"model": {"path": "m"}})
    layers = (_layer(MODEL, ONE, "m"), _layer(PART, TWO, "sub/p"))
    manifest = Manifest(Format.MODELPACK, CONFIG, layers, {"ml.kitops.modelkit.kitfile": kitfile})
    kit = Kit.of(REFERENCE, ONE, manifest, read_kitfile(manifest, b"{}", "r"))
    assert (kit.layers, kit.model_name) == (layers, "m")


@pytest.mark.parametrize("name", ["diffIds", "diff_ids"])
def test_a_modelpack_says_what_its_layers_hold(name: str) -> None:
    layers = (_layer(MODEL, ONE, "m"), _layer(DOCS, TWO, "d"))
    kit = _kit({"modelfs": {name: [str(THREE), str(FOUR)]}}, *layers, form=Format.MODELPACK)
    assert [layer.diff_id for layer in kit.layers] == [THREE, FOUR]
    with pytest.raises(InvalidKitfile, match=r"modelfs\.diffIds: 1 digest for 2 layers"):
        _kit({"modelfs": {name: [str(THREE)]}}, *layers, form=Format.MODELPACK)
    empty: list[dict[str, Any]] = [{}, {"modelfs": None}, {"modelfs": {name: None}}, {"modelfs": {name: []}}]
    for nothing in empty:
        assert _kit(nothing, *layers, form=Format.MODELPACK).layers == layers


def test_many_weights_are_a_directory() -> None:
    layers = [_raw(MODEL, ONE, "w/a"), _raw(MODEL, ONE, "w/b"), _raw(PART, TWO, "config.json")]
    kit = _kit({}, *layers, form=Format.MODELPACK)
    assert (kit.model_name, len(kit.needed_layers())) == ("", 3)
