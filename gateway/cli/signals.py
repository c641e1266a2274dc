"""SIGINT and SIGTERM: at any moment they end a command with one line, and leave nothing behind.

SIGHUP has `kitserve serve` read its config again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

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


def catch_hangup(reload: Callable[[], None]) -> None:
    """Have SIGHUP call `reload` in the main thread; where the terminal was closed, have it raise Stopped.

    A process that was started to ignore it, as by nohup(1), goes on to.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    had_terminal = _has_terminal()

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        if had_terminal and not _has_terminal():
            _stop()
        reload()

    signal.signal(signal.SIGHUP, hang_up)


def _has_terminal() -> bool:
    """Whether this process has a terminal, which can be opened until it is closed (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def restore_signals() -> None:
    """Have SIGINT raise KeyboardInterrupt, and SIGTERM end the process, as Python has it."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def catch_signals() -> None:
    """Have the first SIGINT or SIGTERM raise Stopped in the main thread; later ones change nothing."""
    for number in _SIGNALS:
        signal.signal(number, lambda _number, _frame: _stop())


def _stop() -> NoReturn:
    for number in (*_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped
