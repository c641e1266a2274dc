"""A health check finds the edge by the link in the home, and says so where nobody answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cli.health import LINK, health_link
from gateway.wire.unix_sockets import short_path


@contextmanager
def edge(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Answer one request at a socket; yields what was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        with short_path(path) as name:
            server.bind(name)
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(10)


def check(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.health"],
        env={"KITSERVE_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 1),
        (b"SSH-2.0\r\n\r\n", 1),
    ],
)
def test_the_edge_is_asked_at_its_own_socket(tmp_path: Path, answer: bytes, code: int) -> None:
    home = tmp_path / ("long" * 20)
    home.mkdir()
    (home / LINK).symlink_to("left by a killed one")
    with edge(tmp_path / "edge.sock", answer) as asked, health_link(home, tmp_path / "edge.sock"):
        done = check(home)
    assert done.returncode == code, done.stderr
    assert asked[0].startswith(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n")
    assert not (home / LINK).is_symlink()


def test_where_nobody_answers_it_says_where_it_asked(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 1
    assert f"no edge of a Kitserve answers at {tmp_path / LINK}" in done.stderr
