"""The files and sockets of one HAProxy, and what of its configuration a user chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EdgeFiles:
    """The files and sockets of one HAProxy, all in one directory."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def routes(self) -> Path:
        return self.directory / "routes.map"

    @property
    def errors(self) -> Path:
        """What the edge says where it fails; a map, as `routes` is."""
        return self.directory / "errors.map"

    @property
    def slots(self) -> Path:
        return self.directory / "slots.json"

    @property
    def log(self) -> Path:
        return self.directory / "haproxy.log"

    @property
    def services_socket(self) -> Path:
        """Where the gateway answers what is asked over gRPC of the server as a whole."""
        return self.directory / "services.sock"

    @property
    def runtime_socket(self) -> Path:
        return self.directory / "runtime.sock"

    @property
    def master_socket(self) -> Path:
        return self.directory / "master.sock"

    @property
    def activator_socket(self) -> Path:
        """Where calls to versions that sleep go; the gateway listens there."""
        return self.directory / "wake.sock"


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """What of the edge's configuration a user chooses."""

    listen: str
    access_log: str = "errors"
    key: str = ""
    """What workers on other machines know the edge by."""
    admin: str = ""
    """Where the gateway answers what is asked of the server as a whole; "" where there is none."""


def write_file(path: Path, text: str) -> None:
    """Write a file that only its owner reads, in one step: no reader sees half of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)
