"""What one HAProxy process has counted since it started, read from its answers. Pure.

Of `show stat` (management guide 2.8, section 9.1) these columns are used: `hrsp_1xx` to `hrsp_5xx`, `econ`,
`eresp`, `cli_abrt`, `srv_abrt`, `wretr`, `wredis`, `dcon`, `dses`, `dreq`, and, as they are now, `qcur` and
`scur`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.edge.keys import NOBODY
from gateway.edge.placement import ACTIVATOR, backend_name, slot_of
from gateway.metrics.edge_numbers import STATUS_CLASSES

FRONTEND = "data"
"""The frontend that takes the calls of clients, and the place of what it counts."""
UNAVAILABLE = "answers"
"""The backend, and its table, in which calls to models without a version are counted."""
ALL, WORKER, OWN = "all", "worker", "edge"
QUEUED, CONNECTIONS = "queued", "connections"
"""How many there are now; all else only grows."""
REJECTED = "rejected"
"""What was closed unanswered; followed by what it was."""
ERROR = "error"
RETRIES, REDISPATCHES = "retries", "redispatches"
CALLS = "calls"
REFUSED = "refused"
"""How many calls with a key came, and how many were turned away; the second is followed by the reason."""
_MODEL_PLACE = "model:"
_KEY_PLACE = "key:"
_OF_BACKEND = {
    f"{ERROR} connect": "econ",
    f"{ERROR} response": "eresp",
    f"{ERROR} client_abort": "cli_abrt",
    f"{ERROR} server_abort": "srv_abrt",
    RETRIES: "wretr",
    REDISPATCHES: "wredis",
    QUEUED: "qcur",
}

Counts = Mapping[str, int]
"""Numbers by name; a number of answers is named by who gave them and by the class of status: `worker 5xx`."""
PlaceCounts = Mapping[str, Counts]
"""Counts by place: a backend of the pool, `FRONTEND`, or the place of a model (`model_place`)."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one HAProxy, by id."""

    master: int
    worker: int
    """The one that takes new calls."""
    old_workers: tuple[int, ...] = ()
    """Those of before a reload, which finish their calls."""

    @property
    def workers(self) -> tuple[int, ...]:
        """All that count calls."""
        return (self.worker, *self.old_workers)

    @property
    def all(self) -> tuple[int, ...]:
        """Every process."""
        return (self.master, *self.workers)


def read_processes(text: str) -> Processes | None:
    """Return the processes, by the answer to `show proc` of the master; None where no worker runs."""
    current, _, old = text.partition("# old workers")
    masters = [pid for pid, kind in _processes(current) if kind == "master"]
    workers = [pid for pid, kind in _processes(current) if kind == "worker"]
    if not masters or not workers:
        return None
    return Processes(masters[0], workers[0], tuple(pid for pid, kind in _processes(old) if kind == "worker"))


def _processes(text: str) -> Iterator[tuple[int, str]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0].isdigit():
            yield int(words[0]), words[1]


def read_stats(text: str) -> PlaceCounts:
    """Return what is counted at each place that calls came to, by the answer to `show stat`."""
    header, *lines = text.strip().removeprefix("# ").splitlines() or [""]
    columns = header.split(",")
    places: dict[str, dict[str, int]] = {}
    for line in lines:
        # All columns that are read come before the first that may have a comma in it.
        proxy, server, *_ = values = line.split(",")
        slot = slot_of(proxy)
        is_slot = slot is not None
        if not is_slot and (proxy, server) != (FRONTEND, "FRONTEND"):
            continue
        row = dict(zip(columns, values, strict=False))
        if not is_slot:
            counts = {**_answers(row, ALL), **_frontend(row)}
        elif server == "BACKEND":
            counts = {**_answers(row, ALL), **{name: _number(row, key) for name, key in _OF_BACKEND.items()}}
        else:
            counts = _answers(row, ACTIVATOR if server == ACTIVATOR else WORKER)
        # Both backends of a slot are one place.
        place = places.setdefault(proxy if slot is None else backend_name(slot), {})
        for name, count in counts.items():
            if count:
                place[name] = place.get(name, 0) + count
    return {place: counts for place, counts in places.items() if counts}


def read_unavailable(text: str) -> PlaceCounts:
    """Return how many calls to each model found no version, by the answer to `show table`."""
    places: dict[str, Counts] = {}
    for line in text.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if "key" in fields and fields.get("http_req_cnt", "").isdigit():
            places[model_place(fields["key"])] = {f"{ALL} 5xx": int(fields["http_req_cnt"])}
    return places


def read_keys(text: str) -> PlaceCounts:
    """Return how many calls came with each key, by the answer to `show table`."""
    places: dict[str, Counts] = {}
    for line in text.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if "key" not in fields:
            continue
        # Without a valid key, nothing but that can be why.
        reasons = ("unknown", "unknown") if fields["key"] == NOBODY else ("rate", "rights")
        numbers = {CALLS: _number(fields, "http_req_cnt")}
        for reason, column in zip(reasons, ("gpc0", "gpc1"), strict=True):
            name = f"{REFUSED} {reason}"
            numbers[name] = numbers.get(name, 0) + _number(fields, column)
        name = "" if fields["key"] == NOBODY else fields["key"]
        places[f"{_KEY_PLACE}{name}"] = {name: number for name, number in numbers.items() if number}
    return places


def key_of(place: str) -> str | None:
    """Return the name of the key whose place this is, "" for calls without one; None for another place."""
    return place.removeprefix(_KEY_PLACE) if place.startswith(_KEY_PLACE) else None


def model_place(model: str) -> str:
    """Return the place where calls to a model that found no version are counted."""
    return f"{_MODEL_PLACE}{model}"


def model_of(place: str) -> str | None:
    """Return the model whose place this is; None where it is a place of another kind."""
    return place.removeprefix(_MODEL_PLACE) if place.startswith(_MODEL_PLACE) else None


def _answers(row: Mapping[str, str], source: str) -> dict[str, int]:
    return {f"{source} {status}": _number(row, f"hrsp_{status}") for status in STATUS_CLASSES}


def _frontend(row: Mapping[str, str]) -> dict[str, int]:
    return {
        CONNECTIONS: _number(row, "scur"),
        f"{REJECTED} connection": _number(row, "dcon") + _number(row, "dses"),
        f"{REJECTED} call": _number(row, "dreq"),
    }


def _number(row: Mapping[str, str], column: str) -> int:
    return int(row.get(column) or 0)
