"""What a process gives up, in one go or in steps, and what of that the kernel has done."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtimes.containment import capabilities, kernel, landlock, seccomp
from runtimes.containment.landlock import Files
from runtimes.containment.seccomp import Sockets

PRIVILEGES, CAPABILITIES, CALLS, FILES, LIMITS = (
    "privileges",
    "capabilities",
    "system calls",
    "files",
    "limits",
)
"""What can be given up: new privileges, root's capabilities, calls, files, core dumps and large files."""
ALL = (PRIVILEGES, CAPABILITIES, CALLS, FILES, LIMITS)

MAX_FILE_BYTES = 4 << 30
"""How many bytes a file may have that a contained process writes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a process keeps."""

    files: Files | None
    """None: all that its user may use."""
    sockets: Sockets = Sockets.NONE
    may_start_programs: bool = False
    """Whether programs may be started; with `files`, those that are named there."""
    may_start_processes: bool = False
    may_signal: bool = False
    """Whether processes that are not contained so may be sent signals."""
    shares_memory: bool = False
    """Whether it may share memory with other processes by their numbers, as engines on several GPUs do."""


def contain(rules: Rules) -> tuple[str, ...]:
    """Contain this process, and return what is on, of `ALL`; what the kernel lacks is passed over.

    System calls are refused to every thread of the process. All else binds this thread and the threads and
    processes that it starts from now on.
    """
    on = [LIMITS, *_done({PRIVILEGES: kernel.give_up_new_privileges})]
    limit_files()
    if rules.files is not None and landlock.abi():
        on += _done({FILES: lambda: _restrict(rules)})
    on += _done({CAPABILITIES: capabilities.give_up, CALLS: lambda: _refuse(rules)})
    return tuple(name for name in ALL if name in on)


def limit_files() -> None:
    """Have no crash write a core file, which has all of the memory, and no file grow for ever."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)


def lacking(on: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return what of `ALL` is not on; without `on`, what this machine's kernel cannot do at all."""
    if on is not None:
        return tuple(name for name in ALL if name not in frozenset(on))
    if not kernel.IS_KNOWN:
        return (PRIVILEGES, CAPABILITIES, CALLS, FILES)
    return () if landlock.abi() else (FILES,)


def _restrict(rules: Rules) -> None:
    assert rules.files is not None
    may_use_tcp = rules.sockets in (Sockets.ANY, Sockets.STREAMS)
    landlock.restrict(rules.files, may_use_tcp=may_use_tcp, may_signal=rules.may_signal)


def _refuse(rules: Rules) -> None:
    seccomp.refuse(
        sockets=rules.sockets,
        programs=not rules.may_start_programs,
        processes=not rules.may_start_processes,
        shares_memory=rules.shares_memory,
    )


def _done(steps: dict[str, Callable[[], None]]) -> list[str]:
    """Take steps; return the names of those that the kernel took."""
    if not kernel.IS_KNOWN:
        return []
    done = []
    for name, step in steps.items():
        try:
            step()
        except OSError:
            continue
        done.append(name)
    return done


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
