"""The workers' HTTP server, from outside: bytes in and bytes out over real sockets."""

from __future__ import annotations

import asyncio
import json
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import BinaryIO

import pytest

from gateway.wire import server as server_module
from gateway.wire.exchange import Exchange
from gateway.wire.server import HttpServer
from tests.support.waiting import wait

SECONDS = 10
LIMIT = 300_000
HELLO = b"GET /hello HTTP/1.1\r\nHost: w\r\n\r\n"


class Echo:
    """Answers by path: what came, later, in pieces, never; and keeps what it saw."""

    max_body = LIMIT

    def __init__(self) -> None:
        self.seen: queue.Queue[Exchange] = queue.Queue()
        self.hung_up: queue.Queue[Exchange] = queue.Queue()
        self.pieces: queue.Queue[bytes] = queue.Queue()

    def head(self, exchange: Exchange) -> None:
        if exchange.path == "/refused":
            exchange.respond(403, (), b"no")
        elif exchange.path == "/stream":
            self._echo_pieces(exchange)
        elif exchange.path == "/held":
            exchange.pause()
            exchange.on_piece = lambda piece: self.pieces.put(bytes(piece))
            exchange.on_end = lambda: exchange.respond(200, (), b"held")
            self.seen.put(exchange)
        elif exchange.path == "/early":
            exchange.begin(200, ())
            exchange.on_piece, exchange.on_end = exchange.send, exchange.end
        elif exchange.path == "/held-and-over":
            exchange.pause()
            exchange.on_piece = lambda _piece: None
            exchange.on_end = lambda: exchange.respond(200, (), b"over")
        elif exchange.path == "/bad-head":
            raise RuntimeError("a fault of the handler")

    def handle(self, exchange: Exchange) -> None:
        match exchange.path:
            case "/later":
                exchange.on_abandoned = lambda: self.hung_up.put(exchange)
                self.seen.put(exchange)
            case "/soon":
                asyncio.get_running_loop().call_later(0.02, exchange.respond, 200, (), b"soon")
            case "/trailers":
                exchange.respond(200, ((b"a", b"b"),), b"body", ((b"grpc-status", b"0"),))
            case "/pieces":
                exchange.begin(200, ((b"a", b"b"),))
                for piece in (b"one", b"", b"two"):
                    exchange.send(piece)
                exchange.end(((b"sum", b"2"),))
            case "/large":
                exchange.respond(200, (), memoryview(bytes(int(exchange.query))))
            case "/bad":
                raise RuntimeError("a fault of the handler")
            case "/bad-later":
                exchange.begin(200, ())
                raise RuntimeError("a fault of the handler")
            case "/twice":
                exchange.respond(200, (), b"once")
                exchange.respond(200, (), b"twice")
            case _:
                document = {
                    "method": exchange.method,
                    "path": exchange.path,
                    "query": exchange.query,
                    "headers": {
                        name.decode(): value.decode("latin-1") for name, value in exchange.headers.items()
                    },
                    "size": exchange.size,
                    "sum": sum(map(sum, exchange.body)),
                    "pieces": len(exchange.body),
                }
                exchange.respond(
                    200, ((b"content-type", b"application/json"),), json.dumps(document).encode()
                )

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        exchange.respond(status, (), text.encode())

    def _echo_pieces(self, exchange: Exchange) -> None:
        def send(piece: bytes | memoryview) -> None:
            if not exchange.has_begun:
                exchange.begin(200, ())
            exchange.send(piece)

        def end() -> None:
            if not exchange.has_begun:
                exchange.begin(200, ())
            exchange.end(((b"done", b"yes"),))

        exchange.on_piece, exchange.on_end = send, end


class Client:
    """One connection."""

    def __init__(self, port: int, room: int = 0) -> None:
        self.socket = socket.socket()
        if room:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.settimeout(SECONDS)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream: BinaryIO = self.socket.makefile("rb")

    def send(self, *data: bytes) -> Client:
        self.socket.sendall(b"".join(data))
        return self

    def head(self) -> tuple[int, dict[str, str]]:
        """The next answer's status and headers."""
        line = self.stream.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers = {}
        while text := self.stream.readline().strip():
            name, _, value = text.decode().partition(": ")
            headers[name] = value
        return int(line.split()[1]), headers

    def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        status, headers = self.head()
        if method == "HEAD":
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(self.chunks(headers))
        return status, headers, self.stream.read(int(headers["content-length"]))

    def chunk(self) -> bytes:
        size = int(self.stream.readline(), 16)
        data = self.stream.read(size)
        if size:
            assert self.stream.readline() == b"\r\n"
        return data

    def chunks(self, headers: dict[str, str]) -> Iterator[bytes]:
        while data := self.chunk():
            yield data
        while text := self.stream.readline().strip():
            name, _, value = text.decode().partition(": ")
            headers[f"trailer {name}"] = value

    def is_closed(self) -> bool:
        """Whether the server has nothing more to say."""
        with suppress(ConnectionResetError):
            return self.stream.read() == b""
        return True

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def server(echo: Echo) -> Iterator[HttpServer]:
    server = HttpServer(echo, "127.0.0.1")
    server.start()
    yield server
    server.stop()


Connect = Callable[..., Client]


@pytest.fixture
def connect_to() -> Iterator[Connect]:
    """Connects to a port; every connection is closed in the end."""
    with ExitStack() as stack:
        yield lambda port, room=0: stack.enter_context(closing(Client(port, room)))


@pytest.fixture
def connect(server: HttpServer, connect_to: Connect) -> Connect:
    """Connects to the server that most tests share."""
    return partial(connect_to, server.port)


def flood(client: Client, path: str) -> int:
    """Send until the server takes no more; returns how many bytes that were."""
    client.socket.settimeout(0.3)
    sent = 0
    with suppress(TimeoutError):
        client.send(f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while sent < 100_000_000:
            client.send(b"10000\r\n", bytes(65536), b"\r\n")
            sent += 65536
    client.socket.settimeout(SECONDS)
    return sent


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: w", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(path: str, *pieces: bytes, trailers: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return b"".join([head, *chunks, b"0\r\n", trailers, b"\r\n"])


def document_of(answer: tuple[int, dict[str, str], bytes]) -> dict[str, object]:
    assert answer[0] == 200, answer
    document: dict[str, object] = json.loads(answer[2])
    return document


def test_a_request_is_read_as_it_was_sent(connect: Connect) -> None:
    client = connect().send(
        b"\r\nGET /a%2Fb?x=1?y HTTP/1.1\r\nHOST: w\r\nEmpty:\r\nOne: 1\r\nTwo: a\r\ntwo: b\r\n"
        b"Last:  \xe4 \r\n\r\n"
    )
    document = document_of(client.answer())
    assert (document["method"], document["path"], document["query"]) == ("GET", "/a%2Fb", "x=1?y")
    assert document["headers"] == {"host": "w", "empty": "", "one": "1", "two": "a, b", "last": "ä"}
    assert document["size"] == 0


@pytest.mark.parametrize(
    "data",
    [
        HELLO,
        post("/hello?q", b"abcdef"),
        chunked("/hello", b"abc", b"defghijklmnopqrs", trailers=b"Sum: 1\r\nOther: 2\r\n"),
        chunked("/hello"),
    ],
    ids=["get", "post", "chunked", "chunked and empty"],
)
def test_a_request_may_be_split_anywhere(connect: Connect, data: bytes) -> None:
    client = connect()
    whole = document_of(client.send(data).answer())
    expected = whole | {"pieces": 0}
    for place in range(1, len(data)):
        client.send(data[:place])
        time.sleep(0.0005)
        client.send(data[place:])
        assert document_of(client.answer()) | {"pieces": 0} == expected


def test_a_request_may_come_byte_by_byte(connect: Connect) -> None:
    client = connect()
    data = chunked("/hello", b"abc", b"de") + post("/hello", b"xyz") + HELLO
    for place in range(len(data)):
        client.send(data[place : place + 1])
    assert [document_of(client.answer())["size"] for _ in range(3)] == [5, 3, 0]


def test_requests_that_come_at_once_are_answered_in_order(connect: Connect) -> None:
    client = connect()
    paths = ["/soon", "/hello", "/stream", "/soon", "/trailers", "/pieces", "/hello"] * 5
    client.send(*(chunked(path, b"abc", b"de") for path in paths))
    for path in paths:
        status, headers, body = client.answer()
        assert status == 200
        if path == "/hello":
            assert json.loads(body)["size"] == 5
        else:
            expected = {"/soon": b"soon", "/stream": b"abcde", "/trailers": b"body", "/pieces": b"onetwo"}
            assert body == expected[path]
        assert ("trailer done" in headers) is (path == "/stream")


def test_a_thousand_requests_at_once(connect: Connect) -> None:
    client = connect()
    threading.Thread(target=client.send, args=[HELLO * 5000], daemon=True).start()
    for _ in range(5000):
        assert client.answer()[0] == 200


@pytest.mark.parametrize("size", [1, 32_767, 32_768, 65_536, 200_000, LIMIT])
@pytest.mark.parametrize("way", ["length", "chunked"])
def test_bodies_of_any_size(connect: Connect, size: int, way: str) -> None:
    body = random.Random(size).randbytes(size)
    client = connect()
    for _ in range(3):
        if way == "length":
            client.send(post("/hello", body), HELLO)
        else:
            cuts = range(0, size, 10_000)
            client.send(chunked("/hello", *(body[place : place + 10_000] for place in cuts)), HELLO)
        document = document_of(client.answer())
        assert (document["size"], document["sum"]) == (size, sum(body))
        assert document_of(client.answer())["path"] == "/hello"


def test_a_body_in_very_many_pieces_is_kept_in_few(connect: Connect) -> None:
    pieces = [b"ab"] * 50_000
    document = document_of(connect().send(chunked("/hello", *pieces)).answer())
    assert document["sum"] == sum(map(sum, pieces))
    assert document["pieces"] <= 50  # type: ignore[operator]


def test_a_large_body_in_random_pieces(connect: Connect) -> None:
    chance = random.Random(1)
    client = connect()
    for _ in range(20):
        body = chance.randbytes(chance.randrange(30_000, LIMIT))
        data = post("/hello", body) + HELLO
        while data:
            size = chance.choice([1, 100, 5000, 70_000])
            client.send(data[:size])
            data = data[size:]
        document = document_of(client.answer())
        assert (document["size"], document["sum"]) == (len(body), sum(body))
        assert client.answer()[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
        b"CONNECT w:1 HTTP/1.1\r\nHost: w\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_not_http_is_refused_and_the_connection_closed(
    connect: Connect, data: bytes, before: int
) -> None:
    client = connect().send(HELLO * before, data, HELLO)
    for _ in range(before):
        assert client.answer()[0] == 200
    status, headers, body = client.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert body
    assert client.is_closed()


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET / HTTP/1.1\r\nA: ", b"a" * 4096),
        (b"GET / HTTP/1.1\r\n", b"Header: value\r\n" * 100),
        (b"GET /", b"a" * 4096),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            b"Trailer: value\r\n" * 100,
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;", b"x" * 4096),
    ],
    ids=["one header", "many headers", "path", "trailers", "chunk extension"],
)
def test_a_head_without_end_is_refused_before_its_end(connect: Connect, start: bytes, more: bytes) -> None:
    client = connect().send(start)
    with suppress(OSError):
        for _ in range(100):
            client.send(more)
            time.sleep(0.0005)
    status, headers, _ = client.answer()
    assert (status, headers["connection"]) == (431, "close")
    assert client.is_closed()


@pytest.mark.parametrize("way", ["length", "chunked", "chunked and whole", "expect"])
def test_a_body_that_is_too_large_is_refused(connect: Connect, way: str) -> None:
    body = bytes(LIMIT + 1)
    client = connect()
    if way == "length":
        client.send(post("/hello", body).removesuffix(body))
    elif way == "expect":
        client.send(post("/hello", body, "Expect: 100-continue").removesuffix(body))
    else:
        data = chunked("/hello", *[body[:50_000]] * (len(body) // 50_000 + 1))
        client.send(data if way == "chunked and whole" else data[:-10])
    status, headers, text = client.answer()
    assert (status, headers["connection"], text) == (413, "close", b"the body is larger than 300000 bytes")
    assert client.is_closed()


def test_a_client_that_sends_on_after_a_refusal_can_still_read_it(connect: Connect) -> None:
    client = connect()
    body = bytes(5_000_000)
    client.send(post("/hello", body))
    assert client.answer()[0] == 413


def test_a_refusal_by_the_handler_comes_before_the_body(connect: Connect) -> None:
    client = connect().send(post("/refused", b"x" * 1000)[:-1])
    status, headers, body = client.answer()
    assert (status, headers["connection"], body) == (403, "close", b"no")
    assert client.is_closed()
    client = connect().send(post("/refused", b"x" * 1000), HELLO)
    assert (client.answer()[0], client.answer()[0]) == (403, 200)


def test_head_has_no_body(connect: Connect) -> None:
    client = connect()
    for path in ("/hello", "/trailers", "/pieces", "/large?100000"):
        client.send(f"HEAD {path} HTTP/1.1\r\n\r\n".encode())
        status, headers, _ = client.answer("HEAD")
        assert status == 200
        assert "content-length" in headers or headers["transfer-encoding"] == "chunked"
    assert client.send(HELLO).answer()[0] == 200


def test_a_client_may_ask_before_it_sends(connect: Connect) -> None:
    client = connect()
    for path, size in (("/hello", 10), ("/hello", 100_000), ("/stream", 10)):
        body = bytes(size)
        client.send(post(path, body, "Expect: 100-continue").removesuffix(body))
        assert client.head() == (100, {})
        assert client.send(body).answer()[0] == 200
    whole = post("/hello", b"abc", "Expect: 100-continue")
    assert document_of(client.send(whole).answer())["size"] == 3


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
        ("1.1", "Connection: x, Close\r\n", False),
    ],
)
def test_who_closes(connect: Connect, version: str, header: str, kept: bool) -> None:
    client = connect().send(f"GET /hello HTTP/{version}\r\n{header}\r\n".encode())
    _, headers, _ = client.answer()
    assert headers.get("connection") == (None if kept else "close")
    if kept:
        assert client.send(HELLO).answer()[0] == 200
    else:
        assert client.is_closed()


def test_what_follows_a_last_request_is_dropped(connect: Connect) -> None:
    for path in ("/hello", "/soon"):
        client = connect().send(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode(), HELLO * 3)
        assert client.answer()[0] == 200
        assert client.is_closed()


@pytest.mark.parametrize("path", ["/pieces", "/trailers"])
@pytest.mark.parametrize("header", ["", "Connection: keep-alive\r\n"])
def test_a_client_of_http_1_0_gets_no_chunks(connect: Connect, path: str, header: str) -> None:
    client = connect().send(f"GET {path} HTTP/1.0\r\n{header}\r\n".encode())
    _, headers = client.head()
    assert "transfer-encoding" not in headers
    assert client.stream.read(4) in (b"onet", b"body")


@pytest.mark.parametrize("body", [b"", b"abc", bytes(100_000)])
def test_another_protocol_is_passed_over(connect: Connect, body: bytes) -> None:
    client = connect()
    data = post("/hello", body, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA")
    for place in (1, len(data) - len(body), len(data)):
        client = connect().send(data[:place])
        time.sleep(0.005)
        document = document_of(client.send(data[place:]).answer())
        assert document["size"] == len(body)


def test_a_body_beside_another_protocol_may_be_streamed(connect: Connect) -> None:
    client = connect().send(post("/stream", b"abc", "Connection: Upgrade", "Upgrade: h2c")[:-1])
    time.sleep(0.05)
    assert client.send(b"c").answer()[2] == b"abc"


def test_a_body_beside_another_protocol_is_limited(connect: Connect) -> None:
    start = b"POST %s HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\na"
    for path in (b"/stream", b"/hello"):
        for size in (LIMIT + 1, 2**63 - 1):
            assert connect().send(start % (path, size)).answer()[0] == 413


def test_trailers_and_pieces_are_written_as_chunks(connect: Connect) -> None:
    client = connect().send(b"GET /trailers HTTP/1.1\r\n\r\n", b"GET /pieces HTTP/1.1\r\n\r\n")
    status, headers, body = client.answer()
    assert (status, body) == (200, b"body")
    assert headers == {"a": "b", "transfer-encoding": "chunked", "trailer grpc-status": "0"}
    status, headers, body = client.answer()
    assert (status, body, headers["trailer sum"]) == (200, b"onetwo", "2")


def test_an_answer_may_begin_before_the_request_has_ended(connect: Connect) -> None:
    client = connect().send(b"POST /stream HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(50):
        piece = b"piece %d" % number
        client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        if number == 0:
            assert client.head() == (200, {"transfer-encoding": "chunked"})
        assert client.chunk() == piece
    client.send(b"0\r\nlast: 1\r\n\r\n")
    assert client.chunk() == b""
    assert client.stream.readline() == b"done: yes\r\n"
    assert client.stream.readline() == b"\r\n"
    assert client.send(HELLO).answer()[0] == 200


def test_a_streamed_body_is_not_limited_as_a_whole(connect: Connect) -> None:
    client = connect()
    piece = bytes(50_000)
    sender = threading.Thread(target=client.send, args=[chunked("/stream", *[piece] * 40)], daemon=True)
    sender.start()
    assert len(client.answer()[2]) == 2_000_000


def test_a_client_that_does_not_read_is_not_read_from(connect: Connect) -> None:
    client = connect(room=4096)
    assert flood(client, "/stream") < 30_000_000  # what the kernel keeps
    assert client.head()[0] == 200
    assert client.chunk()


def test_a_handler_may_hold_the_rest_of_a_body(connect: Connect, echo: Echo, server: HttpServer) -> None:
    client = connect()
    assert flood(client, "/held") < 30_000_000
    client.close()
    held = echo.seen.get(timeout=SECONDS)
    on_loop(server, held.resume)
    wait(lambda: held.is_abandoned, SECONDS)
    assert echo.pieces.qsize() > 10


def test_what_was_held_for_one_call_is_read_for_the_next(connect: Connect) -> None:
    client = connect().send(chunked("/held-and-over", b"abc"))
    assert client.answer()[2] == b"over"
    assert client.send(HELLO).answer()[0] == 200


def test_a_client_that_asks_before_it_sends_may_have_its_answer_already(connect: Connect) -> None:
    client = connect().send(b"POST /early HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.head() == (200, {"transfer-encoding": "chunked"})
    client.send(b"abc")
    assert client.chunk() == b"abc"


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_hangs_up_is_missed_at_once(
    connect: Connect, echo: Echo, server: HttpServer, how: str
) -> None:
    client = connect().send(post("/later", b"abc"))
    exchange = echo.seen.get(timeout=SECONDS)
    assert not exchange.is_abandoned
    if how == "half":
        client.socket.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    began = time.monotonic()
    assert echo.hung_up.get(timeout=SECONDS) is exchange
    assert time.monotonic() - began < 0.5
    assert exchange.is_abandoned
    on_loop(server, lambda: exchange.respond(200, (), b"in vain"))
    on_loop(server, exchange.end)
    assert connect().send(HELLO).answer()[0] == 200


def test_an_answer_may_come_much_later(connect: Connect, echo: Echo, server: HttpServer) -> None:
    client = connect().send(post("/later", b"abc"))
    exchange = echo.seen.get(timeout=SECONDS)
    on_loop(server, lambda: exchange.respond(200, (), b"late"))
    assert client.answer()[2] == b"late"
    client.send(HELLO)
    assert client.answer()[0] == 200
    client.close()
    time.sleep(0.05)
    assert echo.hung_up.empty()


def test_large_answers_reach_slow_clients_whole(connect: Connect) -> None:
    client = connect(room=4096)
    client.send(b"GET /large?3000000 HTTP/1.1\r\n\r\n" * 4, HELLO)
    time.sleep(0.1)
    for _ in range(4):
        assert len(client.answer()[2]) == 3_000_000
    assert client.answer()[0] == 200


@pytest.mark.parametrize("path", ["/bad", "/bad-head"])
def test_a_handler_that_fails_is_a_failed_call(connect: Connect, path: str) -> None:
    client = connect().send(post(path, b"abc"))
    status, headers, body = client.answer()
    assert (status, headers["connection"]) == (500, "close")
    assert json.loads(body) == {"error": "the server failed on this call; its log says why"}
    assert client.is_closed()


def test_a_handler_that_fails_within_an_answer_breaks_it_off(connect: Connect) -> None:
    client = connect().send(post("/bad-later", b"abc"))
    with suppress(ConnectionResetError):
        assert b"0\r\n\r\n" not in client.stream.read()
    client = connect().send(post("/twice", b"abc"))
    with suppress(ConnectionResetError):
        assert b"twice" not in client.stream.read()


def test_small_answers_are_not_held_back(connect: Connect) -> None:
    client = connect()
    began = time.monotonic()
    for _ in range(50):
        client.send(b"GET /pieces HTTP/1.1\r\n\r\n")
        client.answer()
    assert time.monotonic() - began < 1  # with Nagle's algorithm each would take 40 ms


def test_a_silent_client_is_closed_in_the_end(
    connect_to: Connect, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(server_module, "_QUIET_TICKS", 3)
    server = HttpServer(echo, "127.0.0.1")
    server.start()
    silent = [connect_to(server.port).send(data) for data in (b"", HELLO[:10], post("/hello", b"abc")[:-1])]
    working = connect_to(server.port).send(post("/later", b""))
    streaming = connect_to(server.port).send(chunked("/stream", b"abc")[:-5])
    exchange = echo.seen.get(timeout=SECONDS)
    for client in silent:
        assert client.is_closed()
        client.close()
    on_loop(server, lambda: exchange.respond(200, (), b"late"))
    assert working.answer()[2] == b"late"
    assert streaming.send(b"0\r\n\r\n").answer()[2] == b"abc"
    assert working.is_closed()
    server.stop()


def test_a_client_that_reads_slowly_is_not_silent(
    connect_to: Connect, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(server_module, "_QUIET_TICKS", 4)
    server = HttpServer(echo, "127.0.0.1")
    server.start()
    slow, stuck = (
        connect_to(server.port, 4096).send(b"GET /large?8000000 HTTP/1.1\r\n\r\n") for _ in range(2)
    )
    slow.head()
    for _ in range(16):
        assert len(slow.stream.read(500_000)) == 500_000
        time.sleep(0.05)
    stuck.head()
    assert len(stuck.stream.read()) < 8_000_000
    server.stop()


def test_a_server_that_stops_answers_what_is_inside(connect_to: Connect, echo: Echo) -> None:
    server = HttpServer(echo, "127.0.0.1")
    server.start()
    idle, busy = connect_to(server.port), connect_to(server.port)
    assert idle.send(HELLO).answer()[0] == 200
    busy.send(post("/later", b"abc"))
    exchange = echo.seen.get(timeout=SECONDS)
    stopping = threading.Thread(target=server.stop, args=[SECONDS])
    stopping.start()
    assert idle.is_closed()
    with pytest.raises(ConnectionRefusedError):
        connect_to(server.port)
    on_loop(server, lambda: exchange.respond(200, (), b"still"))
    status, headers, body = busy.answer()
    assert (status, headers["connection"], body) == (200, "close", b"still")
    assert busy.is_closed()
    stopping.join(SECONDS)
    assert not stopping.is_alive()


def test_a_server_that_stops_does_not_wait_for_ever(connect_to: Connect, echo: Echo) -> None:
    server = HttpServer(echo, "127.0.0.1")
    server.start()
    client = connect_to(server.port).send(post("/later", b"abc"))
    exchange = echo.seen.get(timeout=SECONDS)
    began = time.monotonic()
    server.stop(0.1)
    assert time.monotonic() - began < 1
    assert exchange.is_abandoned
    assert client.is_closed()


def on_loop(server: HttpServer, work: Callable[[], object]) -> None:
    """Do something on the server's loop."""
    done = threading.Event()

    def run() -> None:
        with suppress(RuntimeError):
            work()
        done.set()

    server._loop.result().call_soon_threadsafe(run)
    assert done.wait(SECONDS)
