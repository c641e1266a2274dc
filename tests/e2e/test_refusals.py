"""What cannot be served is refused with its cause, and nothing else is affected."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from gateway.cli.processes import descendants
from gateway.logs.events import log_path
from gateway.wire.texts import MODEL_FAILED, not_loaded
from tests.support.artifacts import MODELKIT, LayoutBuilder, digest_of, tar
from tests.support.endless import FOR_EVER, endless_load, looping_torchscript
from tests.support.kitserve import KITSERVE, Running
from tests.support.load import Load
from tests.support.model_files import save_script
from tests.support.pickles import code_kit
from tests.support.registry import Registry, run_registry
from tests.support.waiting import wait


@pytest.fixture
def serving(kitserve: Running, layout: Path) -> Running:
    """A Kitserve that serves `good`, whatever is applied beside it."""
    kitserve.models = {"good": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.apply()
    return kitserve


def _orphan(tmp_path: Path, registry: Registry) -> str:
    """Push a kit whose parent does not exist. Return its reference."""
    builder = LayoutBuilder(tmp_path / "layout")
    kitfile = {"model": {"path": f"{registry.host}/samples/iris:v9"}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    builder.artifact("team/orphan:v1", {"schemaVersion": 2, "config": config, "layers": None})
    (reference,) = registry.push_layout(builder.directory)
    return reference


class Text(torch.nn.Module):
    """A model whose every call would fail: its answer is no tensor."""

    def forward(self, x: torch.Tensor) -> str:
        return str(x.size(0))


def _mute(tmp_path: Path) -> str:
    """Write a kit whose model loads, and cannot answer. Return its reference."""
    builder = LayoutBuilder(tmp_path / "mute")
    model = save_script(Text(), tmp_path / "model.pt").read_bytes()
    builder.kit("team/mute:v1", tar(("model.pt", model)), path="model.pt")
    return f"oci-layout:{builder.directory}:team/mute:v1"


def _lasting(serving: Running) -> dict[str, Any]:
    """Return the status, without the memory that workers take at the moment."""
    status = serving.status()
    for model in status["models"]:
        for version in model["versions"]:
            for worker in version["workers"]:
                assert worker.pop("memory_bytes") > 0
    return status


def _has_no_worker(serving: Running, name: str) -> bool:
    return not serving.workers(name)


def test_each_refusal_names_its_cause_and_the_rest_goes_on(
    serving: Running, registry: Registry, layout: Path, tmp_path: Path
) -> None:
    host = registry.host
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "no-such-tag": ({"kit": f"{host}/samples/iris:v9"}, f"{host}/samples/iris:v9"),
        "no-such-kit": ({"kit": f"{host}/samples/lilac:v1"}, "samples/lilac"),
        "no-such-name": ({"kit": f"oci-layout:{layout}:samples/iris:v9"}, "samples/iris:v9"),
        "wrong-runtime": (
            {"kit": f"{host}/samples/iris:v1", "runtime": "torchscript"},
            "torchscript",
        ),
        "pickle": ({"kit": code_kit(tmp_path / "code")}, "pickle"),
        "weights-only": ({"kit": f"{host}/samples/iris-statedict:v1"}, "weights"),
        "mute": ({"kit": _mute(tmp_path)}, "no call can be answered: output 'output_0' is a str"),
        "contradicted": (
            {"kit": f"{host}/samples/iris:v1", "inputs": [{"name": "input", "datatype": "FP64"}]},
            "the config states that input 'input' is FP64 of any shape, but the model's file says FP32",
        ),
        "orphan": ({"kit": _orphan(tmp_path, registry)}, f"{host}/samples/iris:v9"),
    }
    serving.models["no-such-runtime"] = {"kit": f"{host}/samples/iris:v1", "runtime": "abacus"}
    done = serving.apply(check=False)
    assert done.returncode == 2
    assert "models[1].runtime: there is no runtime 'abacus'" in done.stderr
    del serving.models["no-such-runtime"]
    assert [model["name"] for model in serving.status()["models"]] == ["good"], "nothing is in force of it"
    serving.models |= {name: model for name, (model, _) in refused.items()}
    with Load(f"{serving.url}/v2/models/good/infer", clients=1, pause=0.005) as load:
        assert serving.apply(check=False).returncode == 1
    assert load.failures == {}
    for name, (_, text) in refused.items():
        shown = serving.model(name)
        assert shown["state"] == "failed", name
        assert text in shown["message"], (name, shown["message"])
        answer = serving.infer(name)
        assert answer.status_code == 503
        # Why is told on the admin port alone.
        assert answer.json() == {"error": not_loaded(name), "code": MODEL_FAILED}
        wait(partial(_has_no_worker, serving, name))
    assert serving.model("good")["state"] == "ready"
    logged = [json.loads(line) for line in log_path(serving.home).read_text().splitlines()]
    failures = {line["model"]: line["reason"] for line in logged if line["event"] == "worker.failed"}
    assert refused["mute"][1] in failures["mute"]


@pytest.fixture
def spoilt(tmp_path: Path, layout: Path) -> Iterator[Registry]:
    """A registry of its own, to be damaged."""
    with run_registry(tmp_path / "spoilt") as registry:
        registry.push_layout(layout)
        yield registry


def model_layer(layout: Path, name: str) -> str:
    path = layout / "blobs" / digest_of(layout, name).replace(":", "/")
    return str(json.loads(path.read_text())["layers"][0]["digest"])


def forget(serving: Running, blob: str) -> None:
    """Remove a blob and all unpacked kits from the node, which would not fetch them again."""
    shutil.rmtree(serving.home / "cache/kits", ignore_errors=True)
    (serving.home / "cache/blobs/sha256" / blob.removeprefix("sha256:")).unlink(missing_ok=True)


def test_a_blob_altered_in_the_registry_is_refused(serving: Running, spoilt: Registry, layout: Path) -> None:
    digest = model_layer(layout, "samples/iris:v2")
    path = spoilt.blob_path(digest)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    serving.registries[spoilt.host] = {"plain_http": True}
    serving.models["good"]["kit"] = f"{spoilt.host}/samples/iris:v2"
    forget(serving, digest)
    with Load(f"{serving.url}/v2/models/good/infer", clients=1, pause=0.005) as load:
        assert serving.apply(check=False).returncode == 1
    assert load.failures == {}
    assert set(load.versions) == {"v1"}
    shown = serving.model("good")
    assert shown["state"] == "failed"
    assert digest in shown["message"]
    assert next((version["tag"], version["weight"]) for version in shown["versions"]) == ("v1", 100)


def test_a_truncated_download_is_refused(serving: Running, spoilt: Registry, layout: Path) -> None:
    digest = model_layer(layout, "samples/iris:bad")
    path = spoilt.blob_path(digest)
    path.write_bytes(path.read_bytes()[:2000])
    forget(serving, digest)
    serving.registries[spoilt.host] = {"plain_http": True}
    serving.models["cut"] = {"kit": f"{spoilt.host}/samples/iris:bad"}
    assert serving.apply(check=False).returncode == 1
    shown = serving.model("cut")
    assert shown["state"] == "failed"
    assert digest in shown["message"]
    assert "2000" in shown["message"]
    assert serving.infer("good").status_code == 200


def test_a_faulty_config_changes_nothing(serving: Running) -> None:
    before = _lasting(serving)
    serving.models["good"]["repliccas"] = 2
    done = serving.apply(check=False)
    assert done.returncode == 2
    assert "models[0].repliccas: unknown field; did you mean 'replicas'?" in done.stderr
    refused = requests.put(
        f"http://{serving.admin}/api/config",
        json={"models": [{"name": "good", "kit": "x y", "spare": 1}]},
        headers=serving.token,
        timeout=10,
    )
    assert refused.status_code == 400
    assert len(refused.json()["faults"]) == 2
    assert _lasting(serving) == before


def test_gpus_that_are_not_there_are_refused_with_the_arithmetic(serving: Running) -> None:
    before = _lasting(serving)
    serving.models["large"] = {**serving.models["good"], "resources": {"gpus": 64}}
    done = serving.apply(check=False)
    assert done.returncode == 2
    assert "large asks for 64 GPUs for each worker; this machine has " in done.stderr
    assert _lasting(serving) == before


def test_what_needs_a_restart_is_named(serving: Running) -> None:
    serving.settings = {"health": "127.0.0.1:9"}
    try:
        done = serving.apply(check=False)
    finally:
        serving.settings = {}
    assert done.returncode == 1
    assert "health can only change with a restart" in done.stderr


def test_a_port_of_another_program_is_named_and_nothing_changes(serving: Running) -> None:
    before = _lasting(serving)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        serving.settings = {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        try:
            done = serving.apply(check=False)
        finally:
            serving.settings = {}
    assert done.returncode == 1
    assert f"Address already in use); it stays at 127.0.0.1:{serving.port}" in done.stderr
    assert _lasting(serving) == before
    assert serving.infer("good").status_code == 200


def test_web_pages_cannot_change_anything(serving: Running) -> None:
    url = f"http://{serving.admin}/api/config"
    page = {"Origin": "http://evil.test", **serving.token}
    assert requests.put(url, json={}, headers=page, timeout=10).status_code == 403
    assert requests.put(url, data="{}", headers=serving.token, timeout=10).status_code == 415
    assert requests.put(url, json={}, headers={"Host": "evil.test"}, timeout=10).status_code == 400


@pytest.fixture
def endless(tmp_path: Path) -> str:
    """The name of kits that load for ever (`load`) or compute for as long as a call says (`call`)."""
    builder = LayoutBuilder(tmp_path / "endless")
    for tag, write in (("call", looping_torchscript), ("load", endless_load)):
        data = write(tmp_path).read_bytes()
        builder.kit(f"test/endless:{tag}", tar(("model.pt", data)), path="model.pt")
    return f"oci-layout:{builder.directory}:test/endless"


def loading(serving: Running, model: str) -> list[int]:
    """Process ids of workers that load a model and run; each has a file for the case that it hangs."""
    processes = [int(path.suffix[1:]) for path in (serving.home / "hung").glob(f"{model}.*.load.*")]
    assert serving.process is not None
    family = descendants(serving.process.pid)
    return [process for process in processes if process in family]


def test_calls_and_loads_that_do_not_end_are_ended(serving: Running, endless: str) -> None:
    def call(rounds: int) -> int:
        inputs = [
            {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [rounds]},
            {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]},
        ]
        body = {"inputs": inputs}
        return requests.post(f"{serving.url}/v2/models/call/infer", json=body, timeout=30).status_code

    serving.models["call"] = {"kit": f"{endless}:call", "compute_timeout": "1s"}
    serving.models["late"] = {"kit": f"{endless}:load", "load_timeout": "2s"}
    applied = serving.apply(check=False)
    assert "did not load within 2 s" in applied.stdout + applied.stderr
    assert serving.model("call")["state"] == "ready"

    assert call(1) == 200
    (worker,) = serving.workers("call")
    assert call(FOR_EVER) == 504
    ended = time.monotonic()
    while call(1) != 200:
        assert time.monotonic() - ended < 30.0
        time.sleep(0.1)
    assert serving.workers("call") != [worker]
    assert "worker.stuck" in serving.events()

    serving.models = {"good": serving.models["good"], "removed": {"kit": f"{endless}:load"}}
    serving.write()
    apply = subprocess.Popen(
        [*KITSERVE, "apply", str(serving.file)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "KITSERVE_HOME": str(serving.home)},
    )
    serving.wait(lambda _: loading(serving, "removed"))
    serving.models.pop("removed")
    serving.apply()
    removed = time.monotonic()
    apply.wait(10)
    while loading(serving, "removed"):
        assert time.monotonic() - removed < 15.0
        time.sleep(0.1)
    assert serving.infer("good").status_code == 200
