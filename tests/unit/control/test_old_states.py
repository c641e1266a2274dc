"""States of schema 1 that are rare or broken: what an earlier release may have left besides the kept home."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.config import parse_config
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, desired_from
from gateway.errors import StoreError
from gateway.oci.reference import Digest, parse_reference

HOME = Path(__file__).parents[2] / "data" / "homes" / "schema-1"
CONFIGS: list[dict[str, Any]] = json.loads((HOME / "configs.json").read_text("utf-8"))
DIGEST = Digest.of(b"a")
TABLES = (
    "about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "config (generation INTEGER PRIMARY KEY, document TEXT NOT NULL)",
    "pins (reference TEXT PRIMARY KEY, digest TEXT NOT NULL, generation INTEGER NOT NULL,"
    " note TEXT NOT NULL)",
    "versions (app TEXT PRIMARY KEY, document TEXT NOT NULL, condemned INTEGER NOT NULL DEFAULT 0)",
    "descriptions (app TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "routes (model TEXT PRIMARY KEY, stable TEXT, canary TEXT, weight INTEGER NOT NULL)",
    "failures (subject TEXT PRIMARY KEY, generation INTEGER NOT NULL, reason TEXT NOT NULL)",
    "rollouts (model TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "rollout_events (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, document TEXT NOT NULL)",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copy(HOME / "state.db", tmp_path / "state.db")
    return tmp_path / "state.db"


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["about"])
def test_every_form_of_a_config_asks_for_what_it_asked_for(path: Path, config: dict[str, Any]) -> None:
    change(path, "UPDATE config SET document = ?", json.dumps(config["document"]))
    state = State(path)
    written = parse_config(json.dumps(config["written"])).rooted(Path("/srv/wörk"))
    assert state.desired() == replace(desired_from(written), generation=5)
    shown = parse_config(state.document()[1])
    assert desired_from(shown) == desired_from(written)
    state.close()


def test_a_pin_is_found_by_its_reference_however_it_was_written(path: Path) -> None:
    names = ("iris", "kit:mnist", "Registry.Test/team/iris", "oci-layout:/srv/./kits:iris")
    for name in names:
        change(path, "INSERT INTO pins VALUES (?, ?, 4, 'kept')", name, str(DIGEST))
    change(path, "INSERT INTO pins VALUES ('kit:iris', ?, 3, '')", str(Digest.of(b"older")))
    state = State(path)
    for name in names:
        reference = parse_reference(name)
        assert (state.last_pin(reference), state.pins(4)[reference]) == (DIGEST, DIGEST)
        assert state.notes(4)[reference] == "kept"
    state.close()


@pytest.mark.parametrize("count", range(len(TABLES) + 1))
def test_a_state_that_was_never_finished_is_used(tmp_path: Path, count: int) -> None:
    path = tmp_path / "state.db"
    for table in TABLES[:count]:
        change(path, f"CREATE TABLE {table}")
    state = State(path)
    assert state.desired() == Desired()
    assert state.apply(Desired(), "{}") == 1
    state.pin(parse_reference("iris"), DIGEST, 1)
    assert (state.failures(), state.versions(), state.rollouts()) == ({}, {}, {})
    state.close()


def test_tables_that_are_not_ours_are_left_as_they_are(path: Path) -> None:
    change(path, "CREATE TABLE notes AS SELECT 'mine' AS note")
    State(path).close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT note FROM notes").fetchall() == [("mine",)]


@pytest.mark.parametrize("schema", ["", "one", "0", "-1", "1.5", "²"])
def test_a_schema_that_is_no_number_is_refused_and_nothing_changed(path: Path, schema: str) -> None:
    change(path, "UPDATE about SET value = ? WHERE key = 'schema'", schema)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is no number of a schema"):
        State(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["state.db"]


def test_processes_that_open_it_at_the_same_time_migrate_it_once(path: Path) -> None:
    before = rows(path)
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: State(path), range(4)))
    for state in states:
        assert len(state.versions()) == 3
        state.close()
    assert rows(path.with_name("state.db.schema-1")) == before


def test_what_a_killed_gateway_left_in_the_log_is_copied_and_migrated_too(path: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_autocheckpoint = 0")
        with database:
            database.execute("INSERT INTO pins VALUES ('iris', ?, 5, '')", (str(DIGEST),))
        for name in ("state.db", "state.db-wal"):
            shutil.copy(path.with_name(name), killed / name)
    before = rows(path)
    state = State(killed / "state.db")
    assert state.last_pin(parse_reference("iris")) == DIGEST
    state.close()
    assert rows(killed / "state.db.schema-1") == before


def fill(path: str) -> None:
    """A process whose disk has no room for the copy; run by the test below."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, most))
    with pytest.raises(StoreError, match="is the disk full"):
        State(Path(path))


def test_without_room_for_the_copy_nothing_is_changed_or_left(path: Path) -> None:
    before = rows(path)
    command = f"from tests.unit.control.test_old_states import fill; fill({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in path.parent.iterdir() if "schema-1" in file.name] == []
    assert rows(path) == before
    State(path).close()


def test_what_an_earlier_try_left_is_replaced_and_the_copy_is_as_private(path: Path) -> None:
    before = rows(path)
    path.chmod(0o600)
    for name in ("state.db.schema-1", "state.db.schema-1.partial", "state.db.schema-1.partial-journal"):
        path.with_name(name).write_text("left")
    State(path).close()
    copy = path.with_name("state.db.schema-1")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert rows(copy) == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db", copy.name]


@pytest.mark.parametrize("document", ["{", "[]", "{}", '{"models": [[]]}', '{"models": 1}', "null"])
@pytest.mark.parametrize("table", ["config", "versions"])
def test_what_cannot_be_migrated_is_told_in_one_line(path: Path, table: str, document: str) -> None:
    change(path, f"UPDATE {table} SET document = ?", document)
    with pytest.raises(StoreError, match=r"state\.db cannot be used as the gateway's state: .+") as raised:
        State(path)
    assert "\n" not in str(raised.value)


def read_all(state: State, generation: int) -> None:
    for read in (state.desired, state.versions, state.descriptions, state.failures):
        read()
    state.pins(generation)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE config SET desired = ?", "the config"),
        ("UPDATE versions SET document = ?", "a version"),
        ("UPDATE descriptions SET document = ?", "a description of a model"),
        ("UPDATE pins SET digest = ?", "a pin"),
        ("UPDATE OR REPLACE pins SET reference = ?", "a pin"),
        ("INSERT INTO kit_failures VALUES (?, '')", "a failure"),
    ],
)
@pytest.mark.parametrize("text", ["{", "[]", '{"models": [{}], "platform": 1}'])
def test_what_cannot_be_read_is_told_in_one_line(path: Path, statement: str, words: str, text: str) -> None:
    state = State(path)
    generation = state.desired().generation
    change(path, statement, text)
    with pytest.raises(StoreError, match=f"{words} in the gateway's state cannot be read: .+") as raised:
        read_all(state, generation)
    assert "\n" not in str(raised.value)
    state.close()
