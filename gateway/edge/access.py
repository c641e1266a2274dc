"""Who may call the data port: what HAProxy must know of it before it starts. Pure.

What may change while it runs (certificates, keys) is in files: see `access_files`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.loopback import is_loopback_host

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
ANY = "*"
"""The word that allows any origin."""


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Whose JSON Web Tokens (RFC 7519) stand in place of a key."""

    name: str
    """The name that its callers have in logs and metrics."""
    algorithm: str
    """The one algorithm that is accepted, whatever a token says (RFC 8725, section 3.1)."""
    issuer: str
    audience: str


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call, and how; by default anybody over plain HTTP, but on loopback no web page of elsewhere."""

    has_tls: bool = False
    has_client_ca: bool = False
    has_keys: bool = False
    issuers: tuple[TokenIssuer, ...] = ()
    hosts: tuple[str, ...] = ()
    """Names in the Host header that are answered besides loopback's, `*.` before them for all below."""
    origins: tuple[str, ...] = ()
    """The web pages that may call, as the Origin header names them; `ANY` for all."""

    @property
    def exact_hosts(self) -> tuple[str, ...]:
        """The names that must be the whole host."""
        return (*_LOOPBACK_HOSTS, *(host for host in self.hosts if not host.startswith("*.")))

    @property
    def host_endings(self) -> tuple[str, ...]:
        """What the host may end with. Browsers look up no name below `localhost` (RFC 6761, section 6.3)."""
        return (".localhost", *(host.removeprefix("*") for host in self.hosts if host.startswith("*.")))

    def checks_hosts(self, listen: str) -> bool:
        """Tell whether the Host header is checked of calls to an edge that listens on `listen`."""
        return bool(self.hosts) or is_loopback_host(listen)

    def checks_origins(self, listen: str) -> bool:
        """Tell whether the Origin header is checked of calls to an edge that listens on `listen`."""
        return bool(self.origins) or is_loopback_host(listen)
