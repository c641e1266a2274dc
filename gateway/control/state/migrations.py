"""The steps from one schema of the gateway's database to the next.

A step works on rows and JSON alone, with no value class and no config model of this release: what the
release of its time wrote does not change any more, and neither does the step.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

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
)


def migrate(database: sqlite3.Connection, schema: int) -> None:
    """Bring a database from `schema` to `SCHEMA`; to be called within a transaction."""
    for step in range(schema, SCHEMA):
        _STEPS[step](database)


def _from_1(database: sqlite3.Connection) -> None:
    """The config becomes a value of Kitserve's own, versions have one value for how they are run.

    Failures are dropped: each is found again, and an apply would clear them.
    """
    database.execute("ALTER TABLE config ADD COLUMN desired TEXT NOT NULL DEFAULT '{}'")
    for generation, text in database.execute("SELECT generation, document FROM config").fetchall():
        desired = json.dumps(_desired_of_1(json.loads(text)))
        database.execute("UPDATE config SET desired = ? WHERE generation = ?", (desired, generation))
    for app, text in database.execute("SELECT app, document FROM versions").fetchall():
        version = json.dumps(_version_of_1(json.loads(text)))
        database.execute("UPDATE versions SET document = ? WHERE app = ?", (version, app))
    database.execute("DROP TABLE failures")


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
        "registries": old["registries"],
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
    checks, agreement = old["checks"], old["checks"]["agreement"]
    if agreement is not None:
        # The bound of the other metrics was written as null.
        bounds = {name: bound for name, bound in agreement.items() if bound is not None}
        checks = {**checks, "agreement": bounds}
    return {
        **old,
        "checks": checks,
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
