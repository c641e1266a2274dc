from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.healthcheck import is_alive
from gateway.cli.run_directory import run_directory
from gateway.edge.files import EdgeFiles


def answer_once(listener: socket.socket, said: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(said)


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as path:  # a Unix socket's path is short
        yield Path(path)


@pytest.mark.parametrize(
    ("said", "alive"), [(b"HTTP/1.0 200 OK\r\n\r\n", True), (b"HTTP/1.0 503 No\r\n\r\n", False), (b"", False)]
)
def test_the_edge_of_a_home_is_asked_at_its_socket(
    home: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, alive: bool
) -> None:
    # Other Kitserves of this user may run on this machine.
    monkeypatch.setattr("gateway.cli.run_directory._PLACES", ())
    for variable in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    assert not is_alive(home)
    with run_directory(0, home) as directory, socket.socket(socket.AF_UNIX) as listener:
        assert not is_alive(home)
        listener.bind(str(EdgeFiles(directory).health_socket))
        listener.listen()
        thread = threading.Thread(target=answer_once, args=(listener, said))
        thread.start()
        assert is_alive(home) is alive
        thread.join(5)
