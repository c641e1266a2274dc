"""What the kit command line keeps on disk, and how it packs."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.artifacts import COMPRESS, MODELKIT, LayoutBuilder, sha256, tar


def kit_storage(home: Path, layout: Path, registry: str) -> Path:
    """Lay a layout's kits out as kit does after it packed them for a registry; return the directory."""
    storage = home / "storage"
    shutil.copytree(layout, storage)
    index = json.loads((storage / "index.json").read_bytes())
    repositories: dict[tuple[Path, str], dict[str, object]] = {}
    for entry in index["manifests"]:
        repository, _, tag = entry.pop("annotations")["org.opencontainers.image.ref.name"].partition(":")
        # Since 1.17, indexes are named apart from kits.
        directory = storage / "indexes" if entry["mediaType"].endswith("index.v1+json") else storage
        repositories.setdefault((directory, f"{registry}/{repository}"), {})[tag] = entry
    (storage / "index.json").write_text(json.dumps(index))
    for (directory, name), tags in repositories.items():
        directory.mkdir(exist_ok=True)
        encoded = base64.urlsafe_b64encode(name.encode()).decode()
        listed = {"schemaVersion": 2, "manifests": list(tags.values())}
        (directory / f"{encoded}-index.json").write_text(json.dumps(listed))
        (directory / f"{encoded}-tags.json").write_text(json.dumps(tags))
    for blob in (storage / "blobs" / "sha256").iterdir():
        blob.chmod(0o600)
    return storage


_SECTIONS = {
    "model": ("model", None),
    "part": ("modelpart", "parts"),
    "code": ("code", "code"),
    "dataset": ("dataset", "datasets"),
    "docs": ("docs", "docs"),
}


def pack_kit(
    builder: LayoutBuilder,
    name: str,
    *layers: tuple[str, str, Mapping[str, bytes | None]],
    packing: str = "tar",
    model: Mapping[str, object] | None = None,
) -> str:
    """Pack a kit as kit does, and return its digest; each layer is its kind, its path, and its files.

    `model` has more members of the Kitfile's model.
    """
    descriptors = []
    kitfile: dict[str, Any] = {"manifestVersion": "1.0.0", "package": {"name": "kit"}}
    for kind, path, files in layers:
        base, section = _SECTIONS[kind]
        archive, _, compression = packing.partition("+")
        content = tar(*files.items()) if archive == "tar" else next(iter(files.values())) or b""
        descriptor = builder.blob(
            f"{MODELKIT}.{base}.v1.{packing}", COMPRESS[compression](content), org_cncf_model_filepath=path
        )
        descriptors.append(descriptor)
        entry = {"path": path, "digest": descriptor["digest"], "diffId": sha256(content)}
        if section is None:
            kitfile["model"] = {**kitfile.get("model", {}), **entry, **(model or {})}
        elif section == "parts":
            kitfile.setdefault("model", {}).setdefault(section, []).append(entry)
        else:
            kitfile.setdefault(section, []).append(entry)
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    return builder.artifact(name, {"schemaVersion": 2, "config": config, "layers": descriptors})
