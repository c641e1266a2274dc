"""Credential helpers: programs that store logins (github.com/docker/docker-credential-helpers)."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading

from gateway.errors import Unauthorized

_TIMEOUT = 10.0  # seconds until a helper is killed
_MAX_ANSWER = 64 * 1024  # bytes; logins are short
_NOT_FOUND = b"credentials not found"


def ask_helper(program: str, key: str, label: str) -> bytes | None:
    """Return a helper's answer for `key`, not parsed; None where it has no login for it.

    `label` names the helper in errors, which never repeat its answer. Raises Unauthorized when it is not
    installed, takes more than ten seconds, or fails.
    """
    path = shutil.which(program)
    if path is None:
        raise Unauthorized(f"{label} is not on PATH; install {program}, or log in without it")
    try:
        # In a session of its own: it can be killed with its children, and cannot ask at a terminal.
        process = subprocess.Popen(
            [path, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise Unauthorized(f"{label} cannot be run ({error.strerror}); install {program} again") from None
    timed_out = threading.Event()
    timer = threading.Timer(_TIMEOUT, _kill, (process, timed_out))
    timer.start()
    try:
        status, answer = _exchange(process, key.encode())
    finally:
        timer.cancel()
    if timed_out.is_set():
        raise Unauthorized(f"{label} did not answer in {_TIMEOUT:g} s; see what `{program} get` waits for")
    if status == 0:
        return answer
    if _NOT_FOUND in answer.lower():
        return None
    raise Unauthorized(f"{label} failed with status {status}; see what `{program} get` says")


def _exchange(process: subprocess.Popen[bytes], key: bytes) -> tuple[int, bytes]:
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(key)
        answer = process.stdout.read(_MAX_ANSWER)
        # A helper that writes more fails at the closed pipe, or is killed by the timer.
        process.stdout.close()
        return process.wait(), answer


def _kill(process: subprocess.Popen[bytes], timed_out: threading.Event) -> None:
    timed_out.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
