"""What the kit command line keeps on disk."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path


def kit_storage(home: Path, layout: Path, registry: str) -> Path:
    """Lay a layout's kits out as kit does after it packed them for a registry; return the directory."""
    storage = home / "storage"
    shutil.copytree(layout, storage)
    index = json.loads((storage / "index.json").read_bytes())
    repositories: dict[str, dict[str, object]] = {}
    for entry in index["manifests"]:
        repository, _, tag = entry.pop("annotations")["org.opencontainers.image.ref.name"].partition(":")
        repositories.setdefault(f"{registry}/{repository}", {})[tag] = entry
    (storage / "index.json").write_text(json.dumps(index))
    for name, tags in repositories.items():
        encoded = base64.urlsafe_b64encode(name.encode()).decode()
        listed = {"schemaVersion": 2, "manifests": list(tags.values())}
        (storage / f"{encoded}-index.json").write_text(json.dumps(listed))
        (storage / f"{encoded}-tags.json").write_text(json.dumps(tags))
    for blob in (storage / "blobs" / "sha256").iterdir():
        blob.chmod(0o600)
    return storage
