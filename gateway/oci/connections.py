"""Connections to registries: their minimum speed, their deadline, and the addresses they may go to.

Speed and deadline are enforced at the socket, below the HTTP parser, so that a head, a chunk's length or a
body that arrives byte by byte times out just as one that stalls. An address is checked once the connection
is made and before anything is sent: the name that was resolved does not matter.
"""

import functools
import http.client
import io
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
from gateway.files import read_regular
from gateway.oci.options import RegistryOptions

_MIN_SPEED = 1024  # bytes per second
_MAX_HEAD = 256 * 1024  # bytes of status line and headers; Python itself takes 100 headers of 64 KiB

AddressCheck = Callable[[str, int, str], None]
"""Called with host, port and IP address of a new connection; raises to refuse it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits, in seconds, of all requests for one reference; `label` and `host` name it in errors.

    `deadline` is on the monotonic clock, `pull_timeout` seconds after the start.
    """

    label: str
    stall_timeout: float
    pull_timeout: float
    deadline: float
    host: str = ""

    def seconds_left(self) -> float:
        """Return the seconds until the deadline. Raises RegistryUnavailable when there are none."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise RegistryUnavailable(
                f"{self.label}: not done within {self.pull_timeout:g} s; try again (what has arrived "
                "is kept), or raise `pull_timeout` for this registry"
            )
        return seconds


def tls_context(options: RegistryOptions, label: str, *, with_client_certificate: bool) -> ssl.SSLContext:
    """Return a TLS context that trusts the public authorities and `ca_file`.

    Raises RegistryUnavailable when one of the files cannot be used.
    """
    context = ssl.create_default_context(cafile=requests.utils.DEFAULT_CA_BUNDLE_PATH)
    path = options.ca_file
    try:
        if path is not None:
            # First: OpenSSL opens whatever a path names, and a pipe may never end.
            read_regular(path)
            context.load_verify_locations(path)
        if with_client_certificate and options.client_cert_file is not None:
            path = options.client_key_file or options.client_cert_file
            read_regular(path)
            path = options.client_cert_file
            read_regular(path)
            context.load_cert_chain(path, options.client_key_file, _no_passphrase)
    except (OSError, ValueError) as error:
        raise RegistryUnavailable(
            f"{label}: {path} cannot be used ({getattr(error, 'reason', None) or error}); "
            "it must be a PEM file that this user may read, and the key must belong to the certificate"
        ) from error
    return context


class Adapter(requests.adapters.HTTPAdapter):
    """Connections within `limits`, whose addresses pass `address_check`; a proxy's address is not checked."""

    def __init__(
        self,
        limits: Limits,
        address_check: AddressCheck,
        context: Callable[[], ssl.SSLContext],
        connections: int,
    ) -> None:
        self._label = limits.label
        self._pools = _pools(limits, address_check)
        # Made when TLS is first needed, as reading all authorities takes a while.
        self._context = functools.cache(context)
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Use our connections in the pools."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Use our connections in the pools behind a proxy."""
        if not proxy.lower().startswith(("http://", "https://")):
            raise RegistryUnavailable(f"{self._label}: its proxy must be an http:// or https:// address")
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Use our TLS context, whatever requests would choose."""
        pool_key, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return pool_key, {"ssl_context": self._context()} if pool_key["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Add nothing to the context."""


class _PacedReader(io.RawIOBase):
    """What a socket receives, at the minimum speed. Time that the caller takes does not count."""

    def __init__(self, received: io.RawIOBase, sock: socket.socket, limits: Limits) -> None:
        self._received = received  # keeps the socket open
        self._socket = sock
        self._limits = limits
        self._waited = 0.0  # seconds of waiting in the present window
        self._arrived = 0  # bytes that arrived in it
        self._error: OSError | None = None
        self.head_bytes_left: int | None = _MAX_HEAD  # None once the head is over
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._error is not None:
            raise self._error
        while True:
            count = self._receive(buffer)
            if self._waited >= self._limits.stall_timeout:
                if self._arrived < _MIN_SPEED * self._limits.stall_timeout:
                    raise TimeoutError
                self._waited, self._arrived = 0.0, 0
            if count is not None:
                return count

    def close(self) -> None:
        self._received.close()
        super().close()

    def _receive(self, buffer: Any) -> int | None:
        timeout = self._limits.stall_timeout - self._waited
        self._socket.settimeout(min(timeout, self._limits.seconds_left()))
        start = time.monotonic()
        try:
            count = self._socket.recv_into(buffer)
        except TimeoutError:
            count = None
        self._waited += time.monotonic() - start
        if count and isinstance(self._socket, ssl.SSLSocket):
            count = self._fill(self._socket, memoryview(buffer), count)
        self._arrived += count or 0
        self.ended = count == 0
        if self.head_bytes_left is not None:
            self.head_bytes_left -= count or 0
            if self.head_bytes_left < 0:
                raise RegistryUnavailable(
                    f"{self._limits.label}: the head of an answer has more than {_MAX_HEAD // 1024} KiB; "
                    "this is no registry"
                )
        return count

    def _fill(self, sock: ssl.SSLSocket, buffer: memoryview, count: int) -> int:
        """Read what else has arrived: TLS returns at most 16 KiB at a time, which costs many calls."""
        sock.settimeout(0)
        while count < len(buffer):
            try:
                more = sock.recv_into(buffer[count:])
            except (ssl.SSLWantReadError, BlockingIOError):
                break
            except OSError as error:
                self._error = error  # raised by the next read, as these bytes are good
                break
            if not more:
                break
            count += more
        return count


def _pools(limits: Limits, address_check: AddressCheck) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self._paced = _PacedReader(self.fp.detach(), sock, limits)
            self.fp = io.BufferedReader(self._paced)

        def begin(self) -> None:
            super().begin()
            if self._paced.ended:
                # http.client takes a head that is cut off for a whole one.
                raise http.client.RemoteDisconnected("the connection was closed within the head of an answer")
            self._paced.head_bytes_left = None

    class Connection(urllib3.connection.HTTPConnection):
        response_class = Response

        def _new_conn(self) -> socket.socket:
            sock = super()._new_conn()
            try:
                if self.proxy is None:
                    address_check(self.host, self.port, sock.getpeername()[0])
            except BaseException:
                sock.close()
                raise
            return sock

    # The order of the bases matters: TLS is started on the socket that `Connection` opens and checks.
    class SecureConnection(urllib3.connection.HTTPSConnection, Connection):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}


def _no_passphrase() -> str:
    # OpenSSL would ask for one at the terminal.
    raise ValueError("the key has a passphrase")
