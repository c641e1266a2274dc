from __future__ import annotations

import json
import re
from typing import Any

import pytest

from gateway.errors import KitError, NotAKit
from gateway.kits.layer import LAYER_TYPES, Archive, Compression, Role
from gateway.kits.manifest import Format, parse_manifest
from gateway.oci.reference import Digest

DIGEST = str(Digest.of(b""))
LONG_S: dict[str, Any] = {"layer\u017f": []}  # which Go's JSON takes for "layers"
KIT_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"


def _descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 0, **more}


def _manifest(config: Any = KIT_CONFIG, layers: Any = (), **more: Any) -> bytes:
    config = _descriptor(config) if isinstance(config, str) else config
    return json.dumps(
        {"schemaVersion": 2, "config": config, "layers": layers and list(layers), **more}
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
        ("application/vnd.cnai.model.weight.v1.tar+gzip", (Role.MODEL, Archive.TAR, Compression.GZIP)),
        ("application/vnd.kitops.modelkit.mcpb.v1.raw", (Role.MCP_SERVER, Archive.RAW, Compression.NONE)),
        ("application/vnd.cncf.model.weight.v1.gguf", (Role.MODEL, Archive.RAW, Compression.NONE)),
        ("application/vnd.cncf.model.weight.v1.safetensors", (Role.MODEL, Archive.RAW, Compression.NONE)),
        ("application/vnd.docker.ai.gguf.v3", (Role.MODEL, Archive.RAW, Compression.NONE)),
        ("application/vnd.docker.ai.safetensors", (Role.MODEL, Archive.RAW, Compression.NONE)),
        ("application/vnd.docker.ai.mmproj", (Role.PART, Archive.RAW, Compression.NONE)),
        ("application/vnd.docker.ai.model.file", (Role.PART, Archive.RAW, Compression.NONE)),
        ("application/vnd.docker.ai.dir.tar", (Role.PART, Archive.TAR, Compression.NONE)),
        ("application/vnd.docker.ai.license", (Role.DOCS, Archive.RAW, Compression.NONE)),
    ],
)
def test_layer_types(media_type: str, expected: tuple[Role, Archive, Compression]) -> None:
    assert LAYER_TYPES[media_type] == expected


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.cncf.model.weight.v1.raw+gzip",
        "application/vnd.kitops.modelkit.mcpb.v1.tar",
        "application/vnd.kitops.modelkit.model.v2.tar",
        "application/vnd.kitops.modelkit.model.v1.tar+xz",
        "application/vnd.kitops.modelkit.model.v1.tar+gzip-fastest",
        "application/vnd.kitops.modelkit.Model.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "x",
    ],
)
def test_layer_types_that_are_not_known(media_type: str) -> None:
    assert len(LAYER_TYPES) == 5 * 6 + 2 * 5 * 4 + 1 + 11 + 7
    assert media_type not in LAYER_TYPES
    (layer,) = parse_manifest(_manifest(layers=[_descriptor(media_type)]), "r").layers
    assert layer.role is Role.OTHER


def test_layers_by_their_annotations() -> None:
    code = "application/vnd.kitops.modelkit.code.v1.tar"
    subtype = "ml.kitops.modelkit.layer-subtype"
    layers = [
        _descriptor(code, annotations={subtype: "prompt", "org.cncf.model.filepath": "p.txt"}),
        _descriptor(code, annotations={subtype: "other", "org.cnai.model.filepath": "a"}),
        _descriptor(code, annotations={"org.cncf.model.filepath": ""}),
        _descriptor("application/vnd.kitops.modelkit.model.v1.tar", annotations={subtype: "prompt"}),
    ]
    read = parse_manifest(_manifest(layers=layers), "r").layers
    assert [(layer.role, layer.path) for layer in read] == [
        (Role.PROMPT, "p.txt"),
        (Role.CODE, "a"),
        (Role.CODE, None),
        (Role.MODEL, None),
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Format.MODELKIT),
        ({"config": "application/vnd.cncf.model.config.v1+json"}, Format.MODELPACK),
        ({"config": "application/vnd.cnai.model.config.v1+json"}, Format.MODELPACK),
        ({"config": "x/y", "artifactType": "application/vnd.cnai.model.manifest.v1+json"}, Format.MODELPACK),
        ({"mediaType": "application/vnd.oci.image.manifest.v1+json"}, Format.MODELKIT),
        ({"config": "x/y", "artifactType": "application/vnd.cncf.model.manifest.v1+json"}, Format.MODELPACK),
        (
            {"config": "x/y", "artifactType": "application/vnd.kitops.modelkit.manifest.v1+json"},
            Format.MODELKIT,
        ),
        ({"config": "application/vnd.docker.ai.model.config.v0.1+json"}, Format.DOCKER),
        ({"config": "application/vnd.docker.ai.model.config.v0.2+json"}, Format.DOCKER),
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
        (_manifest("x/y"), "an artifact of type 'x/y'"),
        (_manifest("application/vnd.oci.empty.v1+json", layers=[]), "an artifact of type"),
        (b'{"schemaVersion":1,"name":"x","tag":"y","fsLayers":[],"history":[]}', "Docker's first schema"),
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
        _manifest(schemaVersion=3),
        _manifest(schemaVersion=True),
        _manifest(artifactType="x" * 256),
        _manifest(config={}),
        _manifest(config=None),
        _manifest(layers=[[]]),
        _manifest(layers=[None]),
        _manifest(layers=[_descriptor("x" * 256)]),
        _manifest(layers=[_descriptor("a/b", size=2**63)]),
        b'{"schemaVersion":NaN}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf" + _manifest(),
        _manifest().decode().encode("utf-16"),
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


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (_manifest(Layers=[]), "'Layers' instead of 'layers'"),
        (_manifest(MANIFESTS=[]), "'MANIFESTS' instead of 'manifests'"),
        (_manifest(SchemaVersion=2), "'SchemaVersion' instead of 'schemaVersion'"),
        (_manifest(mediatype="a/b"), "'mediatype' instead of 'mediaType'"),
        (_manifest(ArtifactType="a/b"), "'ArtifactType' instead of 'artifactType'"),
        (_manifest(**LONG_S), "'layer\u017f' instead of 'layers'"),
        (
            _manifest(config={**_descriptor(KIT_CONFIG), "Digest": DIGEST}),
            r"config\.'Digest' instead of 'digest'",
        ),
        (
            _manifest(layers=[_descriptor("a/b"), _descriptor("a/b", Size=1)]),
            r"layers\.1\.'Size' instead of 'size'",
        ),
        (_manifest(layers=[_descriptor("a/b", DATA="x")]), r"layers\.0\.'DATA' instead of 'data'"),
    ],
)
def test_a_name_in_another_case_says_where(data: bytes, where: str) -> None:
    with pytest.raises(KitError, match=rf"^r: its manifest cannot be read: has {where}"):
        parse_manifest(data, "r")


def test_a_fault_says_where() -> None:
    layers = [_descriptor("a/b"), _descriptor("a/b", digest="sha256:1")]
    with pytest.raises(KitError, match=r"^r: its manifest is broken: layers\.1\.digest: .*64 lower-case"):
        parse_manifest(_manifest(layers=layers), "r")
    with pytest.raises(KitError, match=r"layers\.7\.size: .*; and 12 more; push") as caught:
        parse_manifest(_manifest(layers=[_descriptor("a/b", size=-1)] * 20), "r")
    assert len(str(caught.value)) < 1000


MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
DOCKER_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.mark.parametrize(
    ("written", "sent", "why"),
    [
        (INDEX_TYPE, MANIFEST_TYPE, f"states the type '{INDEX_TYPE}' and was sent as '{MANIFEST_TYPE}'"),
        (MANIFEST_TYPE, INDEX_TYPE, "was sent as"),
        (MANIFEST_TYPE, "text/html", "was sent as"),
        (None, INDEX_TYPE, f"has the media type '{INDEX_TYPE}', and a kit's has"),
        (DOCKER_TYPE, DOCKER_TYPE, "and a kit's has"),
        (DOCKER_TYPE, None, "and a kit's has"),
        (None, None, None),
        (None, "", None),
        (None, MANIFEST_TYPE, None),
        (MANIFEST_TYPE, MANIFEST_TYPE, None),
    ],
)
def test_the_media_type_that_was_sent(written: str | None, sent: str | None, why: str | None) -> None:
    data = _manifest(**({"mediaType": written} if written else {}))
    if why is None:
        assert parse_manifest(data, "r", sent).format is Format.MODELKIT
        return
    with pytest.raises(KitError, match=re.escape(why)):
        parse_manifest(data, "r", sent)


def test_two_formats_in_one() -> None:
    data = _manifest(artifactType="application/vnd.cncf.model.manifest.v1+json")
    with pytest.raises(KitError, match="a ModelKit by one type and a ModelPack by the other"):
        parse_manifest(data, "r")


def test_a_very_long_manifest_is_read_or_refused_at_once() -> None:
    layers = json.loads(_manifest(layers=[_descriptor("a/b")]))["layers"]
    assert len(parse_manifest(_manifest(layers=layers * 4096), "r").layers) == 4096
    with pytest.raises(KitError, match=r"layers: .*at most 4096"):
        parse_manifest(_manifest(layers=layers * 4097), "r")
    with pytest.raises(KitError, match="4 MiB are allowed"):
        parse_manifest(_manifest(layers=layers * 100_000), "r")
    note = "x" * 3_900_000
    assert parse_manifest(_manifest(annotations={"note": note}), "r").annotations["note"] == note
