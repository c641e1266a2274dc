"""What hostile callers do, at once, from one address: `python -m tests.support.attack PORT SECONDS [KIND …]`.

It is a process of its own, and where no kind of attack is named, there are all. Each begins anew until the
time is over; every loop and size is bounded.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import resource
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from tests.support.raw_http2 import connect, open_streams, request

ATTACKER = "127.0.0.1"
INFER = "/v2/models/iris/infer"
RPC = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
MIB = 1024 * 1024
_CONNECTIONS = 200
_IDLE = 8300
_PAUSE = 0.5
# A frame of HTTP/2 with data: type 0, no flags.
_DATA = b"\0\0\x05\0\0"


class Attack:
    """The kinds of attack, each a method that ends by itself."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._end = time.monotonic() + seconds
        self.rounds: dict[str, int] = {}
        """How often each kind of attack that was chosen came to its end, 0 where it never did."""
        self.answers: Counter[str] = Counter()

    def run(self, names: Sequence[str]) -> None:
        """Attack until the time is over, in the ways that are named; no names: in all."""
        kinds: tuple[Callable[[], None], ...] = (
            self.streams,
            self.idle_connections,
            self.slow_bodies,
            self.large_bodies,
            self.unfinished_messages,
            self.inflating_bodies,
            self.tiny_values,
        )
        chosen = [kind for kind in kinds if not names or kind.__name__ in names]
        if unknown := set(names) - {kind.__name__ for kind in chosen}:
            raise ValueError(f"no kind of attack: {', '.join(sorted(unknown))}")
        self.rounds = {kind.__name__: 0 for kind in chosen}
        threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in chosen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def streams(self) -> None:
        """Open 100 streams on each of 200 connections, whose bodies never come."""
        opened = [
            open_streams(self._port, ATTACKER, [request(1 + 2 * n, INFER, has_body=True) for n in range(100)])
            for _ in range(_CONNECTIONS)
        ]
        self._hold(2)
        for connection in opened:
            if connection is not None:
                connection.close()

    def idle_connections(self) -> None:
        """Open 8,300 connections, and send nothing."""
        opened = []
        for _ in range(_IDLE):
            if self._is_over:
                break
            with contextlib.suppress(OSError):
                opened.append(connect(self._port, ATTACKER))
        self._hold(5)
        for connection in opened:
            connection.close()

    def slow_bodies(self) -> None:
        """Send 40 bodies, a byte at a time."""
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n".encode()
        self._send_slowly([head + b"{"] * 40)

    def unfinished_messages(self) -> None:
        """Begin 30 messages of 60 MiB on streams of gRPC."""
        message = struct.pack(">BI", 0, 60 * MIB)
        opened = [open_streams(self._port, ATTACKER, [request(1, STREAM, GRPC, True)]) for _ in range(30)]
        for connection in opened:
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.sendall(_DATA + struct.pack(">I", 1) + message)
        self._hold(3)
        for connection in opened:
            if connection is not None:
                connection.close()

    def large_bodies(self) -> None:
        """Send 24 bodies of 60 MiB at a time."""
        body = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[%s1]}]}' % (
            b"1," * (30 * MIB)
        )
        self._at_once([lambda: self._post(INFER, body)] * 24)

    def inflating_bodies(self) -> None:
        """Send bodies of some kilobytes that inflate to 1.6 GB, and to objects."""
        parts = (b"{},", b"[],")
        bombs = [gzip.compress(part * (50 * MIB // len(part)), 9) for part in parts]
        headers = {"Content-Encoding": "gzip"}
        self._at_once([partial(self._post, INFER, bomb, headers) for bomb in bombs * 4])

    def tiny_values(self) -> None:
        """Send large bodies of very many small values, as JSON and as protobuf."""
        text = b'{"inputs":[%s]}' % (b"[]," * (5 * MIB))[:-1]
        strings = b"\x2a" + _varint(2 * 6 * MIB) + b"\x42\x00" * (6 * MIB)
        message = b"\x0a\x04iris" + strings
        rpc = struct.pack(">BI", 0, len(message)) + message
        self._at_once(
            [
                lambda: self._post(INFER, text),
                lambda: self._post(RPC, rpc, dict(GRPC)),
                lambda: self._post("/x"),
            ]
        )

    @property
    def _is_over(self) -> bool:
        return time.monotonic() > self._end

    def _repeat(self, kind: Callable[[], None]) -> None:
        while not self._is_over:
            kind()
            self.rounds[kind.__name__] += 1
            self._hold(_PAUSE)

    def _hold(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self._end - time.monotonic())))

    def _send_slowly(self, beginnings: list[bytes]) -> None:
        opened = []
        for beginning in beginnings:
            with contextlib.suppress(OSError):
                connection = connect(self._port, ATTACKER)
                connection.sendall(beginning)
                opened.append(connection)
        for _ in range(20):
            self._hold(1)
            for connection in opened:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")
        for connection in opened:
            connection.close()

    def _at_once(self, calls: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, 20, (ATTACKER, 0))
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **(headers or {})})
            self.answers[str(connection.getresponse().status)] += 1
        except (OSError, http.client.HTTPException) as error:
            self.answers[type(error).__name__] += 1
        finally:
            connection.close()


def _varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def main() -> None:
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    # Callers on other machines would take none of this one's time, so it runs where nobody else wants to.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    attack = Attack(port, seconds)
    attack.run(sys.argv[3:])
    print(json.dumps({"rounds": attack.rounds, "answers": attack.answers}))


if __name__ == "__main__":
    main()
