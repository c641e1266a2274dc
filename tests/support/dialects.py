"""Models as tools other than kit store them, and ModelKits as kit does that are about language models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.artifacts import MODELKIT, MODELPACK, OCI_MANIFEST, LayoutBuilder, sha256, tar

DOCKER = "application/vnd.docker.ai"
OLLAMA = "application/vnd.ollama.image"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
GGUF = b"GGUF\x03\0\0\0" + b"\0" * 16
"""A GGUF file without tensors and metadata."""


def gguf(note: str, size: int = 0) -> bytes:
    """Return a GGUF file that is unlike the others, of at least this size in bytes."""
    data = GGUF + note.encode()
    return data + b"\0" * max(0, size - len(data))


def modelkit(
    builder: LayoutBuilder,
    name: str,
    files: Mapping[str, bytes],
    model: Mapping[str, Any] | None = None,
    **kitfile: Any,
) -> str:
    """Store a ModelKit as kit packs it: the first file is the model, others are its parts.

    `model` is what the Kitfile's model has besides; its `types` are the types of parts, by path. `kitfile`
    are more members of the Kitfile.
    """
    more = dict(model or {})
    types = more.pop("types", {})
    layers: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for path, data in files.items():
        base = "modelpart" if layers else "model"
        above = path.split("/")[:-1]
        directories = [("/".join(above[: depth + 1]), None) for depth in range(len(above))]
        blob = tar(*directories, (path, data))
        layers.append(builder.blob(f"{MODELKIT}.{base}.v1.tar", blob, org_cncf_model_filepath=path))
        entry = {"name": path, "path": path, "digest": sha256(blob), "diffId": sha256(blob)}
        entries.append(entry | ({"type": types[path]} if path in types else {}))
    document = {
        "manifestVersion": "1.0.0",
        "package": {"name": name.partition(":")[0]},
        "model": {**entries[0], "parts": entries[1:], **more},
        **kitfile,
    }
    return builder.artifact(
        name,
        {
            "schemaVersion": 2,
            "artifactType": f"{MODELKIT}.manifest.v1+json",
            "config": builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(document).encode()),
            "layers": layers,
            "annotations": {"ml.kitops.modelkit.cli-version": "1.17.0"},
        },
    )


def modelkit_index(builder: LayoutBuilder, name: str, kits: Mapping[str, Mapping[str, Any]]) -> str:
    """Store an index as `kit index create` and `add` do, of kits of the layout with their labels."""
    entries = [
        {
            **builder.entry(kit),
            "artifactType": f"{MODELKIT}.manifest.v1+json",
            "annotations": {"ml.kitops.modelkit.index.tag": kit.partition(":")[2]},
            **({"modelMetadata": dict(labels)} if labels else {}),
        }
        for kit, labels in kits.items()
    ]
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": f"{MODELKIT}.index.v1+json",
        "manifests": entries,
    }
    return builder.artifact(name, index, OCI_INDEX)


def modelpack(
    builder: LayoutBuilder, name: str, layers: Sequence[tuple[str, str | None, bytes]], *, key: str = FILEPATH
) -> str:
    """Store a ModelPack without a Kitfile, as modctl and Docker do: (type, path, content) of each raw layer.

    A type is that of a layer after "application/vnd.cncf.model.". `key` is the annotation with the paths.
    """
    descriptors = [_raw(builder, f"{MODELPACK}.{kind}", data, path, key) for kind, path, data in layers]
    config = {
        "descriptor": {"name": name.partition(":")[0], "licenses": ["Apache-2.0"]},
        "config": {"format": "gguf", "paramSize": "135M"},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in descriptors]},
    }
    return builder.artifact(
        name,
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": f"{MODELPACK}.manifest.v1+json",
            "config": builder.blob(f"{MODELPACK}.config.v1+json", json.dumps(config).encode()),
            "layers": descriptors,
        },
    )


def docker_model(
    builder: LayoutBuilder,
    name: str,
    layers: Sequence[tuple[str, str | None, bytes]],
    *,
    version: str = "v0.1",
    **config: Any,
) -> str:
    """Store a model as `docker model package` does: (type, path, content) of each layer.

    A type is that of a layer after "application/vnd.docker.ai.". `config` is what the config says besides.
    """
    descriptors = [_raw(builder, f"{DOCKER}.{kind}", data, path, FILEPATH) for kind, path, data in layers]
    document = {
        "config": {"format": "gguf", "quantization": "Q4_0", "parameters": "135M", **config},
        "descriptor": {"created": "2026-01-01T00:00:00Z"},
        "rootfs": {"type": "rootfs", "diff_ids": [layer["digest"] for layer in descriptors]},
    }
    return builder.artifact(
        name,
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": builder.blob(f"{DOCKER}.model.config.{version}+json", json.dumps(document).encode()),
            "layers": descriptors,
        },
    )


def ollama_model(builder: LayoutBuilder, name: str, layers: Sequence[tuple[str, bytes]]) -> str:
    """Store a model as `ollama push` does: (type, content) of each layer, which have no names.

    A type is that of a layer after "application/vnd.ollama.image.".
    """
    descriptors = [builder.blob(f"{OLLAMA}.{kind}", data) for kind, data in layers]
    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "file_type": "Q4_0",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in descriptors]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": builder.blob("application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
        "layers": descriptors,
    }
    return builder.artifact(name, manifest, DOCKER_MANIFEST)


def _raw(builder: LayoutBuilder, media_type: str, data: bytes, path: str | None, key: str) -> dict[str, Any]:
    descriptor = builder.blob(media_type, data)
    if path is not None:
        descriptor["annotations"] = {key: path}
    return descriptor
