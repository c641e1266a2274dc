"""The form in which a rollout is stored: JSON, read with tolerance.

A field that this release does not know is passed over, and one that is missing has its default. What needs
more than that is a migration from one schema to the next. It works on JSON alone, as what an earlier
release wrote does not change any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gateway.errors import InvalidReference, StoreError
from gateway.rollout.state import Rollout

ROLLOUT_SCHEMA = 2
"""The schema that this release writes."""

FAULTS = (ValueError, LookupError, TypeError, AttributeError, InvalidReference)
"""What is raised where something stored is not what was written."""

_ROLLOUT = TypeAdapter(Rollout)


@contextmanager
def reading(subject: str) -> Iterator[None]:
    """Raise StoreError, which names `subject`, where something stored cannot be read within the block."""
    try:
        yield
    except FAULTS as error:
        raise StoreError(f"{subject} in the gateway's state cannot be read: {explain(error)}") from error


def explain(error: Exception) -> str:
    """Return in one line what is wrong with something stored."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False)[0]
        return ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def rollout_to_json(rollout: Rollout) -> str:
    """Write a rollout for the gateway's state."""
    return json.dumps({"schema": ROLLOUT_SCHEMA, **_ROLLOUT.dump_python(rollout, mode="json")})


def rollout_from_json(text: str) -> Rollout:
    """Read what `rollout_to_json` wrote, in this release or an earlier one.

    Raises:
        StoreError: when a newer Kitserve wrote it, or it is no rollout.
    """
    with reading("a rollout"):
        document = json.loads(text)
        schema = document["schema"]
        if schema <= ROLLOUT_SCHEMA:
            for earlier in range(schema, ROLLOUT_SCHEMA):
                document = _MIGRATIONS[earlier](document)
            # As JSON: there a list is a tuple, and a word is a value of its enum.
            return _ROLLOUT.validate_json(json.dumps(document))
    raise StoreError(f"a newer Kitserve wrote this rollout (schema {schema}); upgrade")


def _from_schema_1(rollout: dict[str, Any]) -> dict[str, Any]:
    """Give each limit a field of its own; it was `least` whatever the metric."""
    plan, evidence = rollout["plan"], rollout["evidence"]
    checks = plan["checks"]
    if checks["agreement"] is not None:
        checks = {**checks, "agreement": _with_limit(checks["agreement"])}
    golden = plan["golden"] and _with_limit(plan["golden"])
    return {
        **rollout,
        "plan": {**plan, "checks": checks, "golden": golden},
        "evidence": {**evidence, "mirrored": evidence["pairs"]},
    }


def _with_limit(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {**rules, "max" if rules["metric"] == "psi" else "min": rules["least"]}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_schema_1}
