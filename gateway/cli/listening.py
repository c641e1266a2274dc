"""On which addresses the processes of this Kitserve listen, and which of them nobody asked for.

On one machine, others may reach `listen` and `admin` of the config, and nothing else. Whatever else listens,
because of another version of Ray or a setting that nobody thought of, is told with its process and port.
Linux only: from /proc/net/tcp and /proc/PID/fd (proc(5)).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.processes import descendants
from gateway.config.config import Address
from gateway.loopback import is_loopback

_LISTENING = "0A"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
_TABLES = ("tcp", "tcp6")
_PERIOD_SECONDS = 30.0
_NAME_CHARACTERS = 80

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens on an address."""

    process: int
    name: str
    host: str
    port: int

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"process {self.process} ({self.name}) listens on {self.host} port {self.port}"


class ListeningCheck:
    """Tells which processes of this Kitserve others than this machine may reach, each once.

    Args:
        expected: the addresses of the config.
        say: tells a person.
        processes: returns the processes to look at.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        expected: Iterable[Address],
        say: Callable[[str], None],
        processes: Callable[[], Iterable[int]] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._ports = {address.port for address in expected}
        self._say = say
        self._processes = processes or own_processes
        self._clock = clock
        self._last: float | None = None
        self._said: set[tuple[str, int]] = set()

    def expect(self, expected: Iterable[Address]) -> None:
        """Take other addresses for those of the config from now on."""
        self._ports = {address.port for address in expected}

    def check(self) -> None:
        """Look again, half a minute after the last time, and say what is new."""
        now = self._clock()
        if self._last is not None and now - self._last < _PERIOD_SECONDS:
            return
        self._last = now
        for listener in listeners(self._processes()):
            key = (listener.name, listener.port)
            if listener.is_on_loopback or listener.port in self._ports or key in self._said:
                continue
            self._said.add(key)
            self._say(
                f"warning: {listener}: other machines may reach it, and Kitserve does not need that; "
                "docs/security.md has the lines for a firewall (Ray)"
            )


def own_processes() -> list[int]:
    """Return this process and its descendants."""
    return [os.getpid(), *descendants(os.getpid())]


def listeners(processes: Iterable[int]) -> list[Listener]:
    """Return on which TCP addresses processes listen; those that cannot be looked at are left out."""
    addresses = _listening_addresses()
    return [
        Listener(process, _name(process), *addresses[inode])
        for process in processes
        for inode in sorted(_sockets(process) & addresses.keys())
    ]


def _listening_addresses() -> dict[int, tuple[str, int]]:
    """Return host and port of each socket of this network namespace that listens, by its inode."""
    addresses: dict[int, tuple[str, int]] = {}
    for table in _TABLES:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    addresses[int(fields[9])] = _address(fields[1])
    return addresses


def _address(text: str) -> tuple[str, int]:
    """Read an address as the kernel writes it: words of 32 bits in the order of this machine, and a port."""
    host, _, port = text.partition(":")
    words = [int(host[start : start + 8], 16) for start in range(0, len(host), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def _sockets(process: int) -> set[int]:
    """Return the inodes of the sockets that a process has open."""
    inodes = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := _SOCKET.fullmatch(str(entry.readlink())):
                    inodes.add(int(match[1]))
    return inodes


def _name(process: int) -> str:
    """Return the name of a program, cut short and made printable; what its command line says is not ours."""
    words: list[str] = []
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    name = _last_part(words[0]) if words else ""
    if name.startswith("python"):
        name = " ".join([name, *(_last_part(word) for word in words[1:] if word.endswith(".py"))][:2])
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable[:_NAME_CHARACTERS] or "unknown"


def _last_part(word: str) -> str:
    return word.rpartition("/")[2].strip()
