"""The map from which HAProxy picks a backend for each call: its keys, its entries, their lookup. Pure.

    :ready             `true` when every model can be called
    :any-ready         `true` when one model at least can be called, or there is none
    :only              the name of the only model, where there is exactly one
    :watched           what HAProxy looks at of a call, as one word
    :prefix:BACKEND    where the same workers are chosen by how a call begins; only for versions with several
    MODEL:state        why no version of the model answers, as a `RouteState`; for every model there is
    MODEL:stable       the backend of its stable version
    MODEL:canary       the backend of its canary
    MODEL:weight       the canary's percent of the calls; 0 also where calls are judged that all go to stable
    MODEL:sticky       `header:NAME` or `cookie:NAME`: callers with the same value get the same version
    MODEL:match:NAME   the value of the header NAME that leads to the canary: `=VALUE`, or `*` for any
    MODEL/NAME         the backend of the version with that tag, digest or 12-digit prefix

A model's name has neither `:` nor `/` in it. No other module writes such a key, or takes one apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from gateway.edge.haproxy_map import check_entries
from gateway.edge.placement import backend_name, prefix_backend_name
from gateway.edge.routes import Route, RoutingTable

READY = ":ready"
ANY_READY = ":any-ready"
ONLY = ":only"
WATCHED = ":watched"
ANY_VALUE = "*"
EXACT_VALUE = "="
PREFIX = ":prefix:"
_NOTHING_WATCHED = "-"
_WATCHED_CHARACTERS = 4000


class Key(StrEnum):
    """What a model's name is followed by in a key; after MATCH and VERSION comes one more name."""

    STATE = ":state"
    STABLE = ":stable"
    CANARY = ":canary"
    WEIGHT = ":weight"
    STICKY = ":sticky"
    MATCH = ":match:"
    VERSION = "/"


def map_key(model: str, key: Key, name: str = "") -> str:
    """Return the key under which a model's entry stands."""
    return f"{model}{key}{name}"


def lookup(path: Path, key: Key, name: str = "", variable: str = "") -> str:
    """Return HAProxy's expression for a model's entry in the map at `path`; the model is in `txn.model`.

    The key's last name is either `name` or what HAProxy's variable `variable` holds.
    """
    ending = f"{key}{name},{variable}" if variable else f"{key}{name}"
    return f"var(txn.model),concat({ending}),map({path})"


def prefix_lookup(path: Path) -> str:
    """Return HAProxy's expression for the `PREFIX` entry of the backend that is in `txn.backend`."""
    return f"str({PREFIX}),concat(,txn.backend),map({path})"


def map_entries(table: RoutingTable, slots: Mapping[str, int]) -> dict[str, str]:
    """Return the routing table as the entries of the map.

    Raises:
        EdgeError: when a model has an entry that the map cannot hold.
    """
    are_callable = [route.stable is not None and route.stable.is_callable for route in table.routes]
    entries = {
        READY: _word(all(are_callable)),
        ANY_READY: _word(any(are_callable) or not are_callable),
        WATCHED: _watched_word(watched(table)),
    }
    if len(table.routes) == 1:
        entries[ONLY] = table.routes[0].model
    for route in table.routes:
        of_route = _route_entries(route, slots)
        check_entries(f"model {route.model!r}", of_route)
        entries |= of_route
        for backend in route.backends():
            if len(backend.servers) > 1:
                slot = slots[backend.version]
                entries[f"{PREFIX}{backend_name(slot)}"] = prefix_backend_name(slot)
    return entries


def without_canary(entries: Mapping[str, str], model: str) -> dict[str, str]:
    """Return the entries with a canary that gets no unversioned calls: no percent, and none by a header."""
    weight, matches = map_key(model, Key.WEIGHT), map_key(model, Key.MATCH)
    return {
        key: "0" if key == weight else value for key, value in entries.items() if not key.startswith(matches)
    }


def watched(table: RoutingTable) -> tuple[tuple[str, str], ...]:
    """Return what HAProxy has to look at of a call, by kind and name, for all models together."""
    return tuple(sorted({name for route in table.routes for name in route.rules.watched}))


def sticky_word(kind: str, name: str) -> str:
    """Return a header or a cookie as the map names it."""
    return f"{kind}:{name}"


def _route_entries(route: Route, slots: Mapping[str, int]) -> dict[str, str]:
    model = route.model
    entries = {map_key(model, Key.STATE): route.state.value}
    for key, backend in ((Key.CANARY, route.canary), (Key.STABLE, route.stable)):
        if backend is None:
            continue
        name = backend_name(slots[backend.version])
        entries[map_key(model, key)] = name
        # A name that both versions have is the stable one's, which comes last.
        entries |= {map_key(model, Key.VERSION, version): name for version in backend.names}
    if route.canary is not None or route.rules.is_judged:
        entries[map_key(model, Key.WEIGHT)] = "0" if route.canary is None else str(route.weight)
        if route.rules.sticky is not None:
            entries[map_key(model, Key.STICKY)] = sticky_word(*route.rules.sticky)
    if route.canary is not None:
        for header, value in route.rules.match:
            entries[map_key(model, Key.MATCH, header)] = f"{EXACT_VALUE}{value}" if value else ANY_VALUE
    return entries


def _word(is_true: bool) -> str:
    return str(is_true).lower()


def _watched_word(names: Iterable[tuple[str, str]]) -> str:
    """Return one word that differs for different names; it is only compared."""
    word = ",".join(f"{kind}:{name}" for kind, name in names) or _NOTHING_WATCHED
    return word if len(word) <= _WATCHED_CHARACTERS else hashlib.sha256(word.encode()).hexdigest()
