"""Which sockets other machines may reach, and what is said of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

from gateway.cli import listening
from gateway.cli.listening import Listener, ListeningCheck, listeners
from gateway.config.config import Address

LISTEN = """
import socket, sys
servers = []
for host in ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::", "::1"):
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    server.bind((host, 0))
    server.listen()
    servers.append(server)
print(*(server.getsockname()[1] for server in servers), flush=True)
sys.stdin.read()
"""


def test_each_address_of_another_process_is_found_and_judged() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        ports = [int(port) for port in child.stdout.readline().split()]
        by_port = {listener.port: listener for listener in listeners([child.pid])}
        assert [by_port[port].host for port in ports] == [
            "127.0.0.1",
            "0.0.0.0",
            "::ffff:127.0.0.1",
            "::",
            "::1",
        ]
        assert [by_port[port].is_on_loopback for port in ports] == [True, False, True, False, True]
        said: list[str] = []
        expected = Address(host="0.0.0.0", port=ports[3])
        now = iter([0.0, 1.0, 40.0])
        check = ListeningCheck([expected], said.append, lambda: [child.pid], lambda: next(now))
        check.check()
        (text,) = said
        name = Path(sys.executable).name
        assert f"process {child.pid} ({name}) listens on 0.0.0.0 port {ports[1]}: other machines" in text
        # Once, and not at each look.
        check.check()
        check.check()
        assert len(said) == 1
        child.communicate("")
    assert listeners([child.pid]) == []


def test_what_comes_later_is_told_at_the_next_look() -> None:
    said: list[str] = []
    now = iter([0.0, 10.0, 40.0])
    check = ListeningCheck([], said.append, lambda: [os.getpid()], lambda: next(now))
    check.check()
    before = len(said)
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        check.check()
        assert len(said) == before
        check.check()
        assert f"listens on 0.0.0.0 port {port}" in said[-1]


def test_a_connection_and_a_unix_socket_are_no_listeners(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        with socket.create_connection(server.getsockname()) as client:
            own = listeners([os.getpid()])
            assert server.getsockname()[1] in {listener.port for listener in own}
            assert client.getsockname()[1] not in {listener.port for listener in own}


@pytest.mark.parametrize(
    ("title", "name"),
    [
        (b"ray::ServeReplica:iris:worker\0", "ray::ServeReplica:iris:worker"),
        (b"/usr/bin/raylet\0--x\0", "raylet"),
        (b"/opt/bin/python3\0-u\0/opt/ray/dashboard.py\0--port=1\0", "python3 dashboard.py"),
        (b"\x1b[31mred\nline\0", "?[31mred?line"),
        (b"x" * 500, "x" * 80),
        (b"", "unknown"),
    ],
)
def test_a_title_cannot_write_on_a_terminal(title: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: title)
    assert listening._name(1) == name


def test_a_process_that_is_gone_or_anothers_is_left_out() -> None:
    assert listeners([2**22 + 1]) == []
    assert str(Listener(7, "raylet", "::", 80)) == "process 7 (raylet) listens on :: port 80"


def test_a_look_takes_little() -> None:
    seconds = min(timeit.repeat(lambda: listeners(listening.own_processes()), number=1, repeat=3))
    assert seconds < 0.5
