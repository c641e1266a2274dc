"""A small HTTP server that answers as a test says, for what no real registry does."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from requests.structures import CaseInsensitiveDict

from gateway.oci.content import Descriptor, Source
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import Digest, RegistryReference
from gateway.oci.sources import open_source

DATA = bytes(range(256)) * 40
BLOB = Descriptor("x/y", Digest.of(DATA), len(DATA))


@dataclass(frozen=True, slots=True)
class Seen:
    """A request; `timestamp` is on the monotonic clock."""

    method: str
    path: str
    headers: CaseInsensitiveDict[str]
    body: bytes
    timestamp: float

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


class Answers(ThreadingHTTPServer):
    """Answers every request as `answer` does, and keeps it in `seen`; `host` is "127.0.0.1:PORT"."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"{'http' if context is None else 'https'}://{self.host}"
        self.seen: list[Seen] = []
        self.answer: Callable[[Handler], None] = lambda handler: handler.say(200, DATA)
        self.stopping = threading.Event()

    def source(self, repository: str = "team/kit", **options: Any) -> Source:
        """Open the tag `v1` of a repository on this server, without TLS unless the options say so."""
        return self.with_options({self.host: RegistryOptions(**{"plain_http": True, **options})}, repository)

    def with_options(self, registries: dict[str, RegistryOptions], repository: str = "team/kit") -> Source:
        """Open that tag with options of several registries."""
        return open_source(RegistryReference(self.host, repository, "v1", None), SourceOptions(registries))

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing about clients that went away."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Answers
    body = b""

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = CaseInsensitiveDict(self.headers.items())
        self.server.seen.append(Seen(self.command, self.path, headers, self.body, time.monotonic()))
        self.server.answer(self)

    do_HEAD = do_POST = do_CONNECT = do_GET  # noqa: N815 - the base class's names

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; underscores in names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send(self, data: bytes) -> None:
        """Send bytes as they are, and end the connection after the answer."""
        self.close_connection = True
        self.wfile.write(data)

    def wait(self, seconds: float) -> None:
        """Do nothing for a while, or until the server stops."""
        self.server.stopping.wait(seconds)

    def drip(self, data: bytes, every: float) -> None:
        """Send byte by byte."""
        self.close_connection = True
        for value in data:
            self.wfile.write(bytes([value]))
            if self.server.stopping.wait(every):
                return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def run_answers(context: ssl.SSLContext | None = None) -> Iterator[Answers]:
    """Run such a server, with TLS where there is a context for it."""
    server = Answers(context)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()


def read(source: Source, offset: int = 0, blob: Descriptor = BLOB) -> tuple[int, bytes]:
    """Return where a blob's stream began, and what it had."""
    with source.blob(blob, offset) as stream:
        return stream.start, b"".join(stream.chunks)
