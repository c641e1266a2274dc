"""`kitserve plan` against an admin API and a real registry: what would change, and that nothing does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.cli.admin_client import TOKEN_VARIABLE
from gateway.config.config import parse_config
from gateway.contract import Announcement, AppName, Description, WorkerState
from gateway.control.admin.proposal import read_proposal
from gateway.control.planning import kit_facts, planner
from gateway.control.planning.api import PlanApi
from gateway.control.planning.hypothesis import serving
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, desired_from
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.errors import RegistryUnavailable
from gateway.kits.library import Library
from gateway.metrics.machine import MachineMemory
from gateway.oci.content import REF_NAME
from gateway.wire.server import tcp_socket
from runtimes.base import Signature, TensorSpec
from tests.support.artifacts import MODELKIT, OCI_MANIFEST, LayoutBuilder, iris, tar
from tests.support.cli import Cli
from tests.support.gate import HOLDER, gate
from tests.support.registry import Registry

MIB = 1024 * 1024
ROLLOUT = {"steps": [{"weight": 5, "for": "1m"}], "checks": {"min_requests": 10}}


class Running:
    """A gateway's state and admin API, kits in a registry, and a Serve in which all versions are ready."""

    def __init__(self, directory: Path, registry: Registry, cli: Cli) -> None:
        self.registry, self.cli = registry, cli
        self.home = directory / "gateway"
        self.file = directory / "kitserve.yaml"
        self.builder = LayoutBuilder(directory / "layout")
        self.state = State(directory / "state.db")
        self.state.begin("monday")
        self.view: tuple[Recorded, Observed] | None = None
        self.faults: list[str] = []
        self.signature: Signature | None = None
        api = PlanApi(
            self.state,
            self,
            self.describe,
            self.home,
            lambda _: self.faults,
            lambda: MachineMemory(1000 * MIB, 500 * MIB),
        )
        self.server = WebServer(web_app(api.routes(), gate()), tcp_socket("127.0.0.1", 0))
        self.server.start()
        self.address = f"127.0.0.1:{self.server.address[1]}"

    def describe(self, _app: AppName) -> Description | None:
        return None if self.signature is None else Description("onnx", self.signature)

    def push(self, name: str, data: bytes = b"", **parts: Any) -> str:
        """Push a kit, NAME:TAG, with this model, iris where there is none; return its digest."""
        layer = self.builder.blob(f"{MODELKIT}.model.v1.tar", tar(("model/iris.onnx", data or iris())))
        kitfile = {
            "package": parts.get("package", {}),
            "model": {"path": "model/iris.onnx", "digest": layer["digest"]},
        }
        kitfile["model"].update(parts.get("model", {}))
        config = self.builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        digest = self.builder.artifact(name, {"schemaVersion": 2, "config": config, "layers": [layer]})
        entry = {"mediaType": OCI_MANIFEST, "digest": digest, "annotations": {REF_NAME: name}}
        self.registry.push(self.builder.directory, entry)
        return digest

    def config(self, models: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {
            "models": [
                {"name": name, **(model if isinstance(model, dict) else {"kit": model})}
                for name, model in models.items()
            ],
            "registries": {self.registry.host: {"plain_http": True}},
            "kitops_home": "/nowhere",
            **fields,
        }

    def apply(self, models: dict[str, Any], **fields: Any) -> None:
        """Have a config in force, of which every version is ready."""
        config = parse_config(json.dumps(self.config(models, **fields)))
        generation = self.state.apply(desired_from(config), config.model_dump_json())
        desired = self.state.desired()
        library = Library(self.home / "cache", desired.sources)
        pins = {kit: library.open(kit).kit.digest for model in desired.models for kit in model.kits}
        for kit, digest in pins.items():
            self.state.pin(kit, digest, generation)
        self.see(desired, pins)

    def see(self, desired: Desired, pins: dict[Any, Any]) -> None:
        recorded, observed = serving(desired, pins)
        workers = [
            Announcement(f"{app}#1", app, WorkerState.READY, "", "127.0.0.1", 1, memory_bytes=100 * MIB)
            for app in observed.apps
        ]
        self.view = (recorded, replace(observed, workers=workers, proven=frozenset(observed.apps)))

    def plan(self, models: dict[str, Any], *options: str, code: int = 2, **fields: Any) -> dict[str, Any]:
        """Plan a config; return the document."""
        self.file.write_text(json.dumps(self.config(models, **fields)))
        text, _ = self.cli("plan", str(self.file), "--admin", self.address, "-o", "json", *options, code=code)
        document: dict[str, Any] = json.loads(text)
        return document

    def text(self, *options: str, code: int = 2) -> str:
        text, error = self.cli("plan", str(self.file), "--admin", self.address, *options, code=code)
        return text + error


@pytest.fixture
def running(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Running]:
    monkeypatch.setenv("COLUMNS", "300")
    running = Running(tmp_path, registry, Cli(tmp_path / "home", monkeypatch, capsys))
    yield running
    running.server.stop()
    running.state.close()


def test_others_are_answered_while_a_large_config_is_read(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = running.push("iris:v1")
    kit, begun, may_go_on = f"{running.registry.host}/iris:v1", threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert may_go_on.wait(20)
        return read_proposal(*arguments)

    monkeypatch.setattr("gateway.control.planning.api.read_proposal", slow)
    order = {"config": running.config({"iris": kit})}
    url = f"http://{running.address}"
    with ThreadPoolExecutor(1) as pool:
        running.apply({"iris": kit})
        planning = pool.submit(requests.post, f"{url}/api/plan", json=order, headers=HOLDER, timeout=20)
        assert begun.wait(10)
        try:
            assert requests.get(f"{url}/unknown", headers=HOLDER, timeout=5).status_code == 404
        finally:
            may_go_on.set()
        assert digest in planning.result().text


@pytest.mark.parametrize("body", ["[" * 100_000, '{"config":' * 50_000, '{"config":[]}', "{", "1" * 5000])
def test_what_is_no_order_is_refused(running: Running, body: str) -> None:
    headers = {**HOLDER, "Content-Type": "application/json"}
    answer = requests.post(f"http://{running.address}/api/plan", body, headers=headers, timeout=20)
    assert (answer.status_code, "send {config: {…}, pull: false}" in answer.text) == (400, True)


def files(directory: Path) -> dict[str, bytes]:
    """Return every file but documents of kits and locks, with its content."""
    return {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
        and not {"blobs", "locks"} & set(path.parts)
        and not path.name.startswith("state.db")
    }


def test_the_same_config_changes_nothing_and_a_moved_tag_does(running: Running) -> None:
    kit = f"{running.registry.host}/moved/iris:v1"
    first = running.push("moved/iris:v1", package={"license": "MIT"}, model={"parameters": {"k": 1}})
    running.apply({"iris": {"kit": kit, "rollout": ROLLOUT}})
    same = running.plan({"iris": {"kit": kit, "rollout": ROLLOUT}}, code=0)
    assert (same["has_changes"], same["models"][0]["action"], same["pull"]["bytes"]) == (
        False,
        "unchanged",
        0,
    )
    assert "nothing changes" in running.text(code=0)

    second = running.push("moved/iris:v1", package={"license": "GPL-3.0"}, model={"parameters": {"k": 2}})
    before, pins = files(running.home), running.state.pins(1)
    plan = running.plan({"iris": {"kit": kit, "rollout": ROLLOUT}})
    assert files(running.home) == before
    assert (running.state.document()[0], running.state.pins(1)) == (1, pins)
    (model,), (planned,) = plan["models"], plan["models"][0]["kits"]
    assert (model["action"], model["workers"], planned["has_moved"]) == ("changed", "new", True)
    assert (planned["before"]["digest"], planned["after"]["digest"]) == (first, second)
    assert {"field": "licenses", "before": ["MIT"], "after": ["GPL-3.0"]} in planned["changes"]
    assert {"field": "parameters.k", "before": "1", "after": "2"} in planned["changes"]
    # Its one layer is that of the kit before.
    assert plan["pull"]["bytes"] == 0
    rollout = model["rollout"]
    assert rollout["starts"]
    assert rollout["steps"] == ["weight 5 %, for 60 s"]
    assert plan["memory"] == {
        "before": 100 * MIB,
        "during": 100 * MIB,
        "after": 0,
        "unknown": ["iris"],
        "free": 500 * MIB,
        "total": 1000 * MIB,
    }
    text = running.text()
    assert f"kit v1 ({first[7:19]}) -> v1 ({second[7:19]}), as the tag has moved" in text
    assert "a rollout begins from v1" in text
    assert "kit's licenses MIT -> GPL-3.0" in text


def test_layers_are_counted_once_and_only_those_that_are_not_here(running: Running) -> None:
    host = running.registry.host
    for name in ("a:v1", "b:v1"):
        running.push(f"shared/{name}", b"x" * 5000, package={"name": name})
    running.push("shared/c:v1")
    running.apply({"c": f"{host}/shared/c:v1"})
    plan = running.plan({name: f"{host}/shared/{name}:v1" for name in "abc"})
    sizes = [model["kits"][0]["pull_bytes"] for model in plan["models"]]
    assert sizes[0] == sizes[1] == plan["pull"]["bytes"] > 5000
    assert (sizes[2], plan["pull"]["layers"]) == (0, 1)
    assert [model["action"] for model in plan["models"]] == ["new", "new", "unchanged"]
    removed = running.plan({})
    assert [(model["action"], model["workers"]) for model in removed["models"]] == [("removed", "removed")]
    assert (removed["memory"]["before"], removed["memory"]["after"]) == (100 * MIB, 0)


def test_what_would_be_refused_says_why_and_ends_with_one(running: Running) -> None:
    host = running.registry.host
    kit = f"{host}/refused/iris:v1"
    running.push("refused/iris:v1", package={"license": "MIT"})
    running.push("refused/iris:v2", b"no model")
    running.apply({"iris": kit})
    missing = running.plan({"iris": kit, "other": f"{host}/refused/iris:v9"}, code=1)
    assert "v9" in missing["models"][1]["refused"]
    assert missing["models"][0]["refused"] == ""
    running.push("refused/iris:v3", package={"license": "GPL-3.0"})
    running.apply({"iris": kit}, trust={"licenses": ["MIT"]})
    rules = {"trust": {"licenses": ["MIT"]}}
    licensed = running.plan({"iris": f"{host}/refused/iris:v3"}, code=1, **rules)
    assert "allows the licenses MIT only" in licensed["models"][0]["refused"]
    running.apply({"iris": kit})
    unread = running.plan({"iris": f"{host}/refused/iris:v2"})
    assert unread["models"][0]["kits"][0]["after"]["hazard"] is None
    read = running.plan({"iris": f"{host}/refused/iris:v2"}, "--pull", code=1)
    assert "refused/iris:v2" in read["models"][0]["refused"]
    assert "would be refused: " in running.text("--pull", code=1)
    running.faults = ["models: iris asks for 2 GPUs"]
    assert running.plan({"iris": kit}, code=1)["faults"] == running.faults


def test_a_registry_that_is_away_leaves_what_the_tag_meant(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> None:
        raise RegistryUnavailable("no answer", away_host=running.registry.host)

    kit = f"{running.registry.host}/away/iris:v1"
    first = running.push("away/iris:v1")
    running.apply({"iris": kit})
    monkeypatch.setattr(planner, "find_kit", silent)
    (model,) = running.plan({"iris": kit}, code=0)["models"]
    assert (model["kits"][0]["after"]["digest"], model["kits"][0]["note"]) == (first, "no answer")
    assert running.plan({"iris": f"{kit}9"}, code=1)["models"][0]["refused"] == "no answer"


def test_a_pulled_model_is_inspected_and_its_signature_held_against_the_gate(running: Running) -> None:
    host = running.registry.host
    running.push("gated/iris:v1")
    running.push("gated/iris:v2", package={"name": "other"})
    running.apply({"iris": {"kit": f"{host}/gated/iris:v1", "rollout": ROLLOUT}})
    running.signature = Signature((TensorSpec("x", "FP32", (-1, 7)),), ())
    wanted = {"iris": {"kit": f"{host}/gated/iris:v2", "rollout": ROLLOUT}}
    refused = running.plan(wanted, "--pull", code=1)
    assert "its signature gate: input 'x'" in refused["models"][0]["refused"]
    after = refused["models"][0]["kits"][0]["after"]
    assert (after["hazard"], after["runtime"], after["code"]) == ("data", "onnx", False)
    wanted["iris"]["rollout"] = {**ROLLOUT, "allow_signature_change": True}
    assert running.plan(wanted)["models"][0]["refused"] == ""


def test_settings_rules_and_what_needs_a_restart_are_told(running: Running) -> None:
    kit = f"{running.registry.host}/settings/iris:v1"
    running.push("settings/iris:v1")
    running.apply({"iris": kit, "rose": kit})
    plan = running.plan(
        {"iris": {"kit": kit, "replicas": 3}, "rose": kit}, worker_tls="always", cache={"max_size": 10**9}
    )
    assert plan["restart"] == ["worker_tls"]
    assert {"field": "cache.max_size", "before": None, "after": 10**9} in plan["settings"]
    first, second = plan["models"]
    assert (first["action"], first["workers"]) == ("changed", "scaled")
    assert {"field": "replicas.min", "before": 1, "after": 3} in first["changes"]
    assert first["memory"][0] == {
        "model": "iris",
        "version": "v1",
        "workers": 3,
        "bytes_each": 100 * MIB,
        "source": "measured",
        "is_new": False,
    }
    assert second["action"] == "unchanged"
    assert "worker_tls: needs a restart" in running.text()
    text, error = running.cli("plan", str(running.file), "--admin", "127.0.0.1:1", code=1)
    assert "no Kitserve answers" in text + error


def test_readers_plan_nothing_and_holders_no_more_than_they_may_apply(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = f"{running.registry.host}/rights/iris:v1"
    running.push("rights/iris:v1")
    running.apply({"iris": kit})
    url = f"http://{running.address}/api/plan"
    order = {"config": running.config({"iris": kit})}
    assert requests.post(url, json=order, timeout=5).status_code == 401
    assert requests.post(url, json=order, headers=HOLDER, timeout=5).json()["has_changes"] is False
    secret = {running.registry.host: {"username": "me", "password_file": "/etc/shadow", "plain_http": True}}
    trust = {"allow_code": [f"sha256:{'0' * 64}"]}
    for changes in ({"registries": secret}, {"trust": trust}, {"listen": "127.0.0.1:9"}):
        order = {"config": {**running.config({"iris": kit}), **changes}}
        assert requests.post(url, json=order, headers=HOLDER, timeout=5).status_code == 403
    # Nor does the token choose a kit of this machine as a parent.
    pinned = f"{kit}@sha256:{'0' * 64}"
    local = {"kit": pinned, "parents": [f"kit:private:v1@sha256:{'1' * 64}"]}
    order = {"config": running.config({"iris": local})}
    assert requests.post(url, json=order, headers=HOLDER, timeout=5).status_code == 403
    assert requests.post(url, json={"config": 1}, headers=HOLDER, timeout=5).status_code == 400
    monkeypatch.delenv(TOKEN_VARIABLE)
    running.file.write_text(json.dumps(running.config({"iris": kit})))
    assert "kitserve token" in running.text(code=1)


def test_a_file_is_planned_against_another_one_or_nothing_with_no_gateway(running: Running) -> None:
    host, other = running.registry.host, running.file.with_name("other.yaml")
    running.push("files/iris:v1")
    running.push("files/iris:v2", package={"name": "other"})
    other.write_text(
        json.dumps(running.config({"iris": {"kit": f"{host}/files/iris:v1", "rollout": ROLLOUT}}))
    )
    plan = running.plan(
        {"iris": {"kit": f"{host}/files/iris:v2", "rollout": ROLLOUT}}, "--against", str(other)
    )
    assert (plan["against"], plan["models"][0]["rollout"]["starts"]) == ("file", True)
    assert "nothing changes" in running.text("--against", str(running.file), code=0)
    text, error = running.cli("plan", str(running.file), "-o", "json", code=2)
    assert json.loads(text)["against"] == "nothing"
    assert "no Kitserve runs here" in error
    running.cli("plan", code=1)
    running.cli("plan", str(running.file), "--pul", code=1)
    running.file.write_text("models: 1\n")
    assert "must be a list" in running.cli("plan", str(running.file), code=1)[1]


def test_a_lock_is_planned_as_it_would_be_applied(running: Running) -> None:
    kit = f"{running.registry.host}/locked-plan/iris:v1"
    first = running.push("locked-plan/iris:v1")
    running.apply({"iris": {"kit": kit, "track": "1m"}})
    running.file.write_text(json.dumps(running.config({"iris": {"kit": kit, "track": "1m"}})))
    running.cli("lock", str(running.file))
    running.push("locked-plan/iris:v1", package={"name": "moved"})
    plan = running.plan({"iris": {"kit": kit, "track": "1m"}}, "--locked")
    (model,) = plan["models"]
    assert (model["workers"], model["kits"][0]["after"]["digest"]) == ("kept", first)
    assert {"field": "track", "before": 60.0, "after": None} in model["changes"]
    moved = running.plan({"iris": {"kit": kit, "track": "1m"}})
    assert moved["models"][0]["kits"][0]["has_moved"]


@pytest.mark.parametrize(("resources", "estimates"), [({"gpu_memory": "6GiB"}, 0), ({"device": "gpu"}, 1)])
def test_what_a_model_takes_of_a_gpu_is_estimated_only_where_its_config_does_not_say_it(
    running: Running, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], estimates: int
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(kit_facts, "gpu_need", lambda *arguments: asked.append(arguments))
    running.push("iris:v1")
    running.apply({})
    model = {"kit": f"{running.registry.host}/iris:v1", "resources": resources}
    plan = running.plan({"iris": model}, "--pull")
    assert plan["models"][0]["action"] == "new"
    assert len(asked) == estimates
