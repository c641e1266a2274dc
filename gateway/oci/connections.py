"""Connections to registries: how fast they must be, how long they may last, and where they may lead.

Pace and end are watched at the socket, below the parsing of HTTP, so that a head, a chunk's length or a
body that drips byte by byte ends as surely as one that stands still. Where a connection may lead is
decided by the address it has, once it is made and before anything is said, so that no name can hide it.
"""

import functools
import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import requests.utils
import urllib3
import urllib3.connection

from gateway.errors import RegistryUnavailable
from gateway.oci.options import RegistryOptions

_SLOWEST = 1024  # bytes a second
_MAX_HEAD = 256 * 1024  # bytes of status line and headers; Python itself takes 100 headers of 64 KiB

Guard = Callable[[str, int, str], None]
"""Told host, port and IP address of a new connection; raises to refuse it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What everything for one reference keeps to; `label` names it in errors.

    `ends` is on the monotonic clock, `pull_timeout` seconds after the beginning.
    """

    label: str
    stall_timeout: float
    pull_timeout: float
    ends: float

    def left(self) -> float:
        """Return the seconds left; raises RegistryUnavailable when there are none."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise RegistryUnavailable(
                f"{self.label}: not done within {self.pull_timeout:g} s; try again, as what has arrived is "
                "kept, or raise `pull_timeout` for this registry"
            )
        return left


def trust(options: RegistryOptions, label: str, *, client: bool) -> ssl.SSLContext:
    """Return who is trusted: the public authorities and `ca_file`; `client` shows our certificate.

    Raises RegistryUnavailable when one of the files cannot be used.
    """
    context = ssl.create_default_context(cafile=requests.utils.DEFAULT_CA_BUNDLE_PATH)
    path = options.ca_file
    try:
        if path is not None:
            context.load_verify_locations(path)
        if client and options.client_cert_file is not None:
            path = options.client_cert_file
            context.load_cert_chain(path, options.client_key_file, _no_passphrase)
    except (OSError, ValueError) as error:
        raise RegistryUnavailable(
            f"{label}: {path} cannot be used ({getattr(error, 'reason', None) or error}); "
            "it must be a PEM file that this user may read, and a certificate's key must be its own"
        ) from error
    return context


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; an IPv4 address in IPv6's clothes is the IPv4 address. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address


def is_nearby(text: str) -> bool:
    """Tell whether an address is this machine, or on its link, where clouds hand out credentials."""
    address = address_of(text)
    return address.is_loopback or address.is_link_local or address.is_unspecified


class Adapter(requests.adapters.HTTPAdapter):
    """Connections of one kind, within `limits`; a proxy's own address is not shown to `guard`."""

    def __init__(
        self, limits: Limits, guard: Guard, context: Callable[[], ssl.SSLContext], connections: int
    ) -> None:
        self._label = limits.label
        self._pools = _pools(limits, guard)
        # Made when TLS is first needed, as reading all authorities takes a while.
        self._context = functools.cache(context)
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Have our connections in the pools."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Have our connections in the pools behind a proxy."""
        if not proxy.lower().startswith(("http://", "https://")):
            raise RegistryUnavailable(f"{self._label}: its proxy must be an http:// or https:// address")
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Trust whom our context trusts, whatever requests would say."""
        place, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return place, {"ssl_context": self._context()} if place["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Add nothing to the context."""


class _Paced(io.RawIOBase):
    """What a socket receives, as fast as it must be. Time that the reader takes does not count."""

    def __init__(self, received: io.RawIOBase, sock: socket.socket, limits: Limits) -> None:
        self._received = received  # keeps the socket open
        self._socket = sock
        self._limits = limits
        self._waited = 0.0  # seconds of the present window, and the bytes that arrived in it
        self._arrived = 0
        self._fault: OSError | None = None
        self.head: int | None = _MAX_HEAD  # bytes that a head may still have; None past it
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._fault is not None:
            raise self._fault
        while True:
            count = self._receive(buffer)
            if self._waited >= self._limits.stall_timeout:
                if self._arrived < _SLOWEST * self._limits.stall_timeout:
                    raise TimeoutError
                self._waited, self._arrived = 0.0, 0
            if count is not None:
                return count

    def close(self) -> None:
        self._received.close()
        super().close()

    def _receive(self, buffer: Any) -> int | None:
        patience = self._limits.stall_timeout - self._waited
        self._socket.settimeout(min(patience, self._limits.left()))
        begun = time.monotonic()
        try:
            count = self._socket.recv_into(buffer)
        except TimeoutError:
            count = None
        self._waited += time.monotonic() - begun
        if count and isinstance(self._socket, ssl.SSLSocket):
            count = self._fill(self._socket, memoryview(buffer), count)
        self._arrived += count or 0
        self.ended = count == 0
        if self.head is not None:
            self.head -= count or 0
            if self.head < 0:
                raise RegistryUnavailable(
                    f"{self._limits.label}: an answer's head has more than {_MAX_HEAD // 1024} KiB; "
                    "this is no registry"
                )
        return count

    def _fill(self, sock: ssl.SSLSocket, buffer: memoryview, count: int) -> int:
        """Take what else is here: TLS gives 16 KiB at a time, which is little for all that reads it."""
        sock.settimeout(0)
        while count < len(buffer):
            try:
                more = sock.recv_into(buffer[count:])
            except (ssl.SSLWantReadError, BlockingIOError):
                break
            except OSError as error:
                self._fault = error  # for the next read, as these bytes are good
                break
            if not more:
                break
            count += more
        return count


def _pools(limits: Limits, guard: Guard) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self._paced = _Paced(self.fp.detach(), sock, limits)
            self.fp = io.BufferedReader(self._paced)

        def begin(self) -> None:
            super().begin()
            if self._paced.ended:
                # The library takes what there is of a head for all of it.
                raise http.client.RemoteDisconnected("the connection was closed within a head")
            self._paced.head = None

    class Connection(urllib3.connection.HTTPConnection):
        response_class = Response

        def _new_conn(self) -> socket.socket:
            sock = super()._new_conn()
            try:
                if self.proxy is None:
                    guard(self.host, self.port, sock.getpeername()[0])
            except BaseException:
                sock.close()
                raise
            return sock

    # In this order, TLS is laid over what the plain connection opens and checks.
    class SecureConnection(urllib3.connection.HTTPSConnection, Connection):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}


def _no_passphrase() -> str:
    # Instead of asking for one at the terminal.
    raise ValueError("the key has a passphrase")
