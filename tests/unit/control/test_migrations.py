"""A state that an earlier release wrote is read on: see tests/data/homes for what is in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from gateway.config.config import parse_config
from gateway.contract import AppName
from gateway.control.state import migrations
from gateway.control.state.database import AppRoute, State
from gateway.control.state.desired import desired_from
from gateway.control.state.versions import version_of
from gateway.errors import StoreError
from gateway.oci.reference import Digest, parse_reference
from gateway.rollout.documents import rollout_from_json
from gateway.rollout.state import Phase, Reason, Stage
from gateway.serving import Batching, QueueLimits, Scaling, Serving
from runtimes.base import Resources

HOME = Path(__file__).parents[2] / "data" / "homes" / "schema-1"
LAYOUT = "oci-layout:/srv/kitserve/samples:samples"
V1 = Digest.parse("sha256:702c3f942317fbbe1f30dca2f5fd2019cbfdf3e7ed7b7718d2cda6d6c56aac8d")
V2 = Digest.parse("sha256:29ffc517c883dd34033dbc81fd7b0589fb9f878de405803b10bcd3a370c043ec")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copy(HOME / "state.db", tmp_path / "state.db")
    return tmp_path / "state.db"


def test_what_the_config_asked_for_is_what_it_asks_for_now(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(path)
    monkeypatch.chdir(HOME)
    config = parse_config((HOME / "config.yaml").read_text())
    desired = state.desired()
    assert desired.generation == 5
    written = desired_from(config.rooted(Path("/srv/kitserve")))
    assert desired.models == written.models
    assert (desired.sources, desired.cache_limit) == (written.sources, written.cache_limit)
    assert (desired.webhooks, desired.fixed) == (written.webhooks, written.fixed)
    generation, document = state.document()
    assert generation == 5
    assert json.loads(document)["models"][0]["kit"] == f"{LAYOUT}/iris:v2"


def test_versions_keep_their_names_and_how_they_are_run(path: Path) -> None:
    state = State(path)
    versions = state.versions()
    names = [
        "iris-torch.v1.afee3baabba3.f18ccf6b.1",
        "iris.v1.702c3f942317.013102f1.3",
        "iris.v2.29ffc517c883.e947d1e7.5",
    ]
    assert sorted(versions) == names
    torch = versions[AppName(names[0])]
    assert torch.serving == Serving(
        Resources(2.0, 0.0),
        Batching(16, 0.005),
        QueueLimits(128, 64 * 1024 * 1024, 60.0),
        Scaling(0, 2, 4.0, 2.0, 60.0, 600.0, 30.0),
    )
    assert (torch.runtime, torch.model, torch.label) == ("torchscript", "iris-torch", "v1")
    assert versions[AppName(names[1])].digest == V1
    assert set(state.descriptions()) == set(versions)
    assert state.routes()["iris"] == AppRoute(AppName(names[1]), AppName(names[2]), 30)
    assert state.pins(5)[parse_reference(f"{LAYOUT}/iris:v2")] == V2


def test_the_versions_are_those_that_the_config_means_now(path: Path) -> None:
    """So that an upgrade of a gateway whose workers still run replaces none of them."""
    state = State(path)
    model = state.desired().model("iris")
    assert model is not None
    version = state.versions()[AppName("iris.v2.29ffc517c883.e947d1e7.5")]
    assert version.kind == version_of(model, version.reference, number=9).kind


def test_the_rollout_is_where_it_was(path: Path) -> None:
    state = State(path)
    rollout = rollout_from_json(state.rollouts()["iris"])
    assert (rollout.stage, rollout.phase, rollout.reason) == (Stage.PAUSED, Phase.PAUSED, Reason.PAUSE_STEP)
    assert (rollout.number, rollout.step, rollout.weight) == (4, 1, 30)
    assert rollout.stable == f"{LAYOUT}/iris:v1@{V1}"
    assert rollout.canary == f"{LAYOUT}/iris:v2@{V2}"
    assert len(rollout.verdicts) == 4
    model = state.desired().model("iris")
    assert model is not None
    assert rollout.plan == model.plan
    assert len(state.rollout_events("iris")) == 15


def test_a_copy_of_the_state_as_it_was_is_kept(path: Path) -> None:
    with sqlite3.connect(path) as before:
        rows = list(before.iterdump())
    before.close()
    State(path).close()
    copy = path.with_name("state.db.schema-1")
    with sqlite3.connect(copy) as after:
        assert list(after.iterdump()) == rows
    after.close()


def test_a_migration_that_fails_changes_nothing_and_can_be_done_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_old: object) -> dict[str, object]:
        raise LookupError("no such field")

    with sqlite3.connect(path) as before:
        rows = list(before.iterdump())
    before.close()
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "_version_of_1", fail)
        with pytest.raises(StoreError, match=r"state\.db cannot be used .*no such field"):
            State(path)
    with sqlite3.connect(path) as after:
        assert list(after.iterdump()) == rows
    after.close()
    state = State(path)
    assert len(state.versions()) == 3
    state.close()


def test_a_migrated_state_is_opened_again_as_it_is(path: Path) -> None:
    first = State(path)
    desired = first.desired()
    first.close()
    path.with_name("state.db.schema-1").unlink()
    second = State(path)
    assert second.desired() == desired
    assert not path.with_name("state.db.schema-1").exists()
    second.close()


def test_fields_that_this_release_does_not_know_are_passed_over(path: Path) -> None:
    """As a later release of the same schema may write them."""
    state = State(path)
    before = (state.desired(), state.versions(), state.descriptions())
    state.close()
    with sqlite3.connect(path) as opened:
        for table, column in (("config", "desired"), ("versions", "document"), ("descriptions", "document")):
            for row, text in opened.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
                document = json.dumps(_with_more(json.loads(text)))
                opened.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (document, row))
    opened.close()
    state = State(path)
    assert (state.desired(), state.versions(), state.descriptions()) == before
    state.close()


def _with_more(value: object) -> object:
    """The same JSON with a field more in every object but maps, whose keys are a user's."""
    if isinstance(value, list):
        return [_with_more(item) for item in value]
    if not isinstance(value, dict):
        return value
    maps = {"labels", "registries"}
    more = {key: item if key in maps else _with_more(item) for key, item in value.items()}
    return {**more, "of_a_later_release": {"a": 1}}
