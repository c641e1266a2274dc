"""A home that the last release left in the middle of a rollout: this one goes on with the same rollout.

See tests/data/homes for what is in it, and how it was made.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import yaml

from tests.support.kitserve import Running, running
from tests.support.load import Load

HOME = Path(__file__).parents[1] / "data" / "homes" / "schema-1"
LAYOUT = "oci-layout:/srv/kitserve/samples:"
TABLES = ("config", "pins", "versions", "descriptions", "failures", "rollouts", "rollout_events")


def old_home(kitserve: Running, layout: Path) -> None:
    """Lay out the home, whose references name a directory of the machine that it was made on."""
    kitserve.home.mkdir(parents=True)
    shutil.copy(HOME / "state.db", kitserve.home)
    with sqlite3.connect(kitserve.home / "state.db") as database:
        for table in TABLES:
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            for name in names:
                database.execute(
                    f"UPDATE OR REPLACE {table} SET {name} = replace({name}, ?, ?)"
                    f" WHERE typeof({name}) = 'text'",
                    (LAYOUT, f"oci-layout:{layout}:"),
                )
    database.close()


def configure(kitserve: Running, layout: Path) -> None:
    """Ask for the model of the home's config that is in the middle of its rollout, under the same policy."""
    text = (HOME / "config.yaml").read_text().replace(LAYOUT, f"oci-layout:{layout}:")
    document = yaml.safe_load(text)
    model = document["models"][0]
    kitserve.models = {model.pop("name"): model}
    kitserve.settings = {"trust": document["trust"]}


def test_the_same_rollout_goes_on_and_ends(tmp_path: Path, layout: Path) -> None:
    with running(tmp_path) as kitserve:
        old_home(kitserve, layout)
        configure(kitserve, layout)
        for _ in range(2):  # the second start is of a home that was migrated
            kitserve.start()
            kitserve.wait(lambda _: kitserve.model("iris")["state"] == "ready")
            status = kitserve.model("iris")["rollout"]
            assert (status["number"], status["phase"], status["reason"]) == (4, "Paused", "CanaryPauseStep")
            assert (status["step"], status["weight"], status["restarts"]) == (2, 30, 0)
            versions = kitserve.model("iris")["versions"]
            assert [(version["app"], version["role"], version["weight"]) for version in versions] == [
                ("iris.v1.702c3f942317.013102f1.3", "stable", 70),
                ("iris.v2.29ffc517c883.e947d1e7.5", "canary", 30),
            ]
            assert kitserve.infer("iris").status_code == 200
            if kitserve.home.joinpath("state.db.schema-1").exists():
                kitserve.home.joinpath("state.db.schema-1").rename(kitserve.home / "copy.db")
                assert kitserve.stop()[0] == 0
        assert not kitserve.home.joinpath("state.db.schema-1").exists(), "it is migrated once"
        with Load(f"{kitserve.url}/v2/models/iris/infer", clients=2, pause=0.005) as load:
            kitserve.run("rollout", "promote", "iris", "--admin", kitserve.admin)
            kitserve.wait(lambda _: kitserve.model("iris")["rollout"]["reason"] == "RolloutCompleted", 60)
        assert load.failures == {}
        assert kitserve.model("iris")["rollout"]["stable"]["tag"] == "v2"
        history = kitserve.run("rollout", "history", "iris", "--admin", kitserve.admin, "-o", "json")
        events = json.loads(history.stdout)
        assert [event["number"] for event in events][-1] == 1
        assert [event["reason"] for event in events[:3]] == [
            "RolloutCompleted",
            "StepRunning",
            "CanaryPauseStep",
        ]


def test_a_home_of_a_later_release_is_refused_and_left_as_it_is(tmp_path: Path, layout: Path) -> None:
    kitserve = Running(tmp_path)
    old_home(kitserve, layout)
    state = kitserve.home / "state.db"
    with sqlite3.connect(state) as database:
        database.execute("UPDATE about SET value = '99' WHERE key = 'schema'")
    database.close()
    before = state.read_bytes()
    configure(kitserve, layout)
    kitserve.write()
    done = kitserve.run_anew("serve", str(kitserve.file), "--home", str(kitserve.home), check=False)
    assert done.returncode == 1
    message = " ".join(done.stderr.split())
    assert "was written by a newer Kitserve (schema 99" in message
    assert "upgrade Kitserve, or use another --home" in message
    assert "Traceback" not in done.stderr
    assert state.read_bytes() == before
