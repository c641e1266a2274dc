"""Changes and deaths under a steady load of calls, none of which may fail."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.kitserve import Running
from tests.support.load import Load
from tests.support.pickles import code_kit
from tests.support.ports import free_port


def kit(layout: Path, tag: str) -> str:
    return f"oci-layout:{layout}:samples/iris:{tag}"


def test_another_tag_moves_the_traffic(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"moved": {"kit": kit(layout, "v1")}}
    kitserve.apply()
    with Load(f"{kitserve.url}/v2/models/moved/infer", pause=0.005) as load:
        for tag in ("v2", "v1", "v2"):
            kitserve.models["moved"]["kit"] = kit(layout, tag)
            kitserve.apply()
            load.wait_for(tag)
            time.sleep(0.3)
            load.forget()
            time.sleep(0.3)
            assert set(load.versions) == {tag}
        kitserve.wait(lambda _: len(kitserve.workers("moved")) == 1, 30)
    assert load.failures == {}
    assert load.outcomes["200"] > 500


def test_a_canary_takes_its_share_and_both_tags_answer(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"split": {"kit": kit(layout, "v1")}}
    kitserve.apply()
    with Load(f"{kitserve.url}/v2/models/split/infer", pause=0.002) as load:
        workers: set[int] = set()
        for weight in (20, 60, 5):
            kitserve.models["split"]["canary"] = {"kit": kit(layout, "v2"), "weight": weight}
            kitserve.apply()
            if workers:
                assert set(kitserve.workers("split")) == workers, "a weight needs no restart"
            workers = set(kitserve.workers("split"))
            load.forget()
            time.sleep(2)
            share = load.versions["v2"] / load.versions.total()
            assert abs(share - weight / 100) < 0.06, load.versions
            for tag, role in (("v1", "stable"), ("v2", "canary")):
                answer = kitserve.infer("split", version=tag)
                assert answer.json()["model_version"] == tag
                assert answer.headers["ModelKit-Role"] == role
        shown = kitserve.model("split")["versions"]
        assert [(version["tag"], version["role"], version["weight"]) for version in shown] == [
            ("v1", "stable", 95),
            ("v2", "canary", 5),
        ]
        kitserve.models["split"] = {"kit": kit(layout, "v2")}
        kitserve.apply()
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v2"}
        assert set(kitserve.workers("split")) <= workers, "a promoted canary is not loaded again"
    assert load.failures == {}


def replicas(kitserve: Running) -> int:
    return int(kitserve.model("two")["versions"][0]["replicas"])


def test_a_killed_worker_is_replaced_and_no_call_fails(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"two": {"kit": kit(layout, "v1"), "replicas": 2}}
    kitserve.apply()
    kitserve.wait(lambda _: replicas(kitserve) == 2)
    with Load(f"{kitserve.url}/v2/models/two/infer", clients=8, pause=0.005) as load:
        load.wait_for("v1")
        for _ in range(2):
            events = Counter(kitserve.events())
            os.kill(min(kitserve.workers("two")), signal.SIGKILL)
            # A quick successor may be ready before the dead one is noticed: two workers, three, then two.
            expected = events + Counter(["worker.lost", "worker.ready"])
            kitserve.wait(lambda _, expected=expected: Counter(kitserve.events()) >= expected, 60)
            kitserve.wait(lambda _: replicas(kitserve) == 2)
    assert load.failures == {}
    assert load.outcomes["200"] > 1000


def _settled(kitserve: Running) -> dict[str, Any]:
    """Return what is told of a model, but for its workers' resident memory, which calls change."""
    model = kitserve.model("steady")
    for version in model["versions"]:
        for worker in version["workers"]:
            assert worker.pop("memory_bytes") > 0
    return model


def test_a_killed_gateway_comes_back_to_the_same_state(kitserve: Running, layout: Path) -> None:
    kitserve.models = {
        "steady": {"kit": kit(layout, "v1"), "canary": {"kit": kit(layout, "v2"), "weight": 30}}
    }
    kitserve.apply()
    before = _settled(kitserve)
    workers = set(kitserve.workers("steady"))
    with Load(f"{kitserve.url}/v2/models/steady/infer", pause=0.005) as load:
        (gateway,) = kitserve.gateway()
        os.kill(gateway, signal.SIGKILL)
        kitserve.wait(lambda status: kitserve.gateway() != [gateway] and status["generation"] > 0, 60)
        assert _settled(kitserve) == before
        assert set(kitserve.workers("steady")) == workers
        kitserve.models["steady"]["canary"]["weight"] = 100
        kitserve.apply()
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v2"}
    assert load.failures == {}


def test_a_successor_that_fails_leaves_the_last_good_version(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"kept": {"kit": kit(layout, "v1")}}
    kitserve.apply()
    with Load(f"{kitserve.url}/v2/models/kept/infer", clients=2, pause=0.005) as load:
        kitserve.models["kept"]["kit"] = code_kit(kitserve.directory / "code")
        assert kitserve.apply(check=False).returncode == 1
        shown = kitserve.model("kept")
        assert shown["state"] == "failed"
        assert [(version["tag"], version["weight"], version["state"]) for version in shown["versions"]] == [
            ("v1", 100, "ready"),
            ("v1", 0, "failed"),
        ]
        kitserve.models["kept"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v2"}
    assert load.failures == {}


def test_a_plan_says_what_an_apply_then_does_and_a_lock_what_it_serves(
    kitserve: Running, layout: Path
) -> None:
    lock = kitserve.file.with_suffix(".lock")
    kitserve.models = {"planned": {"kit": kit(layout, "v1")}}
    kitserve.apply()

    def plan(*options: str) -> tuple[int, dict[str, Any]]:
        kitserve.write()
        process = kitserve.run("plan", str(kitserve.file), "-o", "json", *options, check=False)
        return process.returncode, json.loads(process.stdout)["models"][0]

    code, model = plan()
    assert (code, model["action"]) == (0, "unchanged")
    assert model["memory"][0]["source"] == "measured"
    generation = kitserve.status()["generation"]
    kitserve.run("lock", str(kitserve.file))
    kitserve.run("apply", str(kitserve.file), "--locked")
    workers = kitserve.workers("planned")
    assert (plan("--locked")[0], kitserve.workers("planned")) == (0, workers)
    assert kitserve.model("planned")["versions"][0]["tag"] == "v1"

    kitserve.models["planned"]["kit"] = kit(layout, "v2")
    code, model = plan()
    assert (code, model["action"], model["workers"]) == (2, "changed", "new")
    assert kitserve.status()["generation"] == generation + 1
    refused = kitserve.run("apply", str(kitserve.file), "--locked", check=False)
    assert refused.returncode == 2
    assert f"bring it up to date with `kitserve lock {kitserve.file}`" in refused.stderr
    kitserve.run("lock", str(kitserve.file))
    kitserve.run("apply", str(kitserve.file), "--locked")
    assert kitserve.model("planned")["versions"][0]["digest"] == model["kits"][0]["after"]["digest"]
    lock.unlink()


def test_a_restart_replaces_each_worker_and_no_call_fails(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"renewed": {"kit": kit(layout, "v1")}}
    kitserve.apply()
    before = kitserve.workers("renewed")
    with Load(f"{kitserve.url}/v2/models/renewed/infer", pause=0.005) as load:
        load.wait_for("v1")
        done = kitserve.run("restart", "renewed:v1")
        load.forget()
        load.wait_for("v1")
    assert "renewed v1: 1 of 1 worker replaced" in done.stdout
    kitserve.wait(lambda _: len(kitserve.workers("renewed")) == 1, 30)
    assert not set(kitserve.workers("renewed")) & set(before)
    assert load.failures == {}


def test_a_signal_applies_the_config_file_again(kitserve: Running, layout: Path) -> None:
    assert kitserve.process is not None
    kitserve.models = {"signalled": {"kit": kit(layout, "v1")}}
    kitserve.apply()
    with Load(f"{kitserve.url}/v2/models/signalled/infer", pause=0.005) as load:
        load.wait_for("v1")
        kitserve.file.write_text("models: [")
        kitserve.process.send_signal(signal.SIGHUP)
        kitserve.wait(lambda _: "what was in force stays" in kitserve.log.read_text(), 30)
        kitserve.models["signalled"]["kit"] = kit(layout, "v2")
        kitserve.write()
        kitserve.process.send_signal(signal.SIGHUP)
        load.wait_for("v2")
    assert load.failures == {}


def test_where_it_listens_changes_while_calls_run(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"moving": {"kit": kit(layout, "v1")}}
    kitserve.apply()
    port, other = kitserve.port, free_port()
    with Load(f"{kitserve.url}/v2/models/moving/infer", pause=0.005) as load:
        load.wait_for("v1")
        for settings in ({"listen": f"0.0.0.0:{port}"}, {"access_log": "all"}, {}):
            kitserve.settings = settings
            kitserve.apply()
            load.forget()
            load.wait_for("v1")
    assert load.failures == {}
    kitserve.port = other
    try:
        kitserve.apply()
        assert kitserve.infer("moving").status_code == 200
        # Another gateway goes by what is in force, and not by what Kitserve was started with.
        os.kill(kitserve.gateway()[0], signal.SIGKILL)
        kitserve.wait(lambda status: status["generation"] and not status["trouble"])
        assert kitserve.infer("moving").status_code == 200
    finally:
        kitserve.port = port
        kitserve.apply()
    assert kitserve.infer("moving").status_code == 200
