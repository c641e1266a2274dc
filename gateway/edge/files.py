"""The files and sockets of one HAProxy, and the settings that a user chooses."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from gateway.edge.access import Access
from gateway.edge.bounds import EdgeBounds, edge_bounds
from gateway.edge.tracing import EdgeTracing
from gateway.logs.limits import Logged
from gateway.wire.worker_tls import WorkerTls

# For as many open files as a process has on most machines, where none are counted.
_DEFAULT_BOUNDS = edge_bounds(16384)


@dataclass(frozen=True, slots=True)
class EdgeFiles:
    """The files and sockets of one HAProxy, all in one directory."""

    directory: Path

    @property
    def config(self) -> Path:
        """HAProxy's configuration."""
        return self.directory / "haproxy.cfg"

    @property
    def routes(self) -> Path:
        """The map from which HAProxy picks a backend, see `route_map`."""
        return self.directory / "routes.map"

    @property
    def errors(self) -> Path:
        """The map of the answers to calls that fail at the edge, see `error_map`."""
        return self.directory / "errors.map"

    @property
    def keys(self) -> Path:
        """The map of those who may call, see `keys`."""
        return self.directory / "keys.map"

    @property
    def certificate(self) -> Path:
        """The certificate of the data port and its private key, as they were when they last were right."""
        return self.directory / "tls.pem"

    @property
    def client_ca(self) -> Path:
        """Who signs certificates of clients."""
        return self.directory / "clients.pem"

    @property
    def worker_authority(self) -> Path:
        """Who signs the certificate of workers, where they speak TLS."""
        return self.directory / "workers.pem"

    def token_key(self, number: int) -> Path:
        """The public key of an issuer of tokens, by its place in the config."""
        return self.directory / f"tokens-{number}.pem"

    @property
    def slots(self) -> Path:
        """Which version has which slot; HAProxy does not read it."""
        return self.directory / "slots.json"

    @property
    def counters(self) -> Path:
        """What HAProxy has counted for each version, see `counters`; HAProxy does not read it."""
        return self.directory / "counters.json"

    @property
    def log(self) -> Path:
        """What HAProxy writes to its standard error."""
        return self.directory / "haproxy.log"

    @property
    def services_socket(self) -> Path:
        """Where the gateway answers gRPC calls that are about the whole server."""
        return self.directory / "services.sock"

    @property
    def front_socket(self) -> Path:
        """Where the gateway answers HTTP calls that are about the whole server."""
        return self.directory / "front.sock"

    @property
    def router_socket(self) -> Path:
        """Where the gateway reads bodies to find the model that they name."""
        return self.directory / "router.sock"

    @property
    def routed_socket(self) -> Path:
        """Where HAProxy takes the calls whose model the gateway has found."""
        return self.directory / "routed.sock"

    @property
    def health_socket(self) -> Path:
        """Where HAProxy tells of its health, whatever else it does."""
        return self.directory / "health.sock"

    @property
    def trace_socket(self) -> Path:
        """Where the gateway takes what the edge tells of traced calls."""
        return self.directory / "traces.sock"

    @property
    def runtime_socket(self) -> Path:
        """Where the HAProxy process that takes new calls is asked and changed."""
        return self.directory / "runtime.sock"

    @property
    def master_socket(self) -> Path:
        """Where the master process is asked for a reload."""
        return self.directory / "master.sock"

    @property
    def activator_socket(self) -> Path:
        """Where the gateway takes calls to versions that have no worker."""
        return self.directory / "wake.sock"


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """The settings of the edge that a user chooses."""

    listen: str
    """`HOST:PORT` for clients."""
    access_log: Logged = "errors"
    key: str = field(default="", repr=False)
    """The secret by which workers know that a call came through the edge; "" for none."""
    front: str = ""
    """Where the gateway answers calls that are about the whole server, as HAProxy has it: `unix@PATH` or
    `HOST:PORT`; "" for none."""
    bounds: EdgeBounds = _DEFAULT_BOUNDS
    """How much it takes at a time, of all callers together and of each."""
    trusted_proxies: tuple[str, ...] = ()
    """The networks of proxies whose X-Forwarded-For says who calls."""
    health: str = ""
    """`HOST:PORT` where it tells of its health whatever else it does; "" for none but its socket."""
    access: Access = field(default_factory=Access)
    """Who may call."""
    sticky_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    """The secret by which sticky callers are divided, in hexadecimal digits; see `sticky`."""
    worker_tls: WorkerTls | None = None
    """With what workers speak TLS; None: HTTP in clear."""
    tracing: EdgeTracing | None = None
    """Which calls are traced; None: none, and nothing is done for it."""
