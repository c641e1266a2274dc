"""SIGINT and SIGTERM, from the first import of a command to its own work."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM]
# Stands for the import of all commands, which takes half a second.
IMPORTING = """
import sys, types, gateway.cli.__main__ as start
class Slow(types.ModuleType):
    def __getattr__(self, name):
        if name != "main":
            raise AttributeError(name)
        print("importing", flush=True)
        sys.stdin.readline()
        return lambda: print("ran")
sys.modules["gateway.cli.main"] = Slow("gateway.cli.main")
start.main()
"""
WORKING = """
import sys
import termios
from gateway.cli.signals import Stopped, catch_signals
catch_signals()
try:
    print("working", flush=True)
    sys.stdin.readline()
except Stopped:
    print("clearing", flush=True)
    sys.stdin.readline()
    print("stopped", flush=True)
"""


def begin(code: str, first_line: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == first_line
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_before_a_command_has_begun_it_is_one_line_and_the_signal(number: int) -> None:
    process = begin(IMPORTING, "importing")
    process.send_signal(number)
    output, error = process.communicate(timeout=20)
    assert (output, error) == ("", "kitserve: stopped before it had begun\n")
    assert process.returncode == -number


def test_a_command_that_has_no_handlers_of_its_own_has_pythons() -> None:
    process = begin(IMPORTING + "import signal; print(signal.getsignal(signal.SIGINT).__name__)", "importing")
    output, _ = process.communicate("\n", timeout=20)
    assert output.split() == ["ran", "default_int_handler"]


def test_who_ignores_sigint_goes_on_ignoring_it() -> None:
    process = begin("import signal; signal.signal(2, signal.SIG_IGN)\n" + IMPORTING, "importing")
    process.send_signal(signal.SIGINT)
    assert process.communicate("\n", timeout=20)[0] == "ran\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_stops_and_later_ones_change_nothing(number: int) -> None:
    process = begin(WORKING, "working")
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "clearing\n"
    for later in SIGNALS:
        process.send_signal(later)
    output, error = process.communicate("\n", timeout=20)
    assert (output, error, process.returncode) == ("stopped\n", "", 0)


def test_nothing_of_the_commands_is_imported_before_signals_are_caught() -> None:
    code = "import sys, gateway.cli.__main__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"typer", "rich", "requests", "gateway.cli.main"} & set(done.stdout.split())


HANGING_UP = """
import sys, time
from gateway.cli.signals import Stopped, catch_hangup, catch_signals
catch_signals()
catch_hangup(lambda: print("reloading", flush=True))
try:
    print("working", flush=True)
    time.sleep(30)
except Stopped:
    print("stopped", flush=True)
"""


def test_a_hangup_reloads_and_ends_what_has_lost_its_terminal() -> None:
    control, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", HANGING_UP],
        stdin=terminal,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(terminal)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "reloading\n"
        os.close(control)
        assert process.stdout.read() == "stopped\n"


def test_a_hangup_without_a_terminal_reloads_and_nohup_ignores_it() -> None:
    process = begin(HANGING_UP, "working")
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    assert process.stdout.readline() == "reloading\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "stopped\n"
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN){HANGING_UP}"
    process = begin(ignoring, "working")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "stopped\n"
