"""How the sources of kits are reached, as the user configures it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from gateway.errors import NotFound
from gateway.oci.reference import RegistryReference


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How one registry is reached.

    The password is in the environment variable `password_env` or in the file `password_file`; a bearer
    token is in `token_env` or `token_file`. Line ends at the end of these files are dropped. `plain_http` is
    for registries without TLS, `ca_file` a PEM bundle, `client_cert_file` and `client_key_file` the client
    certificate. `proxy` is a URL, "" for none, None for the proxy that the environment names.

    `mirrors` are asked first, in order, for content by digest, never for tags: each is
    `HOST[:PORT][/PREFIX]`, with the options of that host. `token_hosts` may issue tokens for this registry
    although they are in a private network, and are sent the password although they are other hosts. The
    registry may redirect to `redirect_hosts` although they are in a private network. At most `connections`
    are open for one kit. A transfer slower than 1 KiB/s over `stall_timeout` is broken off and continued; a
    pull fails after `pull_timeout`. Both are in seconds.
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
    redirect_hosts: tuple[str, ...] = ()
    connections: int = 4
    stall_timeout: float = 30.0
    pull_timeout: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How all sources are reached: registries by host, and `kitops_home`, the kit command line's directory.

    For None that is kit's default directory.
    """

    registries: Mapping[str, RegistryOptions] = field(default_factory=lambda: MappingProxyType({}))
    kitops_home: Path | None = None

    def registry(self, host: str) -> RegistryOptions:
        """Return the options of a registry, by its host as references have it."""
        return self.registries.get(host, RegistryOptions())


def mirror_reference(mirror: str, reference: RegistryReference) -> RegistryReference:
    """Return where a mirror, written HOST[:PORT][/PREFIX], has a reference. Raises InvalidReference."""
    host, _, prefix = mirror.rstrip("/").partition("/")
    repository = f"{prefix}/{reference.repository}" if prefix else reference.repository
    return replace(reference, host=host.lower(), repository=repository)


def kit_home() -> Path:
    """Return the directory of kit's storage and credentials on Linux. Raises NotFound."""
    if home := os.environ.get("KITOPS_HOME"):
        return Path(home)
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "kitops"
    try:
        return Path.home() / ".local" / "share" / "kitops"
    except RuntimeError as error:
        raise NotFound("kit's local storage: this user has no home directory; set $KITOPS_HOME") from error
