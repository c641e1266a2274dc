"""What the gateway must not forget, in SQLite: the config, what its tags meant, what is routed.

Everything else is read anew from Serve and from the workers. Each method is one transaction on the file of
`state_file`, and safe to call from several threads. Values are stored in forms of their own, see `stored`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.contract import AppName, Description
from gateway.control.state.desired import Desired
from gateway.control.state.state_file import StateFile, about, set_about
from gateway.control.state.stored import (
    description_from_json,
    description_to_json,
    desired_from_json,
    desired_to_json,
    version_from_json,
    version_to_json,
)
from gateway.control.state.versions import Kind, Version
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference, parse_reference
from gateway.rollout.documents import reading

STATE_FILE = "state.db"
"""The name of the database in a home."""
NO_CONFIG = "{}"
"""The document of generation 0, in which nothing was applied."""
_EVENTS_KEPT = 500
_EARLIER_KEPT = 5
_MEASURED_KEPT = 1000


@dataclass(frozen=True, slots=True)
class AppRoute:
    """What a model's unversioned calls go to: apps, and the canary's percent."""

    stable: AppName | None = None
    canary: AppName | None = None
    weight: int = 0

    @property
    def stable_weight(self) -> int:
        """The stable version's percent."""
        return 100 - self.weight


class State:
    """The gateway's database.

    Raises:
        StoreError: when the file cannot be used, or a newer release wrote it; it is left as it is then.
    """

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path)
        self.generation = 0
        """That of the config in force, as of the last time that it was read or written."""

    @property
    def errors(self) -> int:
        """How often the file could not be read or written."""
        return self._file.errors

    def close(self) -> None:
        """Close the file; what other threads still want of it then raises StoreError."""
        self._file.close()

    def begin(self, instance: str) -> bool:
        """Note which start of Kitserve this is; returns whether the gateway is new in it."""
        with self._file.transaction() as database:
            new = about(database, "instance") != instance
            set_about(database, "instance", instance)
        return new

    def apply(self, desired: Desired, document: str) -> int:
        """Put a config in force; return its generation. What failed before is tried again.

        Args:
            desired: what it asks for.
            document: the config as its user wrote it, in JSON; kept to be shown, and never read here.
        """
        with self._file.transaction() as database:
            generation = _generation(database) + 1
            database.execute("DELETE FROM config")
            row = (generation, document, desired_to_json(replace(desired, generation=generation)))
            database.execute("INSERT INTO config (generation, document, desired) VALUES (?, ?, ?)", row)
            database.execute("DELETE FROM kit_failures")
            database.execute("DELETE FROM version_failures")
            set_about(database, "configured", about(database, "instance") or "")
        self.generation = generation
        return generation

    def is_configured(self) -> bool:
        """Whether a config was applied since Kitserve was started."""
        with self._file.transaction() as database:
            return about(database, "configured") == about(database, "instance")

    def desired(self) -> Desired:
        """Return what the config in force asks for."""
        with self._file.transaction() as database:
            row = database.execute("SELECT generation, desired FROM config").fetchone()
        if row is None:
            return Desired()
        self.generation = row[0]
        return desired_from_json(row[1], row[0])

    def document(self) -> tuple[int, str]:
        """Return the generation of the config in force, and the config as its user wrote it, in JSON."""
        with self._file.transaction() as database:
            row = database.execute("SELECT generation, document FROM config").fetchone()
        return (0, NO_CONFIG) if row is None else (row[0], row[1])

    def pin(self, reference: Reference, digest: Digest, generation: int, note: str = "") -> None:
        """Note what a reference meant when a config was applied; a later config's answer stays."""
        with self._file.transaction() as database:
            database.execute(
                "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT (reference) DO UPDATE"
                " SET digest = excluded.digest, generation = excluded.generation, note = excluded.note"
                " WHERE excluded.generation >= pins.generation",
                (str(reference), str(digest), generation, note),
            )

    def last_pin(self, reference: Reference) -> Digest | None:
        """Return the digest that a reference last meant, under whatever config."""
        with self._file.transaction() as database:
            query = "SELECT digest FROM pins WHERE reference = ?"
            row = database.execute(query, (str(reference),)).fetchone()
        with reading("a pin"):
            return None if row is None else Digest.parse(row[0])

    def pins(self, generation: int) -> dict[Reference, Digest]:
        """Return the digest of each reference, as resolved for one config."""
        with self._file.transaction() as database:
            query = "SELECT reference, digest FROM pins WHERE generation = ?"
            rows = database.execute(query, (generation,)).fetchall()
        with reading("a pin"):
            return {parse_reference(reference): Digest.parse(digest) for reference, digest in rows}

    def notes(self, generation: int) -> dict[Reference, str]:
        """Return what a person should know of how each reference was resolved; "" where that is nothing."""
        with self._file.transaction() as database:
            query = "SELECT reference, note FROM pins WHERE generation = ?"
            rows = database.execute(query, (generation,)).fetchall()
        with reading("a pin"):
            return {parse_reference(reference): note for reference, note in rows}

    def fail(self, subject: Reference | Kind, generation: int, reason: str) -> None:
        """Note why a reference or a kind of version failed; it is not tried again before the next apply."""
        with self._file.transaction() as database:
            if generation != _generation(database):
                return
            if isinstance(subject, Kind):
                row = (subject.model, subject.label, str(subject.digest), subject.fingerprint, reason)
                database.execute("INSERT OR REPLACE INTO version_failures VALUES (?, ?, ?, ?, ?)", row)
            else:
                database.execute("INSERT OR REPLACE INTO kit_failures VALUES (?, ?)", (str(subject), reason))

    def failures(self) -> dict[Reference | Kind, str]:
        """Return why each reference and kind of version failed that did."""
        with self._file.transaction() as database:
            kits = database.execute("SELECT reference, reason FROM kit_failures").fetchall()
            query = "SELECT model, label, digest, fingerprint, reason FROM version_failures"
            kinds = database.execute(query).fetchall()
        with reading("a failure"):
            failures: dict[Reference | Kind, str] = {parse_reference(kit): reason for kit, reason in kits}
            for model, label, digest, fingerprint, reason in kinds:
                failures[Kind(model, label, Digest.parse(digest), fingerprint)] = reason
        return failures

    def forgive(self, model: str, reference: PinnedReference) -> None:
        """Have a model's versions of a kit be tried again."""
        with self._file.transaction() as database:
            database.execute(
                "DELETE FROM version_failures WHERE model = ? AND label = ? AND digest = ?",
                (model, reference.label, str(reference.digest)),
            )

    def keep_version(self, version: Version) -> None:
        """Remember a version before it is deployed."""
        with self._file.transaction() as database:
            row = (version.app, version_to_json(version))
            database.execute("INSERT OR REPLACE INTO versions (app, document) VALUES (?, ?)", row)

    def condemn_version(self, app: AppName) -> None:
        """Note that a version is about to be removed, and can never be used again."""
        with self._file.transaction() as database:
            _keep_earlier(database, app)
            database.execute("UPDATE versions SET condemned = 1 WHERE app = ?", (app,))

    def condemned(self) -> frozenset[AppName]:
        """The apps that are about to be removed."""
        with self._file.transaction() as database:
            rows = database.execute("SELECT app FROM versions WHERE condemned").fetchall()
        return frozenset(AppName(app) for (app,) in rows)

    def drop_version(self, app: AppName) -> None:
        """Forget a version that is gone."""
        with self._file.transaction() as database:
            _keep_earlier(database, app)
            database.execute("DELETE FROM versions WHERE app = ?", (app,))
            database.execute("DELETE FROM descriptions WHERE app = ?", (app,))

    def versions(self) -> dict[AppName, Version]:
        """Every version that may be deployed, by app."""
        with self._file.transaction() as database:
            rows = database.execute("SELECT app, document FROM versions").fetchall()
        return {AppName(app): version_from_json(document) for app, document in rows}

    def earlier_versions(self) -> dict[tuple[str, PinnedReference], Version]:
        """Return how each model's last kits were run that are removed, or about to be."""
        with self._file.transaction() as database:
            rows = database.execute("SELECT document FROM earlier_versions").fetchall()
        versions = [version_from_json(document) for (document,) in rows]
        return {(version.model, version.reference): version for version in versions}

    def describe_version(self, app: AppName, description: Description) -> None:
        """Note what a version's model takes and gives; nothing is noted of one that is not deployed."""
        with self._file.transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO descriptions SELECT app, ? FROM versions WHERE app = ?",
                (description_to_json(description), app),
            )

    def descriptions(self) -> dict[AppName, Description]:
        """What the models of versions take and give, by app, for each that was ready once."""
        with self._file.transaction() as database:
            rows = database.execute("SELECT app, document FROM descriptions").fetchall()
        return {AppName(app): description_from_json(document) for app, document in rows}

    def measure_gpu(self, kit: str, size: int) -> None:
        """Note how many bytes of GPUs' memory a kit took, by its `memory_key`; the last one counts.

        Those that were measured last are kept, `_MEASURED_KEPT` at most.
        """
        with self._file.transaction() as database:
            database.execute("INSERT OR REPLACE INTO gpu_memory VALUES (?, ?)", (kit, size))
            database.execute(
                "DELETE FROM gpu_memory WHERE rowid <= (SELECT max(rowid) FROM gpu_memory) - ?",
                (_MEASURED_KEPT,),
            )

    def gpu_memory(self) -> dict[str, int]:
        """How many bytes of GPUs' memory kits took, by their `memory_key`."""
        with self._file.transaction() as database:
            return dict(database.execute("SELECT kit, bytes FROM gpu_memory").fetchall())

    def save_routes(self, routes: Mapping[str, AppRoute]) -> None:
        """Replace all routes, by model."""
        with self._file.transaction() as database:
            database.execute("DELETE FROM routes")
            rows = [(model, route.stable, route.canary, route.weight) for model, route in routes.items()]
            database.executemany("INSERT INTO routes VALUES (?, ?, ?, ?)", rows)

    def routes(self) -> dict[str, AppRoute]:
        """What each model's calls go to."""
        with self._file.transaction() as database:
            rows = database.execute("SELECT model, stable, canary, weight FROM routes").fetchall()
        return {model: AppRoute(stable, canary, weight) for model, stable, canary, weight in rows}

    def rollouts(self) -> dict[str, str]:
        """The document of each model's rollout."""
        with self._file.transaction() as database:
            return dict(database.execute("SELECT model, document FROM rollouts").fetchall())

    def save_rollout(self, model: str, document: str, events: Sequence[str] = ()) -> None:
        """Replace a model's rollout, and note what happened to it; the last of a model's events are kept."""
        with self._file.transaction() as database:
            database.execute("INSERT OR REPLACE INTO rollouts VALUES (?, ?)", (model, document))
            _add_events(database, model, events)

    def add_rollout_events(self, model: str, events: Sequence[str]) -> None:
        """Note what happened to a model that has no rollout; the last of a model's events are kept."""
        with self._file.transaction() as database:
            _add_events(database, model, events)

    def drop_rollout(self, model: str) -> None:
        """Forget a model's rollout, but not what happened."""
        with self._file.transaction() as database:
            database.execute("DELETE FROM rollouts WHERE model = ?", (model,))

    def rollout_events(self, model: str) -> list[str]:
        """What happened to a model's rollouts, the latest first."""
        with self._file.transaction() as database:
            rows = database.execute(
                "SELECT document FROM rollout_events WHERE model = ? ORDER BY id DESC", (model,)
            )
            return [str(document) for (document,) in rows.fetchall()]


def _add_events(database: sqlite3.Connection, model: str, events: Sequence[str]) -> None:
    for event in events:
        database.execute("INSERT INTO rollout_events (model, document) VALUES (?, ?)", (model, event))
    if events:
        database.execute(
            "DELETE FROM rollout_events WHERE model = ? AND id NOT IN"
            " (SELECT id FROM rollout_events WHERE model = ? ORDER BY id DESC LIMIT ?)",
            (model, model, _EVENTS_KEPT),
        )


def _keep_earlier(database: sqlite3.Connection, app: AppName) -> None:
    """Remember how a version was run: its model may return to its kit."""
    database.execute(
        "INSERT OR REPLACE INTO earlier_versions SELECT json_extract(document, '$.model'),"
        " json_extract(document, '$.reference'), document FROM versions WHERE app = ?",
        (app,),
    )
    database.execute(
        "DELETE FROM earlier_versions WHERE rowid IN (SELECT rowid FROM (SELECT rowid, row_number()"
        " OVER (PARTITION BY model ORDER BY rowid DESC) AS place FROM earlier_versions) WHERE place > ?)",
        (_EARLIER_KEPT,),
    )


def _generation(database: sqlite3.Connection) -> int:
    row = database.execute("SELECT max(generation) FROM config").fetchone()
    return int(row[0] or 0)
