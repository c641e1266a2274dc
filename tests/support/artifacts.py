"""Kits made by hand: tars by Python's own tarfile, OCI layouts around them, and a kit of every format."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MODELKIT = "application/vnd.kitops.modelkit"
MODELPACK = "application/vnd.cncf.model"
LEGACY_MODELPACK = "application/vnd.cnai.model"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL_PATH = "model/iris.onnx"

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": partial(gzip.compress, compresslevel=1, mtime=0),
    "zstd": zstd.compress,
}
"""What a media type's suffix stands for; kit's gzip-fastest is gzip as well."""


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(*members: tuple[str, bytes | None], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar of (name, content); None as content is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


class LayoutBuilder:
    """Writes an OCI layout; every method leaves a valid one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._manifests: list[dict[str, Any]] = []

    def blob(self, media_type: str, data: bytes, **annotations: str) -> dict[str, Any]:
        """Store a blob; return its descriptor. Underscores in annotation names stand for dots."""
        digest = sha256(data)
        (self.directory / "blobs" / digest.replace(":", "/")).write_bytes(data)
        descriptor: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(data)}
        if annotations:
            descriptor["annotations"] = {key.replace("_", "."): value for key, value in annotations.items()}
        return descriptor

    def artifact(self, name: str, manifest: dict[str, Any], media_type: str = OCI_MANIFEST) -> str:
        """Store a manifest or an index under a name; return its digest."""
        descriptor = self.blob(media_type, json.dumps(manifest).encode())
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
        self._manifests.append(descriptor)
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self.directory / "index.json").write_text(json.dumps(index))
        return str(descriptor["digest"])

    def entry(self, name: str) -> dict[str, Any]:
        """Return the descriptor of what is stored under a name, without the name."""
        (entry,) = (
            entry
            for entry in self._manifests
            if entry["annotations"]["org.opencontainers.image.ref.name"] == name
        )
        return {key: value for key, value in entry.items() if key != "annotations"}

    def kit(
        self, name: str, data: bytes, packing: str = "tar", path: str = "model", rows: bytes = b""
    ) -> str:
        """Store a ModelKit with a model layer, and a dataset of `rows` (JSON lines); return its digest."""
        layers = [self.blob(f"{MODELKIT}.model.v1.{packing}", data)]
        kitfile: dict[str, Any] = {"package": {}, "model": {"path": path, "digest": layers[0]["digest"]}}
        if rows:
            layers.append(self.blob(f"{MODELKIT}.dataset.v1.tar", tar(("rows.jsonl", rows))))
            kitfile["datasets"] = [{"name": "rows", "path": "rows.jsonl", "digest": layers[1]["digest"]}]
        config = self.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        return self.artifact(name, {"schemaVersion": 2, "config": config, "layers": layers})


def digest_of(layout: Path, name: str) -> str:
    """Return the digest of the kit that an OCI layout has under a name, "NAME:TAG"."""
    (digest,) = (
        str(entry["digest"])
        for entry in json.loads((layout / "index.json").read_text())["manifests"]
        if entry["annotations"]["org.opencontainers.image.ref.name"] == name
    )
    return digest


@cache
def iris() -> bytes:
    """Return the ONNX model of the sample kit."""
    samples = Path(__file__).parents[2] / "configs" / "samples"

    def blob(digest: str) -> bytes:
        return Path(samples, "blobs", *digest.split(":")).read_bytes()

    layers = json.loads(blob(digest_of(samples, "samples/iris:v1")))["layers"]
    with tarfile.open(fileobj=io.BytesIO(blob(layers[0]["digest"]))) as archive:
        content = archive.extractfile(MODEL_PATH)
        assert content is not None
        return content.read()


class Format(Protocol):
    """Stores a kit that can be served under a name, "NAME:TAG", and returns the digest of its manifest.

    `model` is an ONNX file's bytes, the iris model if None; it is at MODEL_PATH.
    """

    def __call__(self, builder: LayoutBuilder, name: str, model: bytes | None = None) -> str: ...


def packed(packing: str, path: str, data: bytes) -> tuple[bytes, bytes]:
    """Return a layer's blob and its uncompressed bytes, in a tar with the directories above it."""
    archive, _, compression = packing.partition("+")
    above = path.split("/")[:-1]
    directories = [("/".join(above[: depth + 1]), None) for depth in range(len(above))]
    content = tar(*directories, (path, data)) if archive == "tar" else data
    return COMPRESS[compression](content), content


# kind: its media type, where the Kitfile has it, and a file of it.
_KINDS = {
    "model": ("model", None, MODEL_PATH, b""),
    "part": ("modelpart", "parts", "model/labels.txt", b"setosa\nversicolor\nvirginica\n"),
    "code": ("code", "code", "src/app.py", b"print('iris')\n"),
    "dataset": ("dataset", "datasets", "data/iris.csv", b"5.1,3.5,1.4,0.2,setosa\n"),
    "docs": ("docs", "docs", "README.md", b"# Iris\n"),
    "prompt": ("code", "prompts", "prompts/ask.txt", b"Which flower is this?\n"),
}


def _modelkit(kind: str, packing: str, builder: LayoutBuilder, name: str, model: bytes | None = None) -> str:
    """Store a ModelKit as the newest kit packs it: the model, and a layer of this kind in this packing."""
    layers: list[dict[str, Any]] = []
    kitfile: dict[str, Any] = {"manifestVersion": "1.0.0", "package": {"name": "iris"}}

    def add(kind: str, packing: str, data: bytes) -> None:
        base, section, path, _ = _KINDS[kind]
        blob, content = packed(packing, path, data)
        more = {"ml_kitops_modelkit_layer-subtype": "prompt"} if kind == "prompt" else {}
        layer = builder.blob(f"{MODELKIT}.{base}.v1.{packing}", blob, org_cncf_model_filepath=path, **more)
        layers.append(layer)
        entry = {"path": path, "digest": layer["digest"], "diffId": sha256(content)}
        if section is None:
            kitfile["model"] = {"name": "iris", "format": "onnx", **entry}
        else:
            (kitfile["model"] if section == "parts" else kitfile)[section] = [entry]

    add("model", packing if kind == "model" else "tar", iris() if model is None else model)
    if kind != "model":
        add(kind, packing, _KINDS[kind][3])
    return builder.artifact(
        name,
        {
            "schemaVersion": 2,
            "artifactType": f"{MODELKIT}.manifest.v1+json",
            "config": builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode()),
            "layers": layers,
            "annotations": {"ml.kitops.modelkit.cli-version": "1.15.0"},
        },
    )


def _old_modelkit(packing: str, builder: LayoutBuilder, name: str, model: bytes | None = None) -> str:
    """Store a ModelKit as kit packed it before 0.5: no digests, and tars that begin at a path's last part."""
    blob, _ = packed(packing, "iris.onnx", iris() if model is None else model)
    part, _ = packed(packing, "labels.txt", _KINDS["part"][3])
    kitfile = {
        "manifestVersion": "v1.0.0",
        "package": {"authors": None},
        "model": {"path": f"./{MODEL_PATH}", "parts": [{"path": "./model/labels.txt"}]},
    }
    layers = [
        builder.blob(f"{MODELKIT}.model.v1.{packing}", blob),
        builder.blob(f"{MODELKIT}.modelpart.v1.{packing}", part),
    ]
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    return builder.artifact(name, {"schemaVersion": 2, "config": config, "layers": layers})


def _modelpack(
    family: str, by_kit: bool, packing: str, builder: LayoutBuilder, name: str, model: bytes | None = None
) -> str:
    """Store a ModelPack: one layer for each file as modctl packs it, or with a Kitfile as kit does."""
    owner = "org_cnai" if family == LEGACY_MODELPACK else "org_cncf"
    files = {"weight": (MODEL_PATH, iris() if model is None else model)}
    files["weight.config"] = ("model/labels.txt", _KINDS["part"][3])
    files["doc"] = ("README.md", _KINDS["docs"][3])
    layers, entries, diff_ids = [], {}, []
    for base, (path, data) in files.items():
        blob, content = packed(packing, path, data)
        layer = builder.blob(f"{family}.{base}.v1.{packing}", blob, **{f"{owner}_model_filepath": path})
        layers.append(layer)
        diff_ids.append(sha256(content))
        entries[base] = {"path": path, "digest": layer["digest"], "diffId": sha256(content)}
    document = {
        "descriptor": {"name": "iris"},
        "config": {"format": "onnx"},
        "modelfs": {
            "type": "layers",
            "diff_ids" if family == LEGACY_MODELPACK else "diffIds": diff_ids,
        },
    }
    kitfile = {
        "package": {},
        "model": {**entries["weight"], "parts": [entries["weight.config"]]},
        "docs": [entries["doc"]],
    }
    annotations = {"ml.kitops.modelkit.kitfile": json.dumps(kitfile)} if by_kit else {}
    return builder.artifact(
        name,
        {
            "schemaVersion": 2,
            **({} if by_kit else {"mediaType": OCI_MANIFEST}),
            "artifactType": f"{family}.manifest.v1+json",
            "config": builder.blob(f"{family}.config.v1+json", json.dumps(document).encode()),
            "layers": layers,
            "annotations": annotations,
        },
    )


_TARS = ("tar", "tar+gzip", "tar+zstd")
FORMATS: dict[str, Format] = {
    **{
        f"modelkit {kind} {packing}": partial(_modelkit, kind, packing)
        for kind in _KINDS
        for packing in (*_TARS, "raw", "raw+gzip", "raw+zstd")
    },
    **{f"old modelkit {packing}": partial(_old_modelkit, packing) for packing in ("tar", "tar+gzip")},
    **{f"modelpack {packing}": partial(_modelpack, MODELPACK, False, packing) for packing in ("raw", *_TARS)},
    **{
        f"cnai {packing}": partial(_modelpack, LEGACY_MODELPACK, False, packing)
        for packing in ("raw", *_TARS)
    },
    **{
        f"kit modelpack {packing}": partial(_modelpack, MODELPACK, True, packing)
        for packing in ("raw", *_TARS)
    },
}
"""Every kind of layer of every format that was ever published, each in a kit that can be served."""
