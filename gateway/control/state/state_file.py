"""The file of the gateway's state: opened, migrated, and written in transactions.

A database that an earlier release wrote is migrated when it is opened, see `migrations`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.control.state.migrations import (
    SCHEMA,
    TABLES,
    check_schema,
    keep_copy,
    migrate,
    read_schema,
)
from gateway.errors import StoreError
from gateway.rollout.documents import FAULTS, explain

_UNUSABLE = (sqlite3.Error, OSError, *FAULTS)
_FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class StateFile:
    """An SQLite database with the tables of this release.

    Raises:
        StoreError: when the file cannot be used, or a newer release wrote it; it is left as it is then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.errors = 0
        """How often the file could not be read or written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file of a newer release is not even opened for writing.
            check_schema(path)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except _UNUSABLE as error:
            raise _unusable(path, error) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            with self.transaction() as database:
                # Another process may have migrated it since; none can from here on.
                schema = read_schema(path, database)
                if schema is not None and schema < SCHEMA:
                    keep_copy(path, schema)
                    migrate(database, schema)
                for table in TABLES:
                    database.execute(table)
                set_about(database, "schema", str(SCHEMA))
        except BaseException as error:
            self._database.close()
            if isinstance(error, _UNUSABLE):
                raise _unusable(path, error) from error
            raise

    def close(self) -> None:
        """Close the file; what other threads still want of it then raises StoreError."""
        # Not amid another thread's statement: SQLite would crash the process.
        with self._lock:
            self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of the block or nothing; no other thread does anything meanwhile. Raises StoreError."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    # SQLite has ended it by itself after some faults.
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                self.errors += 1
                is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF in _FULL_CODES
                raise StoreError(
                    f"{self._path}: {error}{'; is the disk full?' if is_full else ''}"
                ) from error


def about(database: sqlite3.Connection, key: str) -> str | None:
    """Return what is noted of the whole state by a name; None where nothing is."""
    row = database.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def set_about(database: sqlite3.Connection, key: str, value: str) -> None:
    """Note something of the whole state by a name."""
    database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))


def _unusable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be used as the gateway's state: {explain(error)}")
