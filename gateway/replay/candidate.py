"""The candidate: a kit served by a process of its own, beside whatever else runs here."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.contract import WorkerSpec
from gateway.errors import KitserveError, UnusableModel
from gateway.foreign_text import message_text

_END_SECONDS = 20.0
_CHILD = "gateway.replay.child"


class CandidateFailed(UnusableModel):
    """The candidate could not be served, or its process ended: it has failed, and so would a canary."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the candidate listens."""

    host: str
    port: int
    runtime: str
    is_text: bool
    """Whether it generates text."""


class Candidate:
    """The process, while it is used as a context; `progress` takes what it does while it loads."""

    def __init__(self, spec: WorkerSpec, progress: Callable[[str], None]) -> None:
        self._spec = spec
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Address:
        """Start it; returns once it can be called.

        Raises:
            CandidateFailed: when the kit cannot be served.
            KitserveError: when that says nothing of the kit, as where its registry is away.
        """
        # -P: what lies in the working directory is not imported. A session of its own: Ctrl-C is for this
        # process, and the other ends when its input does.
        command = [sys.executable, "-P", "-m", _CHILD]
        process = self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(pickle.dumps(self._spec))
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if "port" in message:
                    return Address(message["host"], message["port"], message["runtime"], message["is_text"])
                _raise_failure(message)
                self._progress(message["detail"])
        except BaseException:
            self.__exit__()
            raise
        self.__exit__()
        raise CandidateFailed(f"{self._spec.reference}: its process ended while it loaded ({self.ending})")

    def __exit__(self, *_: object) -> None:
        """End it."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    @property
    def has_ended(self) -> bool:
        """Whether the process ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def ending(self) -> str:
        """How it ended."""
        code = None if self._process is None else self._process.poll()
        return f"exit code {code}" if code is None or code >= 0 else f"signal {-code}"


def _raise_failure(message: dict[str, Any]) -> None:
    if "error" in message:
        text = message_text(message["error"])
        raise CandidateFailed(text) if message["is_kits"] else KitserveError(text)
