"""The system calls of containment, by ctypes: Linux on x86_64 and aarch64."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping

_MACHINE = platform.machine()
IS_KNOWN = sys.platform == "linux" and sys.byteorder == "little" and _MACHINE in ("x86_64", "aarch64")
"""Whether this is a kernel whose numbers are known here."""
AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(_MACHINE, 0)
"""What a filter calls this machine (linux/audit.h)."""

_SET_NO_NEW_PRIVILEGES = 38  # linux/prctl.h

# The numbers of system calls on (x86_64, aarch64), from asm/unistd_64.h and asm-generic/unistd.h.
_NUMBERS: Mapping[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vfork": (58, None),
    "vhangup": (153, 58),
}


def number_of(name: str) -> int | None:
    """Return the number of a system call on this machine; None where it has no such call."""
    return _NUMBERS[name][0 if _MACHINE == "x86_64" else 1]


def call(name: str, *arguments: object) -> int:
    """Make a system call. Raises OSError."""
    number = number_of(name)
    assert number is not None
    # Each is as wide as a register: ctypes would pass 32 bits of a number.
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(_library().syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise _error(name)
    return result


def control(option: int, *arguments: int) -> int:
    """Call prctl(2). Raises OSError."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    result = int(_library().prctl(option, *(ctypes.c_ulong(argument) for argument in padded)))
    if result < 0:
        raise _error("prctl")
    return result


def give_up_new_privileges() -> None:
    """Have no program that this thread starts gain rights, such as a set-user-ID one. Raises OSError."""
    control(_SET_NO_NEW_PRIVILEGES, 1)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _error(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")
