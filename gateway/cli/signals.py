"""SIGINT and SIGTERM: at any moment they end a command with one line, and leave nothing behind."""

from __future__ import annotations

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHELL_CODE = 128
"""Shells give a process that a signal ended this exit code plus the signal's number."""


class Stopped(BaseException):
    """SIGINT or SIGTERM came."""


def end_at_once() -> None:
    """Have SIGINT or SIGTERM end this process at once: there is nothing to clear away yet."""

    def end(number: int, _frame: FrameType | None) -> None:
        os.write(2, b"kitserve: stopped before it had begun\n")
        # So that who started it sees that a signal ended it.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # The first process of a container is not ended by its own signals.
        os._exit(_SHELL_CODE + number)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def restore_signals() -> None:
    """Have SIGINT raise KeyboardInterrupt, and SIGTERM end the process, as Python has it."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def catch_signals() -> None:
    """Have the first SIGINT or SIGTERM raise Stopped in the main thread; later ones change nothing."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    for number in _SIGNALS:
        signal.signal(number, stop)
