"""HAProxy's counters, added up by version: they only grow, whatever happens to HAProxy and its backends.

A process of HAProxy begins to count at 0, and a backend of its pool is given to another version later. So
what each process has counted at each place is read again and again, and what was added since the last
time goes to the version that has the place. It is read before a place changes its owner, and before a
reload; a process from before a reload keeps the owners that it had, and is read for as long as it runs.

All this is in a file beside HAProxy's own, so a gateway that is started again goes on from there.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.edge.placement import ACTIVATOR, slot_of
from gateway.edge.stats import (
    ALL,
    CALLS,
    CONNECTIONS,
    ERROR,
    FRONTEND,
    OWN,
    QUEUED,
    REDISPATCHES,
    REFUSED,
    REJECTED,
    RETRIES,
    WORKER,
    Counts,
    PlaceCounts,
    Processes,
    key_of,
    model_of,
)
from gateway.files import replace_private
from gateway.metrics.edge_numbers import ERRORS, SOURCES, STATUS_CLASSES, EdgeNumbers
from gateway.metrics.system import KEY_REASONS, REJECTED_KINDS, EdgeSample, KeyNumbers

_NOW = (QUEUED, CONNECTIONS)
# Versions that are gone are remembered: their labels may come again, and must go on from where they were.
_MAX_OWNERS = 1000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Process:
    """What one process of HAProxy had counted when it was last read, and whose places these were."""

    owners: dict[str, str] = field(default_factory=dict)
    places: dict[str, dict[str, int]] = field(default_factory=dict)


class EdgeCounters:
    """The totals of the versions, of the models and of the frontend. Not safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._processes: dict[int, _Process] = {}
        self._totals: dict[str, Counter[str]] = {}
        self._is_read = False

    def take(
        self, processes: Processes, counts: Mapping[int, PlaceCounts], owners: Mapping[str, str]
    ) -> None:
        """Add what was counted since the last time.

        Args:
            processes: those that run.
            counts: what each process counts now; one that did not answer is missing.
            owners: the version that has each backend now.
        """
        self._read()
        for pid in processes.workers:
            process = self._processes.setdefault(pid, _Process(dict(owners)))
            if pid == processes.worker:
                process.owners = dict(owners)
            for place, place_counts in counts.get(pid, {}).items():
                self._add(process, place, place_counts)
        self._processes = {pid: self._processes[pid] for pid in processes.workers}
        self._forget_oldest(set(owners.values()))
        self._write()

    def versions(self) -> dict[str, EdgeNumbers]:
        """Return what was counted for each version, those that are gone included."""
        self._read()
        queued = self._now(QUEUED)
        return {
            owner: _numbers(totals, queued[owner])
            for owner, totals in self._totals.items()
            if owner != FRONTEND and model_of(owner) is None and key_of(owner) is None
        }

    def edge(self, is_up: bool) -> EdgeSample:
        """Return what was counted at the frontend, and of models."""
        self._read()
        models = {name: model_of(name) for name in self._totals}
        return EdgeSample(
            is_up,
            {status: self._totals.get(FRONTEND, Counter())[f"{ALL} {status}"] for status in STATUS_CLASSES},
            {model: self._totals[name][f"{ALL} 5xx"] for name, model in models.items() if model is not None},
            self._now(CONNECTIONS)[FRONTEND] if is_up else 0,
            {
                key: _key_numbers(self._totals[name])
                for name in self._totals
                if (key := key_of(name)) is not None
            },
            {kind: self._totals.get(FRONTEND, Counter())[f"{REJECTED} {kind}"] for kind in REJECTED_KINDS},
        )

    def _add(self, process: _Process, place: str, counts: Counts) -> None:
        before = process.places.get(place, {})
        process.places[place] = dict(counts)
        owner = process.owners.get(place) if slot_of(place) is not None else place
        if owner is None:
            return
        totals = self._totals.setdefault(owner, Counter())
        for name, count in counts.items():
            if name not in _NOW:
                # A count that fell began anew: an operator may clear HAProxy's counters.
                last = before.get(name, 0)
                totals[name] += count - last if count >= last else count
        for status in STATUS_CLASSES:
            # Never less than before: a worker's answer counts at its beginning, and among all at its end.
            others = totals[f"{WORKER} {status}"] + totals[f"{ACTIVATOR} {status}"]
            own = max(totals[f"{OWN} {status}"], totals[f"{ALL} {status}"] - others)
            if own:
                totals[f"{OWN} {status}"] = own

    def _now(self, name: str) -> Counter[str]:
        """Return one of the numbers that are not added up, by owner."""
        values: Counter[str] = Counter()
        for process in self._processes.values():
            for place, counts in process.places.items():
                values[process.owners.get(place, place)] += counts.get(name, 0)
        return values

    def _forget_oldest(self, present: set[str]) -> None:
        gone = [owner for owner in self._totals if owner not in present and owner != FRONTEND]
        for owner in gone[: max(0, len(self._totals) - _MAX_OWNERS)]:
            del self._totals[owner]

    def _read(self) -> None:
        """Read what an earlier gateway left, once."""
        if self._is_read:
            return
        self._is_read = True
        try:
            document: dict[str, Any] = json.loads(self._path.read_text())
            self._totals = {owner: Counter(counts) for owner, counts in document["totals"].items()}
            self._processes = {
                int(pid): _Process(process["owners"], process["places"])
                for pid, process in document["processes"].items()
            }
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("edge.counters.unreadable", extra={"reason": str(error)})

    def _write(self) -> None:
        document = {
            "totals": self._totals,
            "processes": {
                pid: {"owners": process.owners, "places": process.places}
                for pid, process in self._processes.items()
            },
        }
        replace_private(self._path, json.dumps(document, separators=(",", ":")))


def _key_numbers(totals: Mapping[str, int]) -> KeyNumbers:
    refused = {reason: totals.get(f"{REFUSED} {reason}", 0) for reason in KEY_REASONS}
    return KeyNumbers(totals.get(CALLS, 0), {reason: count for reason, count in refused.items() if count})


def _numbers(totals: Mapping[str, int], queued: int) -> EdgeNumbers:
    responses = Counter(
        {
            (source, status): totals.get(f"{source} {status}", 0)
            for source in SOURCES
            for status in STATUS_CLASSES
            if totals.get(f"{source} {status}", 0)
        }
    )
    # The edge itself never succeeds: what has status 200 is an error to a gRPC client, in headers.
    failed_grpc = responses.pop((OWN, "2xx"), 0)
    if failed_grpc:
        responses[OWN, "5xx"] += failed_grpc
    return EdgeNumbers(
        responses,
        Counter({error: totals.get(f"{ERROR} {error}", 0) for error in ERRORS}),
        totals.get(RETRIES, 0),
        totals.get(REDISPATCHES, 0),
        queued,
    )
