"""Docker's credential helpers: programs that know logins (docker/docker-credential-helpers)."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading

from gateway.errors import Unauthorized

_PATIENCE = 10.0  # seconds until a helper is killed
_MAX_ANSWER = 64 * 1024  # bytes; logins are short
_MISS = b"credentials not found"


def ask_helper(program: str, key: str, what: str) -> bytes | None:
    """Return what a helper says about `key`, unread; None when it has no login for it.

    Its answer is in no message. `what` names it in errors. Raises Unauthorized when it is not there, takes
    more than ten seconds, or fails.
    """
    path = shutil.which(program)
    if path is None:
        raise Unauthorized(f"{what} is not on PATH; install {program}, or log in without it")
    try:
        # Its own session, so that whatever it started is killed with it, and nothing asks at a terminal.
        process = subprocess.Popen(
            [path, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise Unauthorized(f"{what} cannot be run ({error.strerror}); install {program} again") from None
    late = threading.Event()
    timer = threading.Timer(_PATIENCE, _end, (process, late))
    timer.start()
    try:
        status, answer = _exchange(process, key.encode())
    finally:
        timer.cancel()
    if late.is_set():
        raise Unauthorized(f"{what} did not answer in {_PATIENCE:g} s; see what `{program} get` waits for")
    if status == 0:
        return answer
    if _MISS in answer.lower():
        return None
    raise Unauthorized(f"{what} failed with status {status}; see what `{program} get` says")


def _exchange(process: subprocess.Popen[bytes], key: bytes) -> tuple[int, bytes]:
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(key)
        answer = process.stdout.read(_MAX_ANSWER)
        # What a helper still has to say finds nobody: it ends by that, or by the timer.
        process.stdout.close()
        return process.wait(), answer


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
