"""TLS between workers and those who call them, by an authority that a start of Kitserve makes for itself.

Where a worker runs and on which port is known only once it runs, so all have one name, which callers ask for
in place of an address.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from dataclasses import dataclass, field, replace

WORKER_NAME = "worker.kitserve.internal"
"""The name in the workers' certificate (RFC 9525; nobody looks it up)."""


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """What each side needs, in PEM."""

    authority: str
    """The certificate of the start's authority; by it, callers know that a worker is one of this start."""
    certificate: str
    """The workers' certificate."""
    key: str = field(default="", repr=False)
    """The workers' private key; "" where workers are only called."""

    def without_key(self) -> WorkerTls:
        """Return what callers need."""
        return replace(self, key="")

    def server_context(self) -> ssl.SSLContext:
        """Return how a worker speaks TLS; its key is written to no disk."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # OpenSSL as Python has it reads keys from files alone. This one is in memory (memfd_create(2)).
        file = os.memfd_create("worker-tls", os.MFD_CLOEXEC)
        try:
            os.write(file, (self.certificate + self.key).encode())
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return how a worker is called, under the name `WORKER_NAME`: no other authority is trusted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.authority)
        return context


def worker_connection(
    address: tuple[str, int], seconds: float, tls: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    """Return a connection to a worker, which is made with the first call.

    Args:
        address: its host and port.
        seconds: how long each step may take.
        tls: what `WorkerTls.client_context` returned; None where workers speak HTTP in clear.
    """
    if tls is None:
        return http.client.HTTPConnection(*address, timeout=seconds)
    return _TlsConnection(*address, timeout=seconds, context=tls)


class _TlsConnection(http.client.HTTPSConnection):
    """A connection that asks for the name of workers and not for their address."""

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._worker_context = context

    def connect(self) -> None:
        connection = socket.create_connection((self.host, self.port), self.timeout)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._worker_context.wrap_socket(connection, server_hostname=WORKER_NAME)
        except BaseException:
            connection.close()
            raise
