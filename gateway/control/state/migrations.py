"""The steps from one schema of the gateway's database to the next.

A step works on rows and JSON alone, with no value class and no config model of this release: what the
release of its time wrote does not change any more, and neither does the step. References alone are parsed:
they are looked up by their text in full, as this release writes it.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.errors import StoreError
from gateway.oci.reference import parse_reference

SCHEMA = 2
"""The schema that this release writes."""

# Created after the steps: a step that fills a new table creates it itself.
TABLES = (
    "CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS config"
    " (generation INTEGER PRIMARY KEY, document TEXT NOT NULL, desired TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS pins"
    " (reference TEXT PRIMARY KEY, digest TEXT NOT NULL, generation INTEGER NOT NULL, note TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS versions"
    " (app TEXT PRIMARY KEY, document TEXT NOT NULL, condemned INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS earlier_versions"
    " (model TEXT NOT NULL, reference TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (model, reference))",
    "CREATE TABLE IF NOT EXISTS descriptions (app TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS routes"
    " (model TEXT PRIMARY KEY, stable TEXT, canary TEXT, weight INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS kit_failures (reference TEXT PRIMARY KEY, reason TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS version_failures"
    " (model TEXT NOT NULL, label TEXT NOT NULL, digest TEXT NOT NULL, fingerprint TEXT NOT NULL,"
    " reason TEXT NOT NULL, PRIMARY KEY (model, label, digest, fingerprint))",
    "CREATE TABLE IF NOT EXISTS rollouts (model TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS rollout_events"
    " (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, document TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS gpu_memory (kit TEXT PRIMARY KEY, bytes INTEGER NOT NULL)",
)

_TABLES_OF_1 = (
    "CREATE TABLE IF NOT EXISTS config (generation INTEGER PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS pins"
    " (reference TEXT PRIMARY KEY, digest TEXT NOT NULL, generation INTEGER NOT NULL, note TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS versions"
    " (app TEXT PRIMARY KEY, document TEXT NOT NULL, condemned INTEGER NOT NULL DEFAULT 0)",
)
"""What the step from schema 1 works on; a gateway that was killed while it made its tables lacks some."""


def check_schema(path: Path) -> None:
    """Check that this release knows the schema of a database, without changing the file.

    Raises:
        StoreError: where it does not.
    """
    if not path.exists() or not path.stat().st_size:
        return
    # Without a log there is nothing but the file itself, and SQLite need make no files beside it.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as database:
        read_schema(path, database)


def read_schema(path: Path, database: sqlite3.Connection) -> int | None:
    """Return the schema of a database; None where it has no tables yet.

    Raises:
        StoreError: where this release does not know it.
    """
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
        return None
    row = database.execute("SELECT value FROM about WHERE key = 'schema'").fetchone()
    if row is None:
        return 1  # the only release that noted its schema after its tables, and was killed between the two
    schema = str(row[0])
    if not re.fullmatch("[1-9][0-9]{0,8}", schema):
        raise StoreError(
            f"{path} cannot be used as the gateway's state: its schema {schema[:80]!r} is no number of a "
            "schema; restore the file, or use another --home"
        )
    if int(schema) > SCHEMA:
        raise StoreError(
            f"{path} was written by a newer Kitserve (schema {schema}; this release knows {SCHEMA}) "
            "and is left as it is; upgrade Kitserve, or use another --home"
        )
    return int(schema)


def keep_copy(path: Path, schema: int) -> None:
    """Keep a copy beside a database of what an earlier release wrote; call it before the first change."""
    copy = path.with_name(f"{path.name}.schema-{schema}")
    partial = copy.with_name(f"{copy.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        # By a connection of its own: SQLite does not copy from one that writes.
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        shutil.copymode(path, partial)
        partial.replace(copy)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def migrate(database: sqlite3.Connection, schema: int) -> None:
    """Bring a database from `schema` to `SCHEMA`; to be called within a transaction."""
    for step in range(schema, SCHEMA):
        _STEPS[step](database)


def _from_1(database: sqlite3.Connection) -> None:
    """The config becomes a value of Kitserve's own, versions have one value for how they are run.

    Failures are dropped: each is found again, and an apply would clear them.
    """
    for table in _TABLES_OF_1:
        database.execute(table)
    database.execute("ALTER TABLE config ADD COLUMN desired TEXT NOT NULL DEFAULT '{}'")
    for generation, text in database.execute("SELECT generation, document FROM config").fetchall():
        document = _document_of_1(json.loads(text))
        row = (json.dumps(document), json.dumps(_desired_of_1(document)), generation)
        database.execute("UPDATE config SET document = ?, desired = ? WHERE generation = ?", row)
    _name_pins_of_1(database)
    for app, text in database.execute("SELECT app, document FROM versions").fetchall():
        version = json.dumps(_version_of_1(json.loads(text)))
        database.execute("UPDATE versions SET document = ? WHERE app = ?", (version, app))
    database.execute("DROP TABLE IF EXISTS failures")


def _name_pins_of_1(database: sqlite3.Connection) -> None:
    """Name pins by references in full, by which they are looked up; they were named as a user wrote them."""
    pins = database.execute(
        "SELECT reference, digest, generation, note FROM pins ORDER BY generation"
    ).fetchall()
    database.execute("DELETE FROM pins")
    for reference, *pin in pins:
        row = (str(parse_reference(reference)), *pin)
        database.execute("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?)", row)


def _document_of_1(old: Mapping[str, Any]) -> dict[str, Any]:
    """The config as its user may apply it again: the bound of the other metrics was written as null."""
    return {**old, "models": [_without_null_bounds(model) for model in old["models"]]}


def _without_null_bounds(model: Mapping[str, Any]) -> Mapping[str, Any]:
    rollout = model["rollout"]
    agreement = rollout and rollout["checks"]["agreement"]
    if not agreement:
        return model
    bounds = {name: bound for name, bound in agreement.items() if bound is not None}
    return {**model, "rollout": {**rollout, "checks": {**rollout["checks"], "agreement": bounds}}}


def _version_of_1(old: Mapping[str, Any]) -> dict[str, Any]:
    batching = {"max_batch_size": old["max_batch_size"], "max_delay": old["max_batch_delay"]}
    return {
        "app": old["app"],
        "model": old["model"],
        "reference": old["reference"],
        "runtime": old["runtime"],
        "policy": old["trust"],
        "serving": {
            "resources": {"cpus": old["cpus"], "gpus": old["gpus"]},
            "batching": batching if old["max_batch_size"] else None,
            "queue": {
                "max_requests": old["max_queued_requests"],
                "max_bytes": old["max_queued_bytes"],
                "timeout": old["timeout"],
            },
            "scaling": {
                "min": old["min_replicas"],
                "max": old["max_replicas"],
                "target_ongoing_requests": old["target_ongoing_requests"],
                "upscale_delay": old["upscale_delay"],
                "downscale_delay": old["downscale_delay"],
                "downscale_to_zero_delay": old["downscale_to_zero_delay"],
                "wake_timeout": old["wake_timeout"],
            },
        },
    }


def _desired_of_1(old: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "models": [_model_of_1(model, old["trust"]) for model in old["models"]],
        "registries": {host.lower(): options for host, options in old["registries"].items()},
        "kitops_home": old["kitops_home"],
        "cache_limit": old["cache"]["max_size"],
        "webhooks": old["webhooks"],
        "fixed": {
            "listen": _address_of_1(old["listen"]),
            "admin": _address_of_1(old["admin"]),
            "access_log": old["access_log"],
        },
    }


def _address_of_1(old: Mapping[str, Any]) -> str:
    host = f"[{old['host']}]" if ":" in old["host"] else old["host"]
    return f"{host}:{old['port']}"


def _model_of_1(old: Mapping[str, Any], trust: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": old["name"],
        "kit": old["kit"],
        "serving": {
            "resources": old["resources"],
            "batching": old["batching"],
            "queue": {**old["queue"], "timeout": old["timeout"]},
            "scaling": old["replicas"],
        },
        "runtime": None if old["runtime"] == "auto" else old["runtime"],
        "canary": old["canary"],
        "plan": None if old["rollout"] is None else _plan_of_1(old["rollout"]),
        "track": old["track"],
        "policy": _policy_of_1(
            {**trust, **{key: rule for key, rule in old["trust"].items() if rule is not None}}
        ),
    }


def _policy_of_1(old: Mapping[str, Any]) -> dict[str, Any]:
    code = old["allow_code"] or ()
    return {
        "registries": old["registries"] or (),
        "licenses": old["licenses"] or (),
        "keys": [{"name": key["name"], "pem": key["pem"].strip()} for key in old["keys"] or ()],
        "code_digests": [word for word in code if word != "signed"],
        "code_if_signed": "signed" in code,
    }


def _plan_of_1(old: Mapping[str, Any]) -> dict[str, Any]:
    sticky = old["sticky"]
    return {
        **old,
        "steps": [_step_of_1(step) for step in old["steps"]],
        "sticky": sticky and {"header": (sticky["header"] or "").lower(), "cookie": sticky["cookie"] or ""},
    }


def _step_of_1(old: Mapping[str, Any]) -> dict[str, Any]:
    match = [
        {"header": header.lower(), "value": value} for rule in old["match"] for header, value in rule.items()
    ]
    return {
        "weight": old["weight"],
        "hold": old["for"] or 0.0,
        "pause": old["pause"],
        "mirror": old["mirror"],
        "match": match,
    }


_STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = {1: _from_1}
