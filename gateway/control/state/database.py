"""What the gateway must not forget, in SQLite: the config, what its tags meant, what is routed.

Everything else is read anew from Serve and from the workers. Each method is one transaction, and
safe to call from several threads.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from gateway.config.config import GatewayConfig
from gateway.contract import Description
from gateway.control.state.versions import Version, version_from_json, version_to_json
from gateway.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS config (generation INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pins
    (reference TEXT PRIMARY KEY, digest TEXT NOT NULL, generation INTEGER NOT NULL, note TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS versions
    (app TEXT PRIMARY KEY, document TEXT NOT NULL, condemned INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS descriptions (app TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS routes (model TEXT PRIMARY KEY, stable TEXT, canary TEXT, weight INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS failures
    (subject TEXT PRIMARY KEY, generation INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rollouts (model TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rollout_events
    (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, document TEXT NOT NULL);
"""
_SCHEMA_VERSION = 1
_EVENTS_KEPT = 500
_DESCRIPTION = TypeAdapter(Description)


@dataclass(frozen=True, slots=True)
class Routed:
    """What a model's unversioned calls go to: apps, and the canary's percent."""

    stable: str | None = None
    canary: str | None = None
    weight: int = 0

    @property
    def stable_weight(self) -> int:
        """The stable version's percent."""
        return 100 - self.weight


@dataclass(frozen=True, slots=True)
class Desired:
    """The config in force. Its generation grows with each apply; 0 is before the first."""

    generation: int
    config: GatewayConfig


class State:
    """The gateway's database.

    Raises:
        StoreError: when the file cannot be used, or a newer Kitserve wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            known = self._about("schema")
            if known is None:
                self._set_about("schema", str(_SCHEMA_VERSION))
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be used as the gateway's state: {error}") from error
        if known is not None and int(known) > _SCHEMA_VERSION:
            raise StoreError(
                f"{path} was written by a newer Kitserve (schema {known}); upgrade, or use another --home"
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def begin(self, instance: str) -> bool:
        """Note which start of Kitserve this is; returns whether the gateway is new in it."""
        with self._transaction():
            new = self._about("instance") != instance
            self._set_about("instance", instance)
        return new

    def apply(self, config: GatewayConfig) -> int:
        """Put a config in force; returns its generation. What failed before is tried again."""
        with self._transaction() as database:
            generation = self._generation() + 1
            database.execute("DELETE FROM config")
            database.execute("INSERT INTO config VALUES (?, ?)", (generation, config.model_dump_json()))
            database.execute("DELETE FROM failures")
            self._set_about("configured", self._about("instance") or "")
        return generation

    def is_configured(self) -> bool:
        """Whether a config was applied since Kitserve was started."""
        with self._transaction():
            return self._about("configured") == self._about("instance")

    def desired(self) -> Desired:
        """The config in force."""
        with self._transaction() as database:
            row = database.execute("SELECT generation, document FROM config").fetchone()
        return (
            Desired(0, GatewayConfig())
            if row is None
            else Desired(row[0], GatewayConfig.model_validate_json(row[1]))
        )

    def pin(self, reference: str, digest: str, generation: int, note: str = "") -> None:
        """Note what a reference meant when a config was applied; a later config's answer stays."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT (reference) DO UPDATE"
                " SET digest = excluded.digest, generation = excluded.generation, note = excluded.note"
                " WHERE excluded.generation >= pins.generation",
                (reference, digest, generation, note),
            )

    def last_pin(self, reference: str) -> str | None:
        """The digest that a reference last meant, under whatever config."""
        with self._transaction() as database:
            row = database.execute("SELECT digest FROM pins WHERE reference = ?", (reference,)).fetchone()
        return None if row is None else str(row[0])

    def pins(self, generation: int) -> dict[str, str]:
        """Reference to digest, as resolved for one config."""
        return self._of_pins("digest", generation)

    def notes(self, generation: int) -> dict[str, str]:
        """Reference to what a person should know of how it was resolved; "" where that is nothing."""
        return self._of_pins("note", generation)

    def fail(self, subject: str, generation: int, reason: str) -> None:
        """Note why a reference or a kind of app failed; it is not tried again before the next apply."""
        with self._transaction() as database:
            if generation == self._generation():
                database.execute(
                    "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (subject, generation, reason)
                )

    def failures(self) -> dict[str, str]:
        """Reference or kind of app to the reason why it failed."""
        with self._transaction() as database:
            return dict(database.execute("SELECT subject, reason FROM failures").fetchall())

    def keep_version(self, version: Version) -> None:
        """Remember a version before it is deployed."""
        with self._transaction() as database:
            row = (version.app, version_to_json(version))
            database.execute("INSERT OR REPLACE INTO versions (app, document) VALUES (?, ?)", row)

    def condemn_version(self, app: str) -> None:
        """Note that a version is about to be removed, and can never be used again."""
        with self._transaction() as database:
            database.execute("UPDATE versions SET condemned = 1 WHERE app = ?", (app,))

    def condemned(self) -> frozenset[str]:
        """The apps that are about to be removed."""
        with self._transaction() as database:
            rows = database.execute("SELECT app FROM versions WHERE condemned").fetchall()
        return frozenset(str(app) for (app,) in rows)

    def drop_version(self, app: str) -> None:
        """Forget a version that is gone."""
        with self._transaction() as database:
            database.execute("DELETE FROM versions WHERE app = ?", (app,))
            database.execute("DELETE FROM descriptions WHERE app = ?", (app,))

    def versions(self) -> dict[str, Version]:
        """Every version that may be deployed, by app."""
        with self._transaction() as database:
            rows = database.execute("SELECT app, document FROM versions").fetchall()
        return {app: version_from_json(document) for app, document in rows}

    def describe_version(self, app: str, description: Description) -> None:
        """Note what a version's model takes and gives; nothing is noted of one that is not deployed."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO descriptions SELECT app, ? FROM versions WHERE app = ?",
                (_DESCRIPTION.dump_json(description).decode(), app),
            )

    def descriptions(self) -> dict[str, Description]:
        """What the models of versions take and give, by app, for each that was ready once."""
        with self._transaction() as database:
            rows = database.execute("SELECT app, document FROM descriptions").fetchall()
        return {app: _DESCRIPTION.validate_json(document) for app, document in rows}

    def route(self, routed: Mapping[str, Routed]) -> None:
        """Replace all routes."""
        with self._transaction() as database:
            database.execute("DELETE FROM routes")
            rows = [(model, at.stable, at.canary, at.weight) for model, at in routed.items()]
            database.executemany("INSERT INTO routes VALUES (?, ?, ?, ?)", rows)

    def routed(self) -> dict[str, Routed]:
        """What each model's calls go to."""
        with self._transaction() as database:
            rows = database.execute("SELECT model, stable, canary, weight FROM routes").fetchall()
        return {model: Routed(stable, canary, weight) for model, stable, canary, weight in rows}

    def rollouts(self) -> dict[str, str]:
        """The document of each model's rollout."""
        with self._transaction() as database:
            return dict(database.execute("SELECT model, document FROM rollouts").fetchall())

    def save_rollout(self, model: str, document: str, events: Sequence[str] = ()) -> None:
        """Replace a model's rollout, and note what happened to it; the last of a model's events are kept."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO rollouts VALUES (?, ?)", (model, document))
            for event in events:
                database.execute("INSERT INTO rollout_events (model, document) VALUES (?, ?)", (model, event))
            if events:
                database.execute(
                    "DELETE FROM rollout_events WHERE model = ? AND id NOT IN"
                    " (SELECT id FROM rollout_events WHERE model = ? ORDER BY id DESC LIMIT ?)",
                    (model, model, _EVENTS_KEPT),
                )

    def drop_rollout(self, model: str) -> None:
        """Forget a model's rollout, but not what happened."""
        with self._transaction() as database:
            database.execute("DELETE FROM rollouts WHERE model = ?", (model,))

    def rollout_events(self, model: str) -> list[str]:
        """What happened to a model's rollouts, the latest first."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT document FROM rollout_events WHERE model = ? ORDER BY id DESC", (model,)
            )
            return [str(document) for (document,) in rows.fetchall()]

    def forgive(self, kinds: str) -> None:
        """Have the kinds of apps whose names begin so be tried again."""
        with self._transaction() as database:
            database.execute("DELETE FROM failures WHERE substr(subject, 1, ?) = ?", (len(kinds), kinds))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
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
                raise StoreError(f"{self._path}: {error}; is the disk full?") from error

    def _of_pins(self, column: str, generation: int) -> dict[str, str]:
        with self._transaction() as database:
            rows = database.execute(
                f"SELECT reference, {column} FROM pins WHERE generation = ?",  # noqa: S608  our own names
                (generation,),
            )
            return dict(rows.fetchall())

    def _generation(self) -> int:
        row = self._database.execute("SELECT max(generation) FROM config").fetchone()
        return int(row[0] or 0)

    def _about(self, key: str) -> str | None:
        row = self._database.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _set_about(self, key: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))
