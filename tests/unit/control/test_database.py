from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.contract import AppName
from gateway.control.state import database
from gateway.control.state.database import AppRoute, State
from gateway.control.state.desired import Desired, DesiredModel
from gateway.control.state.migrations import SCHEMA
from gateway.control.state.versions import Kind, Version, version_of
from gateway.errors import StoreError
from gateway.kits.policy import Policy
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from runtimes.python.requirements import Sources

KIT = parse_reference("registry.test/team/iris:v1")
DIGEST, OTHER = Digest.of(b"one"), Digest.of(b"two")
PINNED = PinnedReference.of(KIT, DIGEST)
KIND = Kind("iris", "v1", DIGEST, "0a1b2c3d")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    opened = State(path)
    yield opened
    opened.close()


def desired(*names: str, generation: int = 0) -> Desired:
    return Desired(generation, tuple(DesiredModel(name, KIT) for name in names))


def apply(state: State, *names: str) -> int:
    return state.apply(desired(*names), '{"models": []}')


def version(name: str = "iris", number: int = 1) -> Version:
    return version_of(DesiredModel(name, KIT), PINNED, number)


def app(name: str) -> AppName:
    return AppName(name)


def test_a_new_one_knows_nothing(state: State) -> None:
    assert state.desired() == Desired()
    assert state.document() == (0, "{}")
    assert (state.pins(0), state.failures(), state.versions()) == ({}, {}, {})
    assert (state.routes(), state.condemned(), state.last_pin(KIT)) == ({}, frozenset(), None)


def test_each_apply_is_a_new_generation(state: State) -> None:
    assert [apply(state, "a"), apply(state, "a", "b"), apply(state, "a")] == [1, 2, 3]
    assert state.desired() == desired("a", generation=3)


def test_the_policy_of_a_model_is_kept(state: State) -> None:
    policy = Policy(("r.io",), ("MIT",), (), (DIGEST,), requirements=Sources.INDEX)
    kept = Desired(1, (DesiredModel("a", KIT, policy=policy),))
    state.apply(kept, '{"models": []}')
    assert state.desired() == kept


def test_pins_are_of_one_generation_and_the_last_is_known_under_any(state: State) -> None:
    state.pin(KIT, DIGEST, 1)
    assert (state.pins(1), state.pins(2)) == ({KIT: DIGEST}, {})
    assert state.last_pin(KIT) == DIGEST
    state.pin(KIT, OTHER, 2)
    assert (state.pins(1), state.pins(2)) == ({}, {KIT: OTHER})
    assert state.last_pin(KIT) == OTHER


def test_a_late_answer_for_a_former_config_is_not_taken(state: State) -> None:
    state.pin(KIT, OTHER, 2)
    state.pin(KIT, DIGEST, 1)
    assert state.pins(2) == {KIT: OTHER}
    assert state.last_pin(KIT) == OTHER


def test_failures_are_of_the_config_in_force_and_an_apply_clears_them(state: State) -> None:
    generation = apply(state, "a")
    state.fail(KIT, generation, "no such tag")
    state.fail(KIND, generation, "a pickle")
    state.fail(KIND, generation, "a joblib")
    assert state.failures() == {KIT: "no such tag", KIND: "a joblib"}
    apply(state, "a")
    assert state.failures() == {}
    state.fail(KIT, generation, "no such tag, said late")
    assert state.failures() == {}


def test_a_kit_of_a_model_is_forgiven_under_whatever_settings(state: State) -> None:
    generation = apply(state, "a")
    others = [
        Kind("lilac", "v1", DIGEST, "0"),
        Kind("iris", "v2", DIGEST, "0"),
        Kind("iris", "v1", OTHER, "0"),
    ]
    for kind in (KIND, Kind("iris", "v1", DIGEST, "0"), *others):
        state.fail(kind, generation, "no")
    state.forgive("iris", PINNED)
    assert set(state.failures()) == set(others)


def test_versions_are_kept_condemned_and_dropped(state: State) -> None:
    one, two = version("one"), version("two")
    for each in (one, two, two):
        state.keep_version(each)
    assert state.versions() == {one.app: one, two.app: two}
    state.condemn_version(one.app)
    state.condemn_version(app("unknown"))
    assert state.condemned() == {one.app}
    assert set(state.versions()) == {one.app, two.app}
    state.drop_version(one.app)
    assert state.versions() == {two.app: two}
    assert state.condemned() == frozenset()


def test_what_stays_is_read_once_however_often_a_tick_asks_for_it(state: State) -> None:
    apply(state, "iris")
    state.keep_version(version())
    wanted, deployed = state.desired(), state.versions()
    assert state.desired() is wanted
    assert state.versions()[version().app] is deployed[version().app]
    apply(state, "iris", "lily")
    assert [model.name for model in state.desired().models] == ["iris", "lily"]


def test_how_the_last_kits_of_a_model_were_run_outlives_their_versions(state: State) -> None:
    versions = [
        version_of(
            DesiredModel("iris", KIT, runtime=f"runtime-{number}"), PinnedReference.of(KIT, digest), number
        )
        for number, digest in enumerate((DIGEST, OTHER, DIGEST, *(Digest.of(bytes([n])) for n in range(4))))
    ]
    other = version("other")
    for each in (other, *versions):
        state.keep_version(each)
    assert state.earlier_versions() == {}
    state.condemn_version(other.app)
    for each in versions[:3]:
        state.drop_version(each.app)
    assert state.earlier_versions() == {
        ("other", PINNED): other,
        ("iris", versions[1].reference): versions[1],
        ("iris", PINNED): versions[2],
    }
    for each in versions[3:]:
        state.drop_version(each.app)
    assert set(state.earlier_versions().values()) == {other, *versions[2:]}, "five of each model"


def test_routes_are_replaced_as_a_whole(state: State) -> None:
    state.save_routes({"a": AppRoute(app("a.1"), app("a.2"), 20), "b": AppRoute()})
    assert state.routes() == {"a": AppRoute(app("a.1"), app("a.2"), 20), "b": AppRoute()}
    state.save_routes({"b": AppRoute(app("b.1"))})
    assert state.routes() == {"b": AppRoute(app("b.1"))}


def test_what_kits_took_of_gpus_is_kept_of_those_that_were_measured_last(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_MEASURED_KEPT", 3)
    for size, kit in enumerate(("a", "b", "c", "a", "d")):
        state.measure_gpu(kit, size)
    assert state.gpu_memory() == {"c": 2, "a": 3, "d": 4}


def test_one_start_of_kitserve_is_told_from_the_next(state: State) -> None:
    assert state.begin("monday")
    assert not state.is_configured()
    apply(state, "a")
    assert state.is_configured()
    assert not state.begin("monday")
    assert state.is_configured()
    assert state.begin("tuesday")
    assert not state.is_configured(), "the config of another start is not in force before an apply"
    assert state.desired() == desired("a", generation=1)


def test_everything_is_there_after_a_restart(path: Path) -> None:
    state = State(path)
    state.begin("monday")
    apply(state, "a")
    state.pin(KIT, DIGEST, 1)
    state.fail(KIND, 1, "broken")
    state.keep_version(version())
    state.condemn_version(version().app)
    state.save_routes({"a": AppRoute(version().app)})
    state.close()
    again = State(path)
    assert not again.begin("monday")
    assert again.is_configured()
    assert again.desired() == desired("a", generation=1)
    assert again.pins(1) == {KIT: DIGEST}
    assert again.failures() == {KIND: "broken"}
    assert again.versions() == {version().app: version()}
    assert again.condemned() == {version().app}
    assert again.routes() == {"a": AppRoute(version().app)}
    assert apply(again) == 2
    again.close()


def test_what_a_newer_kitserve_wrote_is_left_alone(path: Path) -> None:
    State(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE about SET value = ? WHERE key = 'schema'", (SCHEMA + 1,))
        database.execute("CREATE TABLE of_the_future (field TEXT)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"written by a newer Kitserve \(schema {SCHEMA + 1}; .*upgrade"):
        State(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_process_killed_while_it_made_the_file_left_one_that_can_be_used(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
    database.close()
    assert path.stat().st_size
    state = State(path)
    assert apply(state, "a") == 1
    state.close()


@pytest.mark.parametrize(
    "keep", [0, 100, 4096], ids=["all of it", "all but its head", "all but its first page"]
)
def test_a_damaged_file_is_named(path: Path, keep: int) -> None:
    State(path).close()
    data = path.read_bytes()
    path.write_bytes(data[:keep] + b"\xa5" * (len(data) - keep))
    with pytest.raises(StoreError, match=r"state\.db"):
        State(path)


def test_a_directory_in_its_place_is_named(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"state\.db cannot be used"):
        State(path)


def test_many_threads_may_write_and_read(state: State) -> None:
    apply(state, "a")

    def work(name: str) -> int:
        for number in range(50):
            state.keep_version(version(name, number))
            state.fail(Kind(name, "v1", DIGEST, f"{number:08x}"), 1, "no")
            assert len(state.versions()) > number
            apply(state, name)
        return len([name_of_app for name_of_app in state.versions() if name_of_app.startswith(name)])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, "abcd")) == [50] * 4
    assert state.desired().generation == 201
    assert len(state.versions()) == 200


KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.control.state.database import AppRoute, State

class Rows(dict):
    def items(self):
        yield "a", AppRoute("a.2")
        os.kill(os.getpid(), signal.SIGKILL)

State(Path(sys.argv[1])).save_routes(Rows())
"""


def test_a_process_killed_in_the_middle_of_a_change_changes_nothing(path: Path) -> None:
    state = State(path)
    state.save_routes({"a": AppRoute(app("a.1")), "b": AppRoute(app("b.1"))})
    state.close()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    again = State(path)
    assert again.routes() == {"a": AppRoute(app("a.1")), "b": AppRoute(app("b.1"))}
    again.save_routes({"a": AppRoute(app("a.3"))})
    again.close()


def full(path: str) -> None:
    """A process whose disk gets full, and has room again; run by the test below."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    state = State(Path(path))
    apply(state, "a")
    written = Path(f"{path}-wal").stat().st_size
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 4096, most))
    for _ in range(3):
        with pytest.raises(StoreError, match="is the disk full"):
            state.fail(KIND, 1, "x" * 100_000)
    assert state.failures() == {}
    assert state.desired() == desired("a", generation=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    state.fail(KIND, 1, "broken")
    assert state.failures() == {KIND: "broken"}
    state.close()


def test_a_full_disk_is_named_and_over_when_there_is_room_again(path: Path) -> None:
    command = f"from tests.unit.control.test_database import full; full({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
