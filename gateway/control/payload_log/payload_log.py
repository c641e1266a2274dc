"""The gateway's half of the payload log: it tells workers what to record, and writes what they send.

A thread of its own writes, so a slow disk delays no report of a worker. What waits for it is bounded; the
rest is dropped and counted. Workers run kits, so what they send is only data: whose it is, the gateway says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.contract import AppName, PayloadBatch
from gateway.control.payload_log.files import PayloadFiles
from gateway.control.state.database import State
from gateway.control.state.versions import Version
from gateway.errors import KitserveError, reason_of
from gateway.metrics.system import PayloadNumbers
from gateway.payloads.record import MAX_LINE
from gateway.payloads.rules import PayloadRules

DIRECTORY = "payloads"
"""Where in a home the records are, in a directory for each model."""
_MAX_WAITING = 1_000
_MAX_WAITING_BYTES = 32 * 1024 * 1024
_LOOK_SECONDS = 0.5
_REPEAT_SECONDS = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordedVersion:
    """A version whose calls are recorded."""

    version: Version
    rules: PayloadRules


class PayloadLog:
    """Takes records from workers and writes them; safe to use from several threads."""

    def __init__(self, home: Path, versions: Callable[[], Mapping[AppName, RecordedVersion]]) -> None:
        """Take the home, and what tells which versions' calls are recorded."""
        self._directory = home / DIRECTORY
        self._find_versions = versions
        self._versions: Mapping[AppName, RecordedVersion] = {}
        self._files: dict[str, PayloadFiles] = {}
        self._condition = threading.Condition()
        self._waiting: deque[tuple[RecordedVersion, PayloadBatch]] = deque()
        self._waiting_bytes = 0
        self._is_stopped = False
        self._written: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._warned_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="payload-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify()
        self._thread.join(timeout=_LOOK_SECONDS * 4)

    def rules(self, app: AppName) -> PayloadRules | None:
        """Return what the workers of an app are to record; None: nothing."""
        recorded = self._versions.get(app)
        return None if recorded is None else recorded.rules

    def take(self, batch: PayloadBatch) -> None:
        """Take records to be written soon."""
        recorded = self._versions.get(batch.app)
        if recorded is None:
            return
        size = sum(map(len, batch.lines))
        with self._condition:
            model = recorded.version.model
            self._dropped[model] += batch.dropped
            is_full = self._waiting_bytes + size > _MAX_WAITING_BYTES or len(self._waiting) >= _MAX_WAITING
            if self._is_stopped or is_full:
                self._dropped[model] += len(batch.lines)
                is_slow = not self._is_stopped
            else:
                self._waiting.append((recorded, batch))
                self._waiting_bytes += size
                self._condition.notify()
                is_slow = False
        if is_slow:
            self._warn(model, "the disk is too slow for them")
        elif batch.dropped:
            self._warn(model, "a worker had no room or time for all of them")

    def numbers(self) -> dict[str, PayloadNumbers]:
        """Return what was written and dropped since the start, by model."""
        with self._condition:
            models = {recorded.version.model for recorded in self._versions.values()}
            names = sorted({*models, *self._written, *self._dropped})
            return {name: PayloadNumbers(self._written[name], self._dropped[name]) for name in names}

    def _run(self) -> None:
        looked_at = 0.0
        while True:
            now = time.monotonic()
            if now - looked_at >= _LOOK_SECONDS:
                looked_at = now
                self._look()
            with self._condition:
                if not self._waiting:
                    if self._is_stopped:
                        break
                    self._condition.wait(_LOOK_SECONDS)
                if not self._waiting:
                    continue
                recorded, batch = self._waiting.popleft()
                self._waiting_bytes -= sum(map(len, batch.lines))
            try:
                self._write(recorded, batch)
            except Exception:
                # One worker's records must not end this thread, which writes those of all.
                log.exception("payloads.failed", extra={"model": recorded.version.model})
                with self._condition:
                    self._dropped[recorded.version.model] += len(batch.lines)
        for files in self._files.values():
            files.close()

    def _look(self) -> None:
        """Find out anew which versions' calls are recorded; where that fails, it stays as it is."""
        try:
            self._versions = self._find_versions()
        except KitserveError as error:
            log.warning("payloads.rules_unknown", extra={"reason": reason_of(error)})

    def _write(self, recorded: RecordedVersion, batch: PayloadBatch) -> None:
        version = recorded.version
        lines = [line for line in (_line(version, line) for line in batch.lines) if line]
        lost = len(batch.lines) - len(lines)
        files = self._files.setdefault(version.model, PayloadFiles(self._directory / version.model))
        reason = ""
        if lines:
            try:
                files.write(lines, recorded.rules.max_bytes)
            except OSError as error:
                reason, lost, lines = f"they cannot be written: {error}", len(batch.lines), []
                files.close()
        with self._condition:
            self._written[version.model] += len(lines)
            self._dropped[version.model] += lost
        if reason:
            self._warn(version.model, reason)

    def _warn(self, model: str, reason: str) -> None:
        """Say that records are lost; of one model, once in a while."""
        now = time.monotonic()
        if now - self._warned_at.get(model, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._warned_at[model] = now
            log.warning("payloads.dropped", extra={"model": model, "reason": reason})


def recorded_versions(state: State) -> dict[AppName, RecordedVersion]:
    """Return the versions whose calls are recorded by the config in force.

    Raises:
        StoreError: when the state cannot be read.
    """
    rules = {model.name: model.payloads for model in state.desired().models if model.payloads is not None}
    if not rules:
        return {}
    return {
        app: RecordedVersion(version, rules[version.model])
        for app, version in state.versions().items()
        if version.model in rules
    }


def _line(version: Version, line: bytes) -> bytes:
    """Return a record with the names of its version; b"" where it is none."""
    if len(line) > MAX_LINE:
        return b""
    try:
        record = orjson.loads(line)
    except ValueError:
        return b""
    if not isinstance(record, dict):
        return b""
    names = {"model": version.model, "version": version.label, "digest": str(version.digest)}
    try:
        return orjson.dumps({**record, **names})
    except TypeError:
        # orjson reads what is nested deeper than what it writes.
        return b""
