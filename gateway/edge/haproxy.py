"""What a running HAProxy is asked and told: over its runtime socket, and over its master's.

Commands and answers are those of HAProxy's management guide (2.8), sections 9.3 and 9.4. HAProxy answers each
command with its words and an empty line, and says nothing where a change was made; a command that is too long
may be dropped without a word. So each answer to a change is read, and what was changed is read back.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gateway.edge.files import EdgeFiles
from gateway.edge.haproxy_map import write_entries
from gateway.edge.keys import COUNTS
from gateway.edge.placement import (
    ACTIVATOR,
    Placement,
    Places,
    Pool,
    backend_name,
    number_of,
    prefix_backend_name,
    server_name,
    slot_of,
)
from gateway.edge.routes import Server
from gateway.edge.stats import (
    UNAVAILABLE,
    PlaceCounts,
    Processes,
    read_keys,
    read_processes,
    read_stats,
    read_unavailable,
)
from gateway.errors import EdgeError

_ANSWER_SECONDS = 10
# A command and what it carries must fit a buffer (tune.bufsize, less what HAProxy reserves).
_PORTION_BYTES = 16384
_COMMAND_BYTES = 2 * _PORTION_BYTES
# What HAProxy says of a server's address that it has taken.
_ADDRESS_CHANGE = (
    r"(?:no need to change the (?:addr|port)|IP changed from '[^']*' to '[^']*'"
    r"|port changed from '[^']*' to '[^']*')"
)
_DONE = re.compile(rf"{_ADDRESS_CHANGE}(?:, {_ADDRESS_CHANGE})* by 'stats socket command'")
# What it says of an entry that it does not have.
_MISSING = frozenset({"entry not found.", "Key not found."})
# What ends a word of a command, or begins another one.
_NO_WORD = re.compile(r"[\s;\\#]")
_STATE_FIELDS = 19
# Bits of srv_admin_state (`show servers state`): maintenance forced, inherited, for want of an address.
_IN_MAINTENANCE = 0x01 | 0x02 | 0x20


class ChangeRefused(EdgeError):
    """HAProxy answers, and did not do what it was told; a reload by the files mends that."""


class HAProxy:
    """The HAProxy that runs from some files. Nothing is kept of it: each question is asked anew.

    Raises:
        EdgeError: by every method, when HAProxy does not answer.
    """

    def __init__(self, files: EdgeFiles) -> None:
        self._files = files

    def servers(self) -> tuple[Placement, Pool]:
        """Return who takes calls where, and how large the pool is."""
        return read_servers(self._command(["show servers state"]))

    def routes(self) -> dict[str, str]:
        """Return the entries of the map by which it routes.

        Not by `get map`: what that finds, HAProxy 2.8 looks at again at a later match, when it may be freed.
        """
        lines = self._command([f"show map {self._files.routes}"]).split("\n")
        words = (line.split(" ", 2) for line in lines)
        return {entry[1]: entry[2] for entry in words if len(entry) == 3}

    def bring_up(self, live: Placement, wanted: Placement) -> None:
        """Give calls to all who are to have them and do not yet."""
        self._change(_arrivals(live, wanted))

    def take_down(self, live: Placement, wanted: Placement) -> None:
        """Give no more calls to those who are to have none; what they have they may finish."""
        self._change(_departures(live, wanted))

    def confirm(self, wanted: Placement, entries: Mapping[str, str]) -> None:
        """Check that calls go where they are to go.

        Raises:
            ChangeRefused: when HAProxy did not do all that it was told.
        """
        live, _ = self.servers()
        if differs(live, wanted):
            raise ChangeRefused("HAProxy has other servers than it was told")
        if self.routes() != entries:
            raise ChangeRefused("HAProxy has other routes than it was told")

    def replace_routes(self, entries: Mapping[str, str]) -> None:
        """Replace the whole map in one step, so that no call sees half of it.

        Raises:
            ChangeRefused: when HAProxy refuses an entry; it routes by the old map then.
        """
        self.replace_map(self._files.routes, entries)

    def replace_map(self, path: Path, entries: Mapping[str, str]) -> None:
        """Replace one of its maps in one step.

        Raises:
            ChangeRefused: when HAProxy refuses an entry; the map is as before then.
        """
        answer = self._command([f"prepare map {path}"])
        version = answer.rpartition(":")[2].strip()
        if not version.isdigit():
            raise ChangeRefused(f"HAProxy refused to change {path.name}: {answer.strip()}")
        for lines in _portions(write_entries(entries)):
            answer = self._command([f"add map @{version} {path} <<\n{''.join(lines)}"]).strip()
            if answer:
                self._command([f"clear map @{version} {path}"])
                raise ChangeRefused(f"HAProxy refused an entry of {path.name}: {answer}")
        self._change([f"commit map @{version} {path}"])

    def edit_routes(self, changed: Mapping[str, str], removed: Iterable[str]) -> None:
        """Change and remove single entries of the map; one that it does not have is left out.

        Raises:
            ChangeRefused: when the map is another one afterwards.
        """
        path, removed = self._files.routes, tuple(removed)
        for word in (*changed, *changed.values(), *removed):
            if _NO_WORD.search(word):
                raise ChangeRefused(f"{word!r} is no word of a command")
        self._change(
            [f"set map {path} {key} {value}" for key, value in changed.items()]
            + [f"del map {path} {key}" for key in removed],
            _MISSING,
        )
        routes = self.routes()
        if any(routes.get(key, value) != value for key, value in changed.items()) or routes.keys() & set(
            removed
        ):
            raise ChangeRefused("HAProxy has other routes than it was told")

    def reload(self) -> None:
        """Have a new process take the calls, by the files as they are; the old one finishes those it has.

        Raises:
            EdgeError: when the configuration is refused, too.
        """
        answer = ask(self._files.master_socket, "reload")
        if "Success=1" not in answer:
            raise EdgeError(f"HAProxy refused its new configuration: {' '.join(answer.split())}")

    def processes(self) -> Processes:
        """Return its processes.

        Raises:
            EdgeError: when none takes calls, too.
        """
        processes = read_processes(ask(self._files.master_socket, "show proc"))
        if processes is None:
            raise EdgeError("HAProxy has no process that takes calls")
        return processes

    def counts(self, process: int) -> PlaceCounts:
        """Return what one of its processes has counted since it started."""
        stats = ask(self._files.master_socket, f"@!{process} show stat -1 7 -1")
        table = ask(self._files.master_socket, f"@!{process} show table {UNAVAILABLE}")
        keys = ask(self._files.master_socket, f"@!{process} show table {COUNTS}")
        return {**read_stats(stats), **read_unavailable(table), **read_keys(keys)}

    def _change(self, commands: Sequence[str], harmless: frozenset[str] = frozenset()) -> None:
        """Have commands done that say nothing of themselves but an address, or what is `harmless`.

        Raises:
            ChangeRefused: when HAProxy says anything else.
        """
        lines = (line.strip() for line in self._command(commands).splitlines())
        for line in lines:
            if line and line not in harmless and not _DONE.fullmatch(line):
                raise ChangeRefused(f"HAProxy refused a change: {line}")

    def _command(self, commands: Sequence[str]) -> str:
        answers = (ask(self._files.runtime_socket, "; ".join(some)) for some in _portions(commands))
        return "".join(answers)


def ask(path: Path, command: str) -> str:
    """Send one command line to a socket of HAProxy and return its whole answer.

    Raises:
        EdgeError: when it does not answer, or the command does not fit its buffer.
    """
    if len(command.encode()) > _COMMAND_BYTES:
        raise EdgeError(f"a command for HAProxy has more than {_COMMAND_BYTES} bytes: {command[:100]!r}…")
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(command.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    except OSError as error:
        raise EdgeError(f"HAProxy does not answer at {path}: {error}") from error
    return answer.decode(errors="replace")


def read_servers(state: str) -> tuple[Placement, Pool]:
    """Return who takes calls where and how large the pool is, by the answer to `show servers state`."""
    workers: dict[int, dict[int, Server]] = {}
    activator: set[int] = set()
    servers: dict[int, int] = {}
    for line in state.splitlines():
        fields = line.split()
        slot = slot_of(fields[1]) if len(fields) >= _STATE_FIELDS else None
        if slot is None or fields[1] != backend_name(slot):
            continue
        name, host, port = fields[3], fields[4], fields[18]
        is_up = not int(fields[6]) & _IN_MAINTENANCE
        servers.setdefault(slot, 0)
        if name == ACTIVATOR:
            activator |= {slot} if is_up else set()
            continue
        number = number_of(name)
        servers[slot] = max(servers[slot], number + 1)
        if is_up:
            workers.setdefault(slot, {})[number] = Server("", host, int(port))
    sizes = (servers.get(slot, 0) for slot in range(max(servers, default=-1) + 1))
    return Placement(workers, frozenset(activator)), Pool(tuple(sizes))


def differs(live: Placement, wanted: Placement) -> bool:
    """Tell whether servers must be changed so that calls go where they are to go."""
    return bool(_arrivals(live, wanted) or _departures(live, wanted))


def _arrivals(live: Placement, wanted: Placement) -> list[str]:
    activators = [
        f"set server {backend}/{ACTIVATOR} state ready"
        for slot in sorted(wanted.activator - live.activator)
        for backend in (prefix_backend_name(slot), backend_name(slot))
    ]
    return activators + [
        command
        for slot, servers in wanted.workers.items()
        for number, server in servers.items()
        if not _is_up(live.workers, slot, number, server)
        for command in _start(slot, server_name(number), server)
    ]


def _departures(live: Placement, wanted: Placement) -> list[str]:
    workers = [
        f"set server {backend_name(slot)}/{server_name(number)} state maint"
        for slot, servers in live.workers.items()
        for number in servers
        if number not in wanted.workers.get(slot, {})
    ]
    return workers + [
        f"set server {backend}/{ACTIVATOR} state maint"
        for slot in sorted(live.activator - wanted.activator)
        for backend in (prefix_backend_name(slot), backend_name(slot))
    ]


def _start(slot: int, name: str, server: Server) -> tuple[str, ...]:
    """Return what starts a server; the one of the same name in the slot's other backend follows its state."""
    return (
        f"set server {backend_name(slot)}/{name} state maint",
        f"set server {prefix_backend_name(slot)}/{name} addr {server.host} port {server.port}",
        f"set server {backend_name(slot)}/{name} addr {server.host} port {server.port}",
        f"set server {backend_name(slot)}/{name} state ready",
    )


def _is_up(live: Places, slot: int, number: int, server: Server) -> bool:
    current = live.get(slot, {}).get(number)
    return current is not None and (current.host, current.port) == (server.host, server.port)


def _portions(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the same texts in order, so many at a time as HAProxy's buffer holds."""
    portion: list[str] = []
    size = 0
    for text in texts:
        bytes_of_text = len(text.encode())
        if portion and size + bytes_of_text > _PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += bytes_of_text
    if portion:
        yield portion
