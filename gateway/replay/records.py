"""The records to be replayed: read from files in order, with what cannot be used counted by reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import KitserveError
from gateway.files import open_regular
from gateway.foreign_text import foreign_text
from gateway.payloads.record import MAX_LINE, NoRecord, Record, read_record

_OK = 200
_ERROR = 500
# Of too many calls, or too little time, which says nothing of a version.
_BUSY = (503, 504, 507)
_REASON_LENGTH = 80
_MAX_REASONS = 100
_OTHER_REASONS = "for other reasons"


class NoRecords(KitserveError):
    """A file or directory of records that cannot be read."""


@dataclass(slots=True)
class Reader:
    """Reads the records of one model; `skipped` counts the lines that were passed over, by reason."""

    model: str
    skipped: Counter[str] = field(default_factory=Counter)

    def read(self, path: Path) -> Iterator[Record]:
        """Yield the records of a file, or of all `.jsonl` files of a directory by their names.

        Raises:
            NoRecords: when it cannot be read.
        """
        try:
            files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
            if not files:
                raise NoRecords(f"{path} has no file NAME.jsonl")
            for file in files:
                yield from self._read(file)
        except OSError as error:
            raise NoRecords(f"{path} cannot be read: {error}") from error

    def _read(self, path: Path) -> Iterator[Record]:
        with os.fdopen(open_regular(path), "rb") as file:
            is_within = False
            while line := file.readline(MAX_LINE):
                # A line that is too long comes in parts, and only its last part has an end.
                is_part, is_within = is_within or len(line) == MAX_LINE, not line.endswith(b"\n")
                is_within = is_within and is_part
                if is_part:
                    self.skipped["the line is longer than a record may be"] += not is_within
                elif line.strip() and (record := self._usable(line)) is not None:
                    yield record

    def _usable(self, line: bytes) -> Record | None:
        try:
            record = read_record(line)
            reason = self._reason(record)
        except NoRecord as error:
            reason = str(error)
        if reason:
            is_counted = reason in self.skipped or len(self.skipped) < _MAX_REASONS
            self.skipped[reason if is_counted else _OTHER_REASONS] += 1
            return None
        return record

    def _reason(self, record: Record) -> str:
        """Return why a record cannot be replayed, "" where it can."""
        if record.model != self.model:
            return "it is of another model"
        if record.status != _OK and (record.status < _ERROR or record.status in _BUSY):
            return f"the call was refused ({record.status})"
        if record.request is None:
            omission = foreign_text(record.omitted.get("request", "").partition(":")[0], _REASON_LENGTH)
            return f"its request was left out ({omission or 'no reason given'})"
        if any(rule.startswith(("inputs.", "request")) for rule in record.redacted):
            return "its request is redacted"
        return ""
