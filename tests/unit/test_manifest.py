from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import KitError, NotAKit
from gateway.kits.manifest import LAYER_TYPES, Archive, Compression, Format, Role, parse_manifest
from gateway.oci.reference import Digest

DIGEST = str(Digest.of(b""))
KIT_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"


def _descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 0, **more}


def _manifest(config: str = KIT_CONFIG, layers: Any = (), **more: Any) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "config": _descriptor(config), "layers": layers and list(layers), **more}
    ).encode()


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.kitops.modelkit.model.v1.tar", (Role.MODEL, Archive.TAR, Compression.NONE)),
        ("application/vnd.kitops.modelkit.modelpart.v1.tar+gzip", (Role.PART, Archive.TAR, Compression.GZIP)),
        ("application/vnd.kitops.modelkit.docs.v1.raw+zstd", (Role.DOCS, Archive.RAW, Compression.ZSTD)),
        ("application/vnd.cncf.model.weight.v1.raw", (Role.MODEL, Archive.RAW, Compression.NONE)),
        ("application/vnd.cncf.model.weight.config.v1.tar", (Role.PART, Archive.TAR, Compression.NONE)),
        ("application/vnd.cncf.model.doc.v1.tar+zstd", (Role.DOCS, Archive.TAR, Compression.ZSTD)),
    ],
)
def test_layer_types(media_type: str, expected: tuple[Role, Archive, Compression]) -> None:
    assert LAYER_TYPES[media_type] == expected


def test_layer_types_that_are_none() -> None:
    assert len(LAYER_TYPES) == 5 * 6 + 5 * 4
    assert "application/vnd.cncf.model.weight.v1.raw+gzip" not in LAYER_TYPES
    layer = _descriptor("application/vnd.kitops.modelkit.mcpb.v1.raw")
    assert parse_manifest(_manifest(layers=[layer]), "r").layers[0].role is Role.OTHER


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Format.MODELKIT),
        ({"config": "application/vnd.cncf.model.config.v1+json"}, Format.MODELPACK),
        ({"config": "x/y", "artifactType": "application/vnd.cncf.model.manifest.v1+json"}, Format.MODELPACK),
        (
            {"config": "x/y", "artifactType": "application/vnd.kitops.modelkit.manifest.v1+json"},
            Format.MODELKIT,
        ),
    ],
)
def test_formats(more: dict[str, str], expected: Format) -> None:
    assert parse_manifest(_manifest(**more), "r").format is expected


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (_manifest("application/vnd.oci.image.config.v1+json"), "this is a container image"),
        (_manifest("application/vnd.cncf.helm.config.v1+json"), "this is a Helm chart"),
        (_manifest("x/y", artifactType="a/b"), "an artifact of type 'a/b'"),
        (b'{"schemaVersion":2,"manifests":[]}', "an index of manifests"),
        (
            b'{"manifests":[],"artifactType":"application/vnd.kitops.modelkit.index.v1+json"}',
            "an index of ModelKits",
        ),
        (_manifest(manifests=[]), "an index and a manifest in one"),
    ],
)
def test_other_artifacts_are_named(data: bytes, what: str) -> None:
    with pytest.raises(NotAKit, match=rf"r\.io/x:v1.*{what}"):
        parse_manifest(data, "r.io/x:v1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"schemaVersion":2,"schemaVersion":2}',
        b'{"schemaVersion":2}',
        b"[" * 100_000,
        _manifest(schemaVersion=1),
        _manifest(schemaVersion="2"),
        _manifest(layers=[_descriptor("a/b", size=-1)]),
        _manifest(layers=[_descriptor("a/b", size="1")]),
        _manifest(layers=[_descriptor("a/b", size=True)]),
        _manifest(layers=[_descriptor("a/b", size=1.5)]),
        _manifest(layers=[_descriptor("a/b", digest="sha256:../../etc/passwd")]),
        _manifest(layers=[_descriptor("a/b", digest="sha512:" + "0" * 128)]),
        _manifest(layers=[_descriptor("a/b", annotations={"a": 1})]),
        _manifest(layers={}),
        b" " * (4 * 1024 * 1024 + 1),
    ],
)
def test_broken_manifests(data: bytes) -> None:
    with pytest.raises(KitError, match=r"r\.io/x:v1: its manifest"):
        parse_manifest(data, "r.io/x:v1")


def test_what_is_unknown_is_left_alone() -> None:
    layer = _descriptor("a/b", annotations={"org.cncf.model.filepath": "a/b.bin"}, urls=["https://x"], new=1)
    manifest = parse_manifest(_manifest(layers=[layer], new={"a": [1]}, annotations={"k": "v"}), "r")
    assert manifest.layers[0].path == "a/b.bin"
    assert manifest.annotations == {"k": "v"}
    assert parse_manifest(_manifest(layers=None), "r").layers == ()
