"""What a user says about the places that kits come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How one registry is reached.

    The password is in the environment variable `password_env` or in the file `password_file`, a bearer
    token likewise in `token_env` or `token_file`; a file's trailing line end is dropped. `plain_http` is
    for registries without TLS, `ca_file` a PEM bundle, `client_cert_file` and `client_key_file` what this
    client shows of itself. `proxy` is a URL, "" for none, None for what the environment says.

    `mirrors` are asked first, in order, for content by digest, never for what a tag means: each is
    `HOST[:PORT][/PREFIX]`, and reached as the options of that host say. `token_hosts` may issue tokens
    for this registry though they are in a private network. At most `connections` are open for one kit.
    A transfer slower than 1 KiB/s over `stall_timeout` is broken off and continued; everything for one
    kit ends after `pull_timeout`. Both are in seconds.
    """

    username: str | None = None
    password_env: str | None = None
    password_file: Path | None = None
    plain_http: bool = False
    ca_file: Path | None = None
    token_env: str | None = None
    token_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None
    mirrors: tuple[str, ...] = ()
    token_hosts: tuple[str, ...] = ()
    connections: int = 4
    stall_timeout: float = 30.0
    pull_timeout: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How all sources are reached: registries by host, and the directory of the kit command line.

    `kitops_home` None is the directory that kit itself would use.
    """

    registries: Mapping[str, RegistryOptions] = field(default_factory=lambda: MappingProxyType({}))
    kitops_home: Path | None = None

    def registry(self, host: str) -> RegistryOptions:
        """Return the options of a registry host, as it is written in references."""
        return self.registries.get(host, RegistryOptions())
