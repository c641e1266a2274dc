"""The program by which Ray's raylet starts a process where there is a fork server (`fork_server.py`).

The raylet runs it as `python -I -S fork_request.py SOCKET COMMAND…`, without the packages of the environment:
so it starts in some 10 ms. It hands its command and its environment over and ends. Where the fork server
does not answer, it becomes the command, and the process starts as Ray's own do.
"""

from __future__ import annotations

import os
import socket
import sys

TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - a name
"""The variable by which the fork server knows who may ask: whoever may talk to Ray."""
FORKED = b"1"
_SECONDS = 30.0
# Ray has a program make a runtime environment first, of which none is used here, and take its argument away.
_SETUP_WORKER, _FOR_SETUP = "/setup_worker.py", "--language="
_WITH_RUNTIME_ENV = "--serialized-runtime-env-context="


def main(path: str, command: list[str]) -> None:
    """Have the fork server at `path` run a command, else become it."""
    if not any(word.startswith(_WITH_RUNTIME_ENV) for word in command):
        is_kept = [not word.endswith(_SETUP_WORKER) and not word.startswith(_FOR_SETUP) for word in command]
        command = [word for word, kept in zip(command, is_kept, strict=True) if kept]
        try:
            if ask(path, command, dict(os.environ)):
                return
        except OSError:
            pass
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def ask(path: str, command: list[str], environment: dict[str, str]) -> bool:
    """Ask the fork server at `path` to run a Python command; returns whether it does.

    Raises:
        OSError: when it does not answer.
    """
    fields = [environment.get(TOKEN, ""), str(len(command)), *command]
    fields += [f"{name}={value}" for name, value in environment.items()]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(path)
        connection.sendall("\0".join(fields).encode(errors="surrogateescape"))
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1) == FORKED


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
