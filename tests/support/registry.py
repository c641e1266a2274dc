"""A real registry (Debian's docker-registry) on loopback, filled from OCI layouts."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from tests.support.certificates import Certificates
from tests.support.ports import free_port
from tests.support.tokens import PASSWORD, USERNAME, TokenServer

__all__ = ["PASSWORD", "USERNAME", "Registry", "run_registry"]

_HASH = "$2b$04$4Z7FsGGedOoGE9H0EMRo3el7t2MBjTS6GTjW25pXqCD/3vkm4MPKy"
_REF_NAME = "org.opencontainers.image.ref.name"


class Registry:
    """A registry at `host`, "127.0.0.1:PORT", with its data in `storage`; both survive a restart."""

    def __init__(
        self,
        directory: Path,
        *,
        htpasswd: bool = False,
        tokens: TokenServer | None = None,
        certificates: Certificates | None = None,
        client_certificates: bool = False,
        storage: Path | None = None,
    ) -> None:
        self.storage = storage or directory / "storage"
        self.storage.mkdir(parents=True, exist_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self.host = f"127.0.0.1:{self._port}"
        self._url = f"{'https' if certificates else 'http'}://{self.host}"
        self._tokens = tokens
        self._session = requests.Session()
        self._session.trust_env = False
        self._config = directory / "config.yml"
        self._log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        http: dict[str, Any] = {"addr": self.host}
        config: dict[str, Any] = {
            "version": 0.1,
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if htpasswd:
            self._session.auth = (USERNAME, PASSWORD)
            (directory / "htpasswd").write_text(f"{USERNAME}:{_HASH}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
        if tokens is not None:
            config["auth"] = {
                "token": {
                    "realm": tokens.realm,
                    "service": tokens.service,
                    "issuer": tokens.issuer,
                    "rootcertbundle": str(tokens.root_cert_bundle),
                }
            }
        if certificates is not None:
            self._session.verify = str(certificates.ca_file)
            self._session.cert = (str(certificates.client.cert_file), str(certificates.client.key_file))
            http["tls"] = {
                "certificate": str(certificates.server.cert_file),
                "key": str(certificates.server.key_file),
                **({"clientcas": [str(certificates.ca_file)]} if client_certificates else {}),
            }
        self._config.write_text(json.dumps(config))

    def start(self) -> None:
        binary = shutil.which("docker-registry")
        assert binary, "docker-registry is not installed"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "serve", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push_layout(self, layout: Path, repository: str | None = None) -> list[str]:
        """Push everything that the layout names; return the references.

        `repository` puts all of it into one, under the tags that it has.
        """
        return [
            self.push(layout, entry, repository)
            for entry in json.loads((layout / "index.json").read_text())["manifests"]
            if _REF_NAME in entry.get("annotations", {})
        ]

    def push(self, layout: Path, entry: dict[str, Any], repository: str | None = None) -> str:
        """Push a manifest or an index, with all that is under it."""
        named, _, tag = entry["annotations"][_REF_NAME].rpartition(":")
        repository = repository or named
        self._push_manifest(layout, repository, entry, tag)
        return f"{self.host}/{repository}:{tag}"

    def retag(self, repository: str, name: str, tag: str) -> None:
        """Let `tag` name what `name` names: another tag, or a digest."""
        types = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
        path = f"/v2/{repository}/manifests/"
        manifest = self._send("GET", path + name, repository, headers={"Accept": types})
        headers = {"Content-Type": manifest.headers["Content-Type"]}
        self._send("PUT", path + tag, repository, data=manifest.content, headers=headers)

    def delete(self, repository: str, digest: str) -> None:
        """Forget a manifest, and every tag that names it."""
        self._send("DELETE", f"/v2/{repository}/manifests/{digest}", repository)

    def blob_path(self, digest: str) -> Path:
        """Return where the registry keeps a blob or manifest."""
        digits = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def served(self, text: str) -> int:
        """Return how many requests with this text in them were answered, by the access log."""
        lines = self._log.read_text().splitlines()
        return sum(text in line and ' HTTP/1.1" 200' in line for line in lines)

    def _push_manifest(self, layout: Path, repository: str, entry: dict[str, Any], name: str) -> None:
        data = _blob(layout, entry["digest"])
        document = json.loads(data)
        for child in document.get("manifests") or []:
            self._push_manifest(layout, repository, child, child["digest"])
        for descriptor in [document.get("config"), *(document.get("layers") or [])]:
            if descriptor is not None:
                self._push_blob(repository, descriptor["digest"], _blob(layout, descriptor["digest"]))
        headers = {"Content-Type": entry["mediaType"]}
        self._send("PUT", f"/v2/{repository}/manifests/{name}", repository, data=data, headers=headers)

    def _push_blob(self, repository: str, digest: str, data: bytes) -> None:
        location = self._send("POST", f"/v2/{repository}/blobs/uploads/", repository).headers["Location"]
        path = location.removeprefix(self._url)
        separator = "&" if "?" in path else "?"
        headers = {"Content-Type": "application/octet-stream"}
        self._send("PUT", f"{path}{separator}digest={digest}", repository, data=data, headers=headers)

    def _send(
        self,
        method: str,
        path: str,
        repository: str,
        *,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        headers = dict(headers or {})
        if self._tokens is not None:
            token = self._tokens.issue((f"repository:{repository}:pull,push,delete",))
            headers["Authorization"] = f"Bearer {token}"
        response = self._session.request(method, f"{self._url}{path}", headers=headers, timeout=10, **options)
        response.raise_for_status()
        return response


@contextmanager
def run_registry(
    directory: Path,
    *,
    htpasswd: bool = False,
    tokens: TokenServer | None = None,
    certificates: Certificates | None = None,
    client_certificates: bool = False,
    storage: Path | None = None,
) -> Iterator[Registry]:
    """Run a registry whose data is below `directory`, or in the `storage` of another one.

    It asks for a name and password (`htpasswd`), for a token of `tokens`, or for neither. With
    `certificates` it speaks TLS, and with `client_certificates` only to clients that show one of theirs.
    """
    registry = Registry(
        directory,
        htpasswd=htpasswd,
        tokens=tokens,
        certificates=certificates,
        client_certificates=client_certificates,
        storage=storage,
    )
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()
