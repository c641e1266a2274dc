"""Kits made by hand: tars by Python's own tarfile, and OCI layouts around them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

MODELKIT = "application/vnd.kitops.modelkit"
MODELPACK = "application/vnd.cncf.model"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


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

    def artifact(self, name: str, manifest: dict[str, Any]) -> str:
        """Store a manifest under a name; return its digest."""
        descriptor = self.blob(OCI_MANIFEST, json.dumps(manifest).encode())
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
        self._manifests.append(descriptor)
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self.directory / "index.json").write_text(json.dumps(index))
        return str(descriptor["digest"])

    def kit(self, name: str, data: bytes, packing: str = "tar", path: str = "model") -> str:
        """Store a ModelKit with one model layer; return its digest."""
        layer = self.blob(f"{MODELKIT}.model.v1.{packing}", data)
        kitfile = {"package": {}, "model": {"path": path, "digest": layer["digest"]}}
        config = self.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        return self.artifact(name, {"schemaVersion": 2, "config": config, "layers": [layer]})
