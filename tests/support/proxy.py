"""A TCP proxy that breaks connections off, as networks do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forwards to `target`; `cut_after` bytes towards the client end the connection, None never does.

    `passed` counts the bytes towards clients, `connections` the connections.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.cut_after: int | None = None
        self.passed = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                upstream = socket.create_connection(self._target)
                threading.Thread(target=self._requests, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, upstream), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, upstream: socket.socket) -> None:
        sent = 0
        with suppress(OSError), client, upstream:
            while data := upstream.recv(4096):
                if self.cut_after is not None and sent + len(data) > self.cut_after:
                    data = data[: max(self.cut_after - sent, 0)]
                    client.sendall(data)
                    self.passed += len(data)
                    # The other thread still reads this socket, so closing alone would tell nobody.
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
                sent += len(data)
                self.passed += len(data)


@contextmanager
def run_proxy(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
