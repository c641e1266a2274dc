from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from gateway.edge.access_log import AccessLog
from gateway.edge.traced_lines import LEVELS, TracedLines, TraceSender
from gateway.logs.limits import Logged

TRACED = "30619f1555adb051/-/1795944907872027/1795944907872915"
NOT = "-/-/-/1795944907872915"


def line(
    span: str = TRACED,
    status: int = 200,
    retries: str = "0",
    end: str = "--",
    path: str = "/v2",
    level: str = "LEVEL",
) -> bytes:
    fields = {
        "level": level,
        "event": "access",
        "path": path,
        "status": status,
        "retries": retries,
        "end": end,
    }
    return json.dumps(
        {**fields, "trace_id": "ab", "span": span, "weight": "5"}, separators=(",", ":")
    ).encode()


def shown(text: bytes) -> dict[str, object]:
    fields = json.loads(text)
    assert isinstance(fields, dict)
    return fields


@pytest.mark.parametrize(
    ("logged", "given", "is_logged"),
    [
        ("off", line(), False),
        ("off", line(status=503), False),
        ("off", b"Proxy data stopped", False),
        ("errors", line(), False),
        ("errors", line(status=404, end="LR"), False),
        ("errors", line(NOT), True),  # HAProxy itself has sorted these
        ("errors", line(status=504), True),
        ("errors", line(status=-1, end="CR"), True),
        ("errors", line(retries="+1"), True),
        ("errors", line(path='"end":"CD","retries":"1"'), False),
        ("errors", line(path=',"span":"-'), False),
        ("all", line(), True),
        ("all", line(NOT), True),
    ],
)
def test_the_log_has_what_it_has_without_traces(logged: Logged, given: bytes, is_logged: bool) -> None:
    sent: list[bytes] = []
    taken = TracedLines(logged, sent.extend).take([given])
    assert bool(taken) is is_logged
    for before in LEVELS:
        level = LEVELS[logged].encode()
        written = TracedLines(before, lambda _: None).take([given.replace(b"LEVEL", level)])
        assert b"level" not in given or bool(written) is is_logged, f"as it changed from {before}"
    for text in taken:
        assert "span" not in shown(text)
        assert shown(text)["trace_id"] == "ab"
    assert bool(sent) is (NOT.encode() not in given and b"Proxy" not in given)


def test_a_log_hands_on_what_is_traced(tmp_path: Path) -> None:
    written: list[bytes] = []
    sent: list[bytes] = []
    log = AccessLog(written.append, traced=TracedLines("errors", sent.extend))
    os.write(log.file, line() + b"\n" + line(status=500) + b"\nhaproxy speaks\n")
    log.stop()
    assert sent == [line(), line(status=500)]
    assert [shown(text)["event"] for text in b"".join(written).splitlines()] == ["access", "haproxy"]


class Gateway:
    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()

    def close(self) -> None:
        self.listener.close()


def test_lines_for_a_gateway_that_is_away_are_dropped_and_counted(tmp_path: Path) -> None:
    now = [100.0]
    sender = TraceSender(tmp_path / "traces.sock", lambda: now[0])
    sender.send([line()] * 3)
    gateway = Gateway(tmp_path / "traces.sock")
    sender.send([line()])  # it is asked once in a second
    now[0] += 1
    sender.send([line(), line(NOT)])
    connection, _ = gateway.listener.accept()
    assert connection.recv(65536) == b"4\n" + line() + b"\n" + line(NOT)
    connection.close()
    gateway.close()
    sender.send([line()])
    sender.close()


def test_a_gateway_that_reads_nothing_delays_nobody(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "traces.sock")
    sender = TraceSender(tmp_path / "traces.sock")
    for _ in range(200):
        sender.send([line()] * 100)
    connection, _ = gateway.listener.accept()
    connection.setblocking(False)
    first = connection.recv(65536)
    assert first.startswith(b"0\n{")
    lost = received = 0
    try:
        while message := connection.recv(65536):
            lost += int(message.partition(b"\n")[0])
            received += 1
    except BlockingIOError:
        pass
    sender.send([line()])
    lost += int(connection.recv(65536).partition(b"\n")[0])
    assert 0 < received < 199
    assert lost == 100 * (199 - received)
    connection.close()
    gateway.close()
    sender.close()
