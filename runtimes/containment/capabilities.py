"""The capabilities of root (capabilities(7)), which a thread can give up for good."""

from __future__ import annotations

import ctypes
import errno
import struct

from runtimes.containment import kernel

# linux/prctl.h, linux/capability.h
_CAPBSET_DROP, _CAP_AMBIENT, _CLEAR_ALL = 24, 47, 4
_VERSION_3 = 0x2008_0522
_MAX_CAPABILITIES = 64


def give_up() -> None:
    """Give up every capability of this thread, and of all that it starts.

    A process of root stays the owner of root's files, and may read and write these as any owner may.

    Raises:
        OSError: where the kernel refuses.
    """
    for capability in range(_MAX_CAPABILITIES):
        try:
            kernel.control(_CAPBSET_DROP, capability)
        except OSError as error:
            # There is none of this number; or this process may not change what it has none of.
            if error.errno in (errno.EINVAL, errno.EPERM):
                break
            raise
    kernel.control(_CAP_AMBIENT, _CLEAR_ALL)
    header = struct.pack("=Ii", _VERSION_3, 0)
    nothing = bytes(4 * 6)
    kernel.call("capset", ctypes.c_char_p(header), ctypes.c_char_p(nothing))
