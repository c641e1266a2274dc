"""Kits of every origin are served unless the policy refuses them; the cache keeps those that are served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.kits.library import Library
from gateway.oci.reference import Digest, parse_reference
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import kit_storage, pack_kit
from tests.support.kitserve import IRIS, Running
from tests.support.model_files import external_onnx, identity_onnx
from tests.support.pickles import CODE_IMPORTS, code_kit
from tests.support.registry import Registry
from tests.support.signing import SIMPLE, Signer, claim, tag_manifest


def _label(answer: requests.Response, name: str = "label") -> int:
    assert answer.status_code == 200, answer.text
    (label,) = next(output["data"] for output in answer.json()["outputs"] if output["name"] == name)
    return int(label)


def test_kits_from_every_kind_of_source_answer(
    kitserve: Running, registry: Registry, layout: Path, tmp_path: Path
) -> None:
    kit_storage(tmp_path / "kitops", layout, "127.0.0.1:5055")
    archive = tmp_path / "kits.tar"
    skopeo = shutil.which("skopeo")
    assert skopeo, "skopeo is not installed"
    command = [skopeo, "copy", f"oci:{layout}:samples/iris:v1-gzip", f"oci-archive:{archive}:samples/iris:v1"]
    subprocess.run(command, check=True, capture_output=True)
    kitserve.settings = {"kitops_home": str(tmp_path / "kitops")}
    kitserve.models = {
        "registry": {"kit": f"{registry.host}/samples/iris:v1"},
        "archive": {"kit": f"oci-layout:{archive}:samples/iris:v1"},
        "local": {"kit": "kit:127.0.0.1:5055/samples/iris:v2"},
        # Its model is that of a parent, which is beside it.
        "child": {"kit": f"oci-layout:{layout}:samples/iris-child:v1"},
        "local-child": {"kit": "kit:127.0.0.1:5055/samples/iris-child:v1"},
    }
    kitserve.apply()
    assert {name: _label(kitserve.infer(name)) for name in kitserve.models} == dict.fromkeys(
        kitserve.models, 0
    )
    assert kitserve.model("local")["versions"][0]["tag"] == "v2"


def test_a_kit_as_kit_init_lays_it_out_answers_with_the_file_that_the_config_names(
    kitserve: Running, tmp_path: Path
) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    model, weights = external_onnx("model.onnx.data")
    pack_kit(
        builder,
        "init:v1",
        ("model", "onnx/model.onnx", {"onnx/model.onnx": model}),
        ("part", "onnx/double.onnx", {"onnx/double.onnx": identity_onnx(1, [2])}),
        ("part", "model.safetensors", {"model.safetensors": b"\x02" + bytes(7) + b"{}"}),
        ("code", ".", {"onnx/model.onnx.data": weights, "train.py": b"print(1)"}),
    )
    kit = f"oci-layout:{builder.directory}:init:v1"
    kitserve.models = {"init": {"kit": kit}, "named": {"kit": kit, "file": "onnx/double.onnx"}}
    kitserve.apply()
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 1]}
    for name, expected in (("init", [2, 3]), ("named", [1, 1])):
        url = f"{kitserve.url}/v2/models/{name}/infer"
        answer = requests.post(url, json={"inputs": [tensor]}, timeout=20)
        assert answer.json()["outputs"][0]["data"] == expected
    # Another file of the same kit takes other workers.
    kitserve.models["init"] = {"kit": kit, "file": "onnx/double.onnx"}
    kitserve.apply()
    url = f"{kitserve.url}/v2/models/init/infer"
    assert requests.post(url, json={"inputs": [tensor]}, timeout=20).json()["outputs"][0]["data"] == [1, 1]


def test_kits_that_cannot_be_served_are_refused_without_a_worker(kitserve: Running, tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    wrong = {
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "page": b"<!DOCTYPE html><html></html>",
        "empty": b"",
        "cut": identity_onnx()[:-3],
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(90),
        "xgboost": b'{"learner":{}}',
        "alone": external_onnx("model.onnx.data")[0],
        "gguf": b"GGUF" + bytes(20),
    }
    for name, data in wrong.items():
        pack_kit(builder, f"{name}:v1", ("model", "model", {"model": data}))
    kitserve.models = {name: {"kit": f"oci-layout:{builder.directory}:{name}:v1"} for name in wrong}
    started = time.monotonic()
    assert kitserve.apply(check=False).returncode == 1
    assert time.monotonic() - started < 15
    for name in wrong:
        shown = kitserve.model(name)
        assert shown["state"] == "failed"
        assert f":{name}:v1@sha256:" in shown["message"]
    log = kitserve.log.read_text() + "".join(path.read_text() for path in kitserve.home.rglob("*.log"))
    assert f"{builder.directory}:gguf:v1" in log
    for name in wrong:
        assert f'"app": "{name}.' not in "".join(
            line for line in log.splitlines() if "version.deployed" in line
        )


@pytest.fixture
def signed(registry: Registry, layout: Path, tmp_path: Path) -> Signer:
    """The signer of samples/iris:v1 in the registry, and of no other kit."""
    signer = Signer(str(tmp_path / "prod.pub"))
    Path(signer.name).write_text(signer.pem)
    digest = (
        Library(tmp_path / "look").describe(parse_reference(f"oci-layout:{layout}:samples/iris:v1")).digest
    )
    builder = LayoutBuilder(tmp_path / "signatures")
    payload = signer.simple(claim(digest), builder.blob)
    assert payload["mediaType"] == SIMPLE
    manifest: dict[str, Any] = json.loads(tag_manifest([payload], builder.blob))
    builder.artifact(f"samples/iris:sha256-{digest.hex}.sig", manifest)
    registry.push_layout(builder.directory)
    return signer


def test_only_signed_kits_are_served_where_a_key_is_named(
    kitserve: Running, registry: Registry, signed: Signer
) -> None:
    kitserve.settings = {"trust": {"keys": [signed.name]}}
    unsigned = f"{registry.host}/samples/iris:v2"
    kitserve.models = {
        "signed": {"kit": f"{registry.host}/samples/iris:v1"},
        "unsigned": {"kit": unsigned},
        "excepted": {"kit": unsigned, "trust": {"keys": []}},
    }
    assert kitserve.apply(check=False).returncode == 1
    assert _label(kitserve.infer("signed")) == _label(kitserve.infer("excepted")) == 0
    refused = kitserve.model("unsigned")
    assert refused["state"] == "failed"
    assert "is not signed" in refused["message"]
    assert signed.name in refused["message"]
    assert kitserve.infer("unsigned").status_code == 503

    # A change of policy is a change of version: what was served goes on until its successor is judged.
    stranger = Signer(str(Path(signed.name).with_name("stranger.pub")))
    Path(stranger.name).write_text(stranger.pem)
    kitserve.settings = {"trust": {"keys": [stranger.name]}}
    assert kitserve.apply(check=False).returncode == 1
    assert "has no valid signature" in kitserve.model("signed")["message"]
    assert _label(kitserve.infer("signed")) == 0


def test_a_kit_that_runs_code_is_served_where_its_digest_is_named(kitserve: Running) -> None:
    kit = code_kit(kitserve.directory / "code")
    digest = Library(kitserve.directory / "look").describe(parse_reference(kit)).digest
    kitserve.models = {
        "named": {"kit": kit, "trust": {"allow_code": [str(digest)]}},
        "other": {"kit": kit, "trust": {"allow_code": [str(Digest.of(b"another"))]}},
    }
    assert kitserve.apply(check=False).returncode == 1
    assert kitserve.model("named")["versions"][0]["runtime"] == "sklearn"
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP64", "data": IRIS}
    url = f"{kitserve.url}/v2/models/named/infer"
    assert _label(requests.post(url, json={"inputs": [tensor]}, timeout=20), "predict") == 0
    message = kitserve.model("other")["message"]
    assert CODE_IMPORTS in message
    assert str(digest) in message


def test_a_kit_from_a_registry_that_is_not_allowed_is_a_fault_of_the_config(
    kitserve: Running, registry: Registry
) -> None:
    kitserve.settings = {"trust": {"registries": ["registry.example.com"]}}
    kitserve.models = {"iris": {"kit": f"{registry.host}/samples/iris:v1"}}
    done = kitserve.apply(check=False)
    assert done.returncode == 2
    assert "models[0].kit" in done.stderr
    assert "allows kits from registry.example.com only" in done.stderr


def test_the_cache_is_shown_and_never_takes_what_is_served(kitserve: Running, layout: Path) -> None:
    def cache(*arguments: str) -> Any:
        done = kitserve.run("cache", *arguments, "--home", str(kitserve.home), "-o", "json")
        return json.loads(done.stdout)

    kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.apply()
    kitserve.run("pull", f"oci-layout:{layout}:samples/iris:bad", "--home", str(kitserve.home))
    # By digest: two layouts may have one name for two kits.
    served = kitserve.model("iris")["versions"][0]["digest"]
    kits = {kit["digest"]: kit for kit in cache("ls")}
    (pulled,) = (kit["digest"] for kit in kits.values() if "samples/iris:bad" in kit["names"])
    assert "samples/iris:v1" in kits[served]["names"]
    assert kits[served]["in_use"]
    assert not kits[pulled]["in_use"]
    removed = {kit["digest"] for kit in cache("prune")["kits"]}
    assert pulled in removed
    assert served not in removed
    assert cache("verify")["bad_kits"] == []
    assert "samples/iris:v1" in kitserve.run("cache", "ls", "--home", str(kitserve.home)).stdout
    # A worker that is killed comes again from the cache.
    (worker,) = kitserve.workers("iris")
    expected = Counter(kitserve.events()) + Counter(["worker.lost", "worker.ready"])
    os.kill(worker, signal.SIGKILL)
    kitserve.wait(lambda _: Counter(kitserve.events()) >= expected)
    kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
    assert _label(kitserve.infer("iris")) == 0
