"""A real registry (Debian's docker-registry) on loopback, filled from OCI layouts."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.ports import free_port

USERNAME, PASSWORD = "ci", "open sesame"
_HASH = "$2b$04$4Z7FsGGedOoGE9H0EMRo3el7t2MBjTS6GTjW25pXqCD/3vkm4MPKy"
_REF_NAME = "org.opencontainers.image.ref.name"


class Registry:
    """`host` is "127.0.0.1:PORT", `storage` the directory of its data; the same after a restart."""

    def __init__(self, directory: Path, *, htpasswd: bool = False) -> None:
        self.storage = directory / "storage"
        self.storage.mkdir(parents=True)
        self.host = f"127.0.0.1:{free_port()}"
        self._auth = (USERNAME, PASSWORD) if htpasswd else None
        self._config = directory / "config.yml"
        self._log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        config: dict[str, Any] = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.host},
        }
        if htpasswd:
            (directory / "htpasswd").write_text(f"{USERNAME}:{_HASH}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
        self._config.write_text(json.dumps(config))

    def start(self) -> None:
        binary = shutil.which("docker-registry")
        assert binary, "docker-registry is not installed"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "serve", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                requests.get(f"http://{self.host}/v2/", timeout=1)
            except requests.ConnectionError:
                assert time.monotonic() < deadline, self._log.read_text()
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push_layout(self, layout: Path) -> list[str]:
        """Push everything that the layout names; return the references."""
        return [
            self.push(layout, entry)
            for entry in json.loads((layout / "index.json").read_text())["manifests"]
            if _REF_NAME in entry.get("annotations", {})
        ]

    def push(self, layout: Path, entry: dict[str, Any]) -> str:
        repository, _, tag = entry["annotations"][_REF_NAME].partition(":")
        data = _blob(layout, entry["digest"])
        manifest = json.loads(data)
        for descriptor in [manifest["config"], *(manifest["layers"] or [])]:
            self._push_blob(repository, descriptor["digest"], _blob(layout, descriptor["digest"]))
        self._send(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            data=data,
            headers={"Content-Type": entry["mediaType"]},
        )
        return f"{self.host}/{repository}:{tag}"

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob or manifest."""
        digits = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def served(self, text: str) -> int:
        """How many requests with this in them the access log has."""
        lines = self._log.read_text().splitlines()
        return sum(text in line and ' HTTP/1.1" 200' in line for line in lines)

    def _push_blob(self, repository: str, digest: str, data: bytes) -> None:
        begun = self._send("POST", f"/v2/{repository}/blobs/uploads/")
        location = begun.headers["Location"]
        url = location if location.startswith("http") else f"http://{self.host}{location}"
        separator = "&" if "?" in url else "?"
        requests.put(
            f"{url}{separator}digest={digest}",
            data=data,
            headers={"Content-Type": "application/octet-stream"},
            auth=self._auth,
            timeout=10,
        ).raise_for_status()

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        response = requests.request(
            method, f"http://{self.host}{path}", auth=self._auth, timeout=10, **options
        )
        response.raise_for_status()
        return response


@contextmanager
def run_registry(directory: Path, *, htpasswd: bool = False) -> Iterator[Registry]:
    """Run a registry whose data is under `directory`; stopped at the end, whatever happened."""
    registry = Registry(directory, htpasswd=htpasswd)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()
