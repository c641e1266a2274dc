"""A filter of system calls for all threads of a process, and for all that it starts (seccomp(2)).

The filter is a program of classic BPF: it looks at the number and at the plain arguments of a call, and never
at what an argument points to.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import Enum

from runtimes.containment import kernel

# linux/seccomp.h, linux/bpf_common.h
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_KILL_PROCESS, _ALLOW, _ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000
_LOAD, _AND, _IF_EQUAL, _IF_SET, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x4000_0000
_CLONE_THREAD = 0x0001_0000
_SOCKET_TYPE = 0xF
_NETLINK_ROUTE = 0

# What nothing that serves a model needs: other processes' memory, the kernel itself, mounts, keys, clocks,
# and ways around a filter.
_NEVER = """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module
    fsconfig fsmount fsopen fspick init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl
    migrate_pages modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at open_by_handle_at
    open_tree perf_event_open personality pidfd_getfd pivot_root process_vm_readv process_vm_writev ptrace
    quotactl quotactl_fd reboot request_key setdomainname sethostname setns settimeofday swapoff swapon syslog
    umount2 unshare userfaultfd vhangup
"""
# Engines on GPUs share memory between their processes by these.
_BETWEEN_PROCESSES = "pidfd_getfd process_vm_readv process_vm_writev move_pages migrate_pages"

Instruction = bytes


class Sockets(Enum):
    """Which new sockets a process may make; those that it has by then stay."""

    ANY = "any"
    STREAMS = "streams"
    """Unix sockets and TCP, and what libraries ask the kernel's own routes by."""
    LISTENING = "listening"
    """Unix sockets that others connect to."""
    NONE = "none"


def refuse(
    *,
    sockets: Sockets = Sockets.ANY,
    programs: bool = False,
    processes: bool = False,
    shares_memory: bool = False,
) -> None:
    """Refuse system calls from now on, with EPERM, in every thread of this process and all it starts.

    Args:
        sockets: which new ones may be made.
        programs: whether starting a program is refused (execve).
        processes: whether starting a process is refused (fork); threads may still be started.
        shares_memory: whether what shares memory with other processes stays allowed.

    Raises:
        OSError: where the kernel refuses, or a thread has a filter of its own.
    """
    spared = _BETWEEN_PROCESSES.split() if shares_memory else []
    names = [name for name in _NEVER.split() if name not in spared]
    if programs:
        names += ["execve", "execveat"]
    if processes:
        names += ["fork", "vfork"]
    program = b"".join(_program(names, sockets, has_no_processes=processes))
    text = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(text))
    kernel.give_up_new_privileges()
    failed = kernel.call("seccomp", _SET_MODE_FILTER, _ALL_THREADS, ctypes.c_char_p(filter_))
    if failed:
        raise OSError(errno.EBUSY, f"thread {failed} has another filter of system calls")


def _program(names: Iterable[str], sockets: Sockets, *, has_no_processes: bool) -> Iterator[Instruction]:
    """Yield the instructions of a filter."""
    yield _step(_LOAD, _ARCHITECTURE)
    yield _step(_IF_EQUAL, kernel.AUDIT_ARCHITECTURE, 1, 0)
    yield _step(_RETURN, _KILL_PROCESS)
    yield _step(_LOAD, _NUMBER)
    # Calls of x86_64 under other numbers.
    yield from _answer_if(_IF_AT_LEAST, _X32, errno.EPERM)
    for name in names:
        yield from _refused(name, errno.EPERM)
    # The C library has other ways to do these.
    yield from _refused("io_uring_setup", errno.ENOSYS)
    if has_no_processes:
        # Its flags are in memory, where a filter sees nothing; so `clone` is what is used.
        yield from _refused("clone3", errno.ENOSYS)
        yield from _with_arguments(
            "clone", [_argument(0), _step(_IF_SET, _CLONE_THREAD, 1, 0), _refusal(errno.EPERM)]
        )
    if sockets is Sockets.LISTENING:
        yield from _refused("connect", errno.EPERM)
    if sockets is Sockets.NONE:
        yield from _refused("socket", errno.EPERM)
    elif sockets is not Sockets.ANY:
        yield from _with_arguments("socket", list(_socket_checks(sockets)))
    yield _step(_RETURN, _ALLOW)


def _socket_checks(sockets: Sockets) -> Iterator[Instruction]:
    """Yield what refuses a socket by its family, type and protocol; what is let through goes on after it."""
    yield _argument(0)
    yield _step(_IF_EQUAL, socket.AF_UNIX, 0, 1)
    yield _step(_RETURN, _ALLOW)
    if sockets is Sockets.STREAMS:
        for family in (socket.AF_INET, socket.AF_INET6):
            yield _step(_IF_EQUAL, family, 0, 4)
            yield _argument(1)
            yield _step(_AND, _SOCKET_TYPE)
            yield _step(_IF_EQUAL, socket.SOCK_STREAM, 0, 1)
            yield _step(_RETURN, _ALLOW)
        yield _step(_IF_EQUAL, socket.AF_NETLINK, 0, 3)
        yield _argument(2)
        yield _step(_IF_EQUAL, _NETLINK_ROUTE, 0, 1)
        yield _step(_RETURN, _ALLOW)
    yield _refusal(errno.EPERM)


def _refused(name: str, number: int) -> Iterator[Instruction]:
    """Yield what refuses a call with an error, if this machine has it."""
    call = kernel.number_of(name)
    if call is not None:
        yield from _answer_if(_IF_EQUAL, call, number)


def _with_arguments(name: str, checks: list[Instruction]) -> Iterator[Instruction]:
    """Yield checks of the arguments of one call; those that refuse nothing allow it."""
    call = kernel.number_of(name)
    assert call is not None
    yield _step(_IF_EQUAL, call, 0, len(checks) + 1)
    yield from checks
    yield _step(_RETURN, _ALLOW)


def _answer_if(condition: int, value: int, number: int) -> Iterator[Instruction]:
    yield _step(condition, value, 0, 1)
    yield _refusal(number)


def _refusal(number: int) -> Instruction:
    return _step(_RETURN, _ERRNO | number)


def _argument(index: int) -> Instruction:
    """Load the lower half of an argument: no flag or family has more."""
    return _step(_LOAD, _ARGUMENTS + 8 * index)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> Instruction:
    """Return a `struct sock_filter`."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
