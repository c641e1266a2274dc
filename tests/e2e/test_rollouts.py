"""Rollouts of real versions under real calls."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import Running
from tests.support.load import Load
from tests.support.model_files import node, onnx_model, value_info
from tests.support.pickles import code_kit
from tests.support.registry import Registry

STEPS = [{"weight": 20, "for": "2s"}, {"weight": 60, "for": "2s"}]
QUICK: dict[str, Any] = {
    "steps": STEPS,
    "checks": {"max_error_rate": 0.05, "min_requests": 20},
    "scale_down_delay": "2s",
}


def kit(layout: Path, tag: str) -> str:
    return f"oci-layout:{layout}:samples/iris:{tag}"


def rollout(kitserve: Running, name: str) -> dict[str, Any]:
    shown = kitserve.run("rollout", "status", name, "--admin", kitserve.admin, "-o", "json")
    document: dict[str, Any] = json.loads(shown.stdout)
    return document


def test_a_good_version_is_promoted_by_itself(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"walk": {"kit": kit(layout, "v1"), "rollout": QUICK}}
    kitserve.apply()
    assert kitserve.wait_for_rollout("walk")["phase"] == "Healthy"
    with Load(f"{kitserve.url}/v2/models/walk/infer", pause=0.005) as load:
        load.wait_for("v1")
        kitserve.models["walk"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        shown = kitserve.wait_for_rollout("walk", step=2)
        assert (shown["phase"], shown["weight"], shown["canary"]["tag"]) == ("Progressing", 60, "v2")
        workers = set(kitserve.workers("walk"))
        shown = kitserve.wait_for_rollout("walk", phase="Healthy")
        assert (shown["reason"], shown["stable"]["tag"]) == ("RolloutCompleted", "v2")
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v2"}
        assert set(kitserve.workers("walk")) <= workers, "the promotion loads nothing"
        kitserve.wait(lambda _: len(kitserve.workers("walk")) == 1, 30)
    assert load.failures == {}
    events = json.loads(
        kitserve.run("rollout", "history", "walk", "--admin", kitserve.admin, "-o", "json").stdout
    )
    assert [event["reason"] for event in reversed(events)] == [
        "CanaryLoading",
        "GatesRunning",
        "StepRunning",
        "StepRunning",
        "RolloutCompleted",
    ]


def test_a_config_applied_meanwhile_is_in_force_at_once(kitserve: Running, layout: Path) -> None:
    steps = [{"weight": 20, "pause": True}, {"weight": 60, "for": "1s"}]
    kitserve.models = {"turn": {"kit": kit(layout, "v1"), "rollout": {**QUICK, "steps": steps}}}
    kitserve.apply()
    kitserve.wait_for_rollout("turn")
    with Load(f"{kitserve.url}/v2/models/turn/infer", pause=0.005) as load:
        kitserve.models["turn"]["kit"] = kit(layout, "bad")
        kitserve.apply()
        kitserve.wait_for_rollout("turn", phase="Paused", weight=20)
        kitserve.models["turn"]["kit"] = kit(layout, "v9")
        done = kitserve.apply(check=False)
        assert done.returncode == 1
        assert "v9" in done.stdout + done.stderr
        assert rollout(kitserve, "turn")["weight"] == 20, "what runs goes on"
        kitserve.models["turn"]["kit"] = kit(layout, "v1")
        kitserve.apply()
        shown = kitserve.wait_for_rollout("turn", seconds=5, phase="Healthy", weight=0)
        assert shown["reason"] == "RolloutSuperseded"
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v1"}
    assert load.failures == {}


def test_a_canary_takes_over_where_the_stable_version_is_lost(
    kitserve: Running, layout: Path, tmp_path: Path
) -> None:
    own = tmp_path / "layout"
    shutil.copytree(layout, own)
    kitserve.models = {"lost": {"kit": kit(own, "v1"), "rollout": QUICK}}
    kitserve.apply()
    kitserve.wait_for_rollout("lost")
    shutil.rmtree(own)
    shutil.rmtree(kitserve.home / "cache")
    for process in kitserve.workers("lost"):
        os.kill(process, signal.SIGKILL)
    kitserve.models["lost"]["kit"] = kit(layout, "v2")
    kitserve.apply(check=False)
    shown = kitserve.wait_for_rollout("lost", phase="Healthy", reason="StableLost")
    assert shown["stable"]["tag"] == "v2"
    kitserve.wait(lambda _: kitserve.infer("lost").status_code == 200, 10)


def test_people_promote_abort_retry_and_roll_back(kitserve: Running, layout: Path) -> None:
    steps = [{"weight": 30, "pause": True}, {"weight": 70, "pause": True}]
    kitserve.models = {"hand": {"kit": kit(layout, "v1"), "rollout": {**QUICK, "steps": steps}}}
    kitserve.apply()
    kitserve.wait_for_rollout("hand")

    def order(*words: str, check: bool = True) -> str:
        done = kitserve.run("rollout", *words, "--admin", kitserve.admin, check=check)
        return done.stdout + done.stderr

    with Load(f"{kitserve.url}/v2/models/hand/infer", pause=0.005) as load:
        assert "no rollout is on its way" in order("promote", "hand", check=False)
        kitserve.models["hand"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        kitserve.wait_for_rollout("hand", phase="Paused", weight=30)
        assert "CanaryPauseStep" in order("promote", "hand")
        kitserve.wait_for_rollout("hand", phase="Paused", weight=70)
        order("abort", "hand", "-m", "a hunch")
        time.sleep(0.3)
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v1"}
        model = kitserve.model("hand")
        assert (model["state"], model["rollout"]["phase"]) == ("failed", "Degraded")
        assert "a hunch" in model["message"]
        done = kitserve.apply(check=False)
        assert done.returncode == 1
        assert "hand: the rollout from v1 to v2 was aborted, and v1 serves" in done.stdout
        assert rollout(kitserve, "hand")["reason"] == "RolloutAborted", "the same config is no second try"
        order("retry", "hand")
        kitserve.wait_for_rollout("hand", phase="Paused", weight=30)
        assert "waits for a person at step 1 of 2" in kitserve.apply().stdout
        order("promote", "hand", "--full")
        url = f"http://{kitserve.admin}/"
        assert "Healthy" in kitserve.run("rollout", "status", "hand", "--wait", "--admin", url).stdout
        load.forget()
        load.wait_for("v2")
        order("rollback", "hand")
        kitserve.wait_for_rollout("hand", phase="Healthy")
        assert rollout(kitserve, "hand")["stable"]["tag"] == "v1"
        done = kitserve.apply(check=False)
        assert done.returncode == 1
        assert "hand: v2 was rolled back, and v1 serves; start it again with" in done.stdout
        time.sleep(0.3)
        load.forget()
        time.sleep(0.5)
        assert set(load.versions) == {"v1"}
    assert load.failures == {}


def test_a_killed_gateway_goes_on_at_the_same_step(kitserve: Running, layout: Path) -> None:
    steps = [{"weight": 30, "for": "20s"}, {"weight": 70, "for": "1s"}]
    kitserve.models = {"back": {"kit": kit(layout, "v1"), "rollout": {**QUICK, "steps": steps}}}
    kitserve.apply()
    kitserve.wait_for_rollout("back")
    with Load(f"{kitserve.url}/v2/models/back/infer", pause=0.002) as load:
        kitserve.models["back"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        kitserve.wait_for_rollout("back", step=1)
        time.sleep(2)
        before = rollout(kitserve, "back")
        (gateway,) = kitserve.gateway()
        os.kill(gateway, signal.SIGKILL)
        kitserve.wait(lambda status: kitserve.gateway() != [gateway] and status["generation"] > 0, 60)
        after = rollout(kitserve, "back")
        assert (after["number"], after["step"]) == (before["number"], 1)
        numbers = {verdict["check"]: verdict["numbers"] for verdict in after["verdicts"]}
        assert numbers["requests"]["canary_calls"] >= before["verdicts"][0]["numbers"]["canary_calls"]
        shown = kitserve.wait_for_rollout("back", phase="Healthy")
        assert shown["stable"]["tag"] == "v2"
    assert load.failures == {}


def test_a_version_that_answers_wrongly_is_stopped_by_agreement(kitserve: Running, layout: Path) -> None:
    checks = {**QUICK["checks"], "agreement": {"min": 0.9, "mirror": 0.5}}
    kitserve.models = {"wrong": {"kit": kit(layout, "v1"), "rollout": {**QUICK, "checks": checks}}}
    kitserve.apply()
    kitserve.wait_for_rollout("wrong")
    with Load(f"{kitserve.url}/v2/models/wrong/infer", pause=0.002) as load:
        load.wait_for("v1")
        load.forget()
        kitserve.models["wrong"]["kit"] = kit(layout, "bad")
        kitserve.apply(check=False)
        shown = kitserve.wait_for_rollout("wrong", phase="Degraded")
        assert (shown["reason"], shown["weight"]) == ("AnalysisFailed", 0)
        assert shown["message"].startswith("canary disagrees on")
        time.sleep(0.3)
        bad = load.versions["bad"]
        time.sleep(0.5)
        assert load.versions["bad"] == bad, "no call after the abort"
        share = bad / load.versions.total()
        assert share < 0.2
        kitserve.models["wrong"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        kitserve.wait_for_rollout("wrong", phase="Healthy")
        load.forget()
        load.wait_for("v2")
    assert load.failures == {}


def test_equal_versions_agree_on_answers_with_masked_values(kitserve: Running, tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    shape = ("n", 3)
    for tag, operators in {"v1": ["Log"], "v2": ["Log", "Identity"], "bad": ["Log", "Neg"]}.items():
        names = ["x", *(f"y{step}" for step in range(1, len(operators))), "y"]
        nodes = [node(each, [names[step]], [names[step + 1]]) for step, each in enumerate(operators)]
        model = onnx_model(nodes, [value_info("x", 1, shape)], [value_info("y", 1, shape)])
        rows = b'{"inputs": {"x": [1, 0, null]}, "outputs": {"y": [0, -Infinity, NaN]}}\n'
        builder.kit(f"test/masked:{tag}", tar(("model.onnx", model)), path="model.onnx", rows=rows)
    kits = f"oci-layout:{builder.directory}:test/masked"
    # A logarithm of 0 is -inf, of -1 NaN.
    data = '[[2,1,0],[1,-1,4],[NaN,null,"Infinity"]]'
    body = f'{{"inputs":[{{"name":"x","shape":[3,3],"datatype":"FP32","data":{data}}}]}}'.encode()
    checks = {**QUICK["checks"], "agreement": {"min": 0.9, "mirror": 1.0}}
    masked: dict[str, Any] = {"kit": f"{kits}:v1", "rollout": {**QUICK, "checks": checks}}
    kitserve.models = {"masked": masked}
    kitserve.apply()
    kitserve.wait_for_rollout("masked")
    with Load(f"{kitserve.url}/v2/models/masked/infer", body, pause=0.005) as load:
        load.wait_for("v1")
        masked["kit"] = f"{kits}:bad"
        kitserve.apply(check=False)
        shown = kitserve.wait_for_rollout("masked", phase="Degraded")
        assert shown["message"].startswith("canary disagrees on")
        masked["rollout"]["golden"] = {"dataset": "rows"}
        masked["kit"] = f"{kits}:v2"
        kitserve.apply()
        kitserve.wait_for_rollout("masked", phase="Healthy")
        load.forget()
        load.wait_for("v2")
    assert load.failures == {}


def test_a_shadow_takes_no_call_and_is_judged_all_the_same(kitserve: Running, layout: Path) -> None:
    steps = [{"weight": 0, "mirror": 1.0, "for": "2s"}, {"weight": 100, "for": "1s"}]
    checks = {**QUICK["checks"], "agreement": {"min": 0.9}}
    kitserve.models = {
        "dark": {"kit": kit(layout, "v1"), "rollout": {**QUICK, "steps": steps, "checks": checks}}
    }
    kitserve.apply()
    kitserve.wait_for_rollout("dark")
    with Load(f"{kitserve.url}/v2/models/dark/infer", pause=0.005) as load:
        kitserve.models["dark"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        kitserve.wait_for_rollout("dark", step=1)
        assert set(load.versions) == {"v1"}
        kitserve.wait_for_rollout("dark", step=2)
        kitserve.wait_for_rollout("dark", phase="Healthy")
        load.wait_for("v2")
    assert load.failures == {}


def test_a_golden_dataset_stops_a_wrong_version_before_any_call(kitserve: Running, layout: Path) -> None:
    gate = {**QUICK, "golden": {"dataset": "iris", "min": 0.9}}
    kitserve.models = {"gold": {"kit": kit(layout, "v1"), "rollout": gate}}
    kitserve.apply()
    kitserve.wait_for_rollout("gold")
    with Load(f"{kitserve.url}/v2/models/gold/infer", pause=0.005) as load:
        kitserve.models["gold"]["kit"] = kit(layout, "bad")
        assert kitserve.apply(check=False).returncode == 1
        shown = kitserve.wait_for_rollout("gold", phase="Degraded")
        assert shown["reason"] == "GoldenDatasetFailed"
        assert "rows of data/iris.csv answered as expected" in shown["message"]
        kitserve.models["gold"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        kitserve.wait_for_rollout("gold", phase="Healthy")
    assert load.failures == {}
    assert set(load.versions) == {"v1", "v2"}


def test_no_call_fails_while_a_canary_dies_again_and_again(kitserve: Running, layout: Path) -> None:
    steps = [{"weight": 50, "pause": True}]
    kitserve.models = {"frail": {"kit": kit(layout, "v1"), "rollout": {**QUICK, "steps": steps}}}
    kitserve.apply()
    kitserve.wait_for_rollout("frail")
    stable = set(kitserve.workers("frail"))
    with Load(f"{kitserve.url}/v2/models/frail/infer", clients=6, pause=0.005) as load:
        kitserve.models["frail"]["kit"] = kit(layout, "v2")
        kitserve.apply()
        kitserve.wait_for_rollout("frail", phase="Paused")
        for restarts in (1, 2, 3):
            kitserve.wait(
                lambda _: any(version["role"] == "canary" for version in kitserve.model("frail")["versions"])
            )
            load.forget()
            load.wait_for("v2")
            (canary,) = set(kitserve.workers("frail")) - stable
            os.kill(canary, signal.SIGKILL)
            kitserve.wait_for_rollout("frail", restarts=restarts)
        shown = kitserve.wait_for_rollout("frail", phase="Degraded")
        assert (shown["reason"], shown["weight"]) == ("CanaryLost", 0)
        assert set(kitserve.workers("frail")) >= stable
    assert load.failures == {}


def test_a_tag_that_moves_is_followed_by_a_rollout(
    kitserve: Running, layout: Path, registry: Registry
) -> None:
    registry.push_layout(layout)
    registry.retag("samples/iris", "v1", "followed")
    kitserve.models = {
        "follow": {"kit": f"{registry.host}/samples/iris:followed", "track": "1s", "rollout": QUICK}
    }
    kitserve.apply()
    first = kitserve.wait_for_rollout("follow")["stable"]
    with Load(f"{kitserve.url}/v2/models/follow/infer", pause=0.002) as load:
        registry.retag("samples/iris", "v2", "followed")
        shown = kitserve.wait_for_rollout("follow", phase="Progressing")
        assert shown["canary"]["digest"] != first["digest"]
        assert shown["stable"] == first
        shown = kitserve.wait_for_rollout("follow", phase="Healthy")
        assert shown["stable"]["digest"] != first["digest"]
    assert load.failures == {}


def test_what_cannot_be_loaded_or_takes_something_else_gets_no_call(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"gate": {"kit": kit(layout, "v1"), "rollout": QUICK}}
    kitserve.apply()
    kitserve.wait_for_rollout("gate")
    with Load(f"{kitserve.url}/v2/models/gate/infer", pause=0.01) as load:
        for reference, reason, words in (
            (code_kit(kitserve.directory / "code"), "CanaryFailed", "pickle"),
            (f"oci-layout:{layout}:samples/iris-export:v1", "SignatureChanged", "input 'input' is gone"),
        ):
            kitserve.models["gate"]["kit"] = reference
            assert kitserve.apply(check=False).returncode == 1
            shown = kitserve.wait_for_rollout("gate", phase="Degraded", reason=reason)
            assert words in shown["message"]
            assert shown["weight"] == 0
    assert load.failures == {}
    assert set(load.versions) == {"v1"}
    digests = {version["digest"] for version in kitserve.model("gate")["versions"] if version["role"]}
    assert len(digests) == 1


def test_recorded_calls_tell_a_good_candidate_from_a_bad_one(kitserve: Running, layout: Path) -> None:
    rules = {"sample": 1.0, "redact": ["inputs.age?"]}
    kitserve.models = {"diary": {"kit": kit(layout, "v1"), "payloads": rules, "rollout": QUICK}}
    kitserve.apply()
    kitserve.wait_for_rollout("diary")
    directory = kitserve.home / "payloads" / "diary"
    with Load(f"{kitserve.url}/v2/models/diary/infer", pause=0.05) as load:
        # Workers hear of it within two seconds.
        kitserve.wait(
            lambda _: sum(len(path.read_bytes().splitlines()) for path in directory.glob("*")) > 150
        )
    assert load.failures == {}
    before = set(kitserve.workers("diary"))
    outcomes = {}
    for tag, against in (("bad", ()), ("v2", ("--against", kitserve.url))):
        command = ("replay", str(directory), "--model", "diary", "--kit", kit(layout, tag), "-o", "json")
        done = kitserve.run(*command, "--config", str(kitserve.file), *against, check=False)
        document = json.loads(done.stdout)
        outcomes[tag, bool(against)] = (done.returncode, document["outcome"], bool(document["differences"]))
        assert document["compared"] > 150, done.stderr
    assert outcomes == {
        ("bad", False): (1, "Failed", True),
        ("v2", True): (0, "Successful", False),
    }
    assert (rollout(kitserve, "diary")["phase"], set(kitserve.workers("diary"))) == ("Healthy", before)
    kitserve.models["diary"].pop("payloads")
    kitserve.apply()
    assert set(kitserve.workers("diary")) == before, "workers hear of it, and are not replaced"
