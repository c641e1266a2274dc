from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config.config import GatewayConfig, load_config
from gateway.control.state import versions as versions_module
from gateway.control.state.desired import desired_from
from gateway.control.state.stored import (
    desired_from_json,
    desired_to_json,
    version_from_json,
    version_to_json,
)
from gateway.control.state.versions import Version, is_version, version_of
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference

KIT = "registry.test/team/iris:v1"
DIGEST = Digest.of(b"one")
OTHER_DIGEST = Digest.of(b"two")
SHORT = DIGEST.short


def version(kit: str = KIT, digest: Digest = DIGEST, number: int = 1, **model: Any) -> Version:
    """The version that a kit means for a model, whose fields are as a user writes them."""
    fields = {"name": "iris", "kit": "registry.test/any:v1", **model}
    (desired,) = desired_from(GatewayConfig.model_validate({"models": [fields]})).models
    return version_of(desired, PinnedReference.of(parse_reference(kit), digest), number)


@pytest.mark.parametrize(
    "other",
    [
        version(name="lilac"),
        version(kit="registry.test/team/iris:v2"),
        version(kit="registry.test/team/lilac:v1"),
        version(digest=OTHER_DIGEST),
        version(runtime="onnx"),
        version(file="onnx/model_int8.onnx"),
        version(resources={"cpus": 2}),
        version(resources={"gpus": 0.5}),
        version(batching={}),
        version(batching={"max_delay": 0}),
        version(queue={"max_requests": 9}),
        version(queue={"max_bytes": "1MiB"}),
        version(timeout=9),
        version(trust={"licenses": ["MIT"]}),
        version(inputs=[{"name": "x", "datatype": "FP32"}]),
        version(outputs=[{"name": "x", "datatype": "FP32"}]),
        version(inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]),
        version(engine={"context": 4096}),
        version(engine={"slots": 2}),
        version(engine={"task": "rerank"}),
        version(engine={"chat_template": "{{ messages }}"}),
        version(generation={"temperature": 0}),
        version(generation={"stop": ["</s>"]}),
        version(generation={"system_prompt": "Be brief."}),
    ],
    ids=[
        "name",
        "tag",
        "repository",
        "digest",
        "runtime",
        "file",
        "cpus",
        "gpus",
        "batching",
        "delay",
        "queue",
        "bytes",
        "timeout",
        "trust",
        "inputs",
        "outputs",
        "shape",
        "context",
        "slots",
        "task",
        "template",
        "temperature",
        "stop",
        "system prompt",
    ],
)
def test_what_needs_other_workers_changes_the_fingerprint(other: Version) -> None:
    assert other.kind != version().kind
    assert str(other.kind) != str(version().kind)


@pytest.mark.parametrize(
    "same",
    [
        version(number=2),
        version(canary={"kit": "registry.test/team/iris:v9", "weight": 7}),
        version(replicas=2),
        version(replicas={"min": 1, "max": 3}),
        version(replicas={"min": 0}),
        version(replicas={"target_ongoing_requests": 2}),
        version(replicas={"upscale_delay": 9}),
        version(replicas={"downscale_delay": 9}),
        version(replicas={"downscale_to_zero_delay": 9}),
        version(replicas={"wake_timeout": 9}),
        version(rollout={"steps": [{"weight": 5}]}),
        version(track="1m"),
        version(kit=f"{KIT}@{DIGEST}"),
        version(runtime="auto", resources={"cpus": 1, "gpus": 0}, replicas=1, timeout="1m", queue={}),
        version(engine={}, generation={"stop": []}),
    ],
    ids=[
        "number",
        "canary",
        "replicas",
        "maximum",
        "none",
        "target",
        "up",
        "down",
        "to zero",
        "wake",
        "rollout",
        "track",
        "pinned",
        "defaults written out",
        "nothing of a language model",
    ],
)
def test_what_needs_no_other_workers_leaves_it(same: Version) -> None:
    assert same.kind == version().kind


def test_a_version_has_the_fingerprint_that_earlier_releases_gave_it() -> None:
    assert version().kind.fingerprint == "a1fcb2d5"


def test_a_canary_has_a_file_of_its_own_or_the_models() -> None:
    canary = {"kit": "registry.test/team/iris:v2", "weight": 5}
    for fields, own, other in (
        ({"file": "a.onnx", "canary": canary}, "a.onnx", "a.onnx"),
        ({"file": "a.onnx", "canary": {**canary, "file": "b.onnx"}}, "a.onnx", "b.onnx"),
        ({"canary": {**canary, "file": "b.onnx"}}, None, "b.onnx"),
    ):
        assert version(**fields).file == own
        assert version(kit="registry.test/team/iris:v2", digest=OTHER_DIGEST, **fields).file == other


def test_files_are_stored_and_a_state_of_before_there_were_any_is_read() -> None:
    one = version(file="a.onnx")
    assert version_from_json(version_to_json(one)) == one
    document = json.loads(version_to_json(version()))
    del document["file"]
    assert version_from_json(json.dumps(document)) == version()
    canary = {"kit": "registry.test/team/iris:v2", "weight": 5, "file": "b.onnx"}
    model = {"name": "iris", "kit": KIT, "file": "a.onnx", "canary": canary}
    desired = desired_from(GatewayConfig.model_validate({"models": [model]}))
    assert desired_from_json(desired_to_json(desired), 0) == desired
    document = json.loads(desired_to_json(desired))
    del document["models"][0]["file"], document["models"][0]["canary"]["file"]
    (old,) = desired_from_json(json.dumps(document), 0).models
    assert (old.file, old.canary and old.canary.file) == (None, None)


def test_a_version_without_a_file_keeps_the_name_that_it_had() -> None:
    assert str(version().kind) == f"iris.v1.{SHORT}.a1fcb2d5"


@pytest.mark.parametrize("config", ["quickstart", "canary", "chat", "gpu", "rollout"])
def test_what_a_kit_means_for_a_model_is_worked_out_once(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick asks it of each model, and there may be hundreds."""
    kit = PinnedReference.of(parse_reference("oci-layout:/nowhere:iris:v1"), Digest.of(b"v1"))

    def versions() -> list[Version]:
        wanted = desired_from(load_config(Path(f"configs/{config}.yaml")))
        return [version_of(model, kit, 7) for model in wanted.models]

    before = versions()
    monkeypatch.setattr(versions_module, "_fingerprint", lambda version: pytest.fail(f"again for {version}"))
    assert versions() == before != []


def test_a_number_makes_another_app_of_the_same_kind() -> None:
    one, two = version(number=1), version(number=2)
    assert one.kind == two.kind
    assert (one.app, two.app) == (f"{one.kind}.1", f"{one.kind}.2")


@pytest.mark.parametrize(
    ("kit", "names"),
    [
        (KIT, ("v1", str(DIGEST), SHORT)),
        ("registry.test/team/iris", ("latest", str(DIGEST), SHORT)),
        (f"registry.test/team/iris@{DIGEST}", (SHORT, str(DIGEST))),
        (f"oci-layout:/kits:team/iris:v1@{DIGEST}", ("v1", str(DIGEST), SHORT)),
    ],
    ids=["tag", "no tag", "digest", "layout"],
)
def test_a_version_answers_to_its_tag_and_digest(kit: str, names: tuple[str, ...]) -> None:
    pinned = version(kit=kit)
    assert pinned.reference.names == names
    assert pinned.label == names[0]
    assert str(pinned.reference).endswith(f"@{DIGEST}")


@pytest.mark.parametrize(
    ("app", "ours"),
    [
        (version().app, True),
        (version(kit="registry.test/x:1.2.3", name="a.b-c_d", number=12345).app, True),
        ("kitserve", False),
        ("default", False),
        ("iris.v1", False),
        (f"iris.v1.{SHORT}.0a1b2c3d", False),
        (f"iris.v1.{SHORT}.0a1b2c3d.", False),
        (f"{SHORT}.0a1b2c3d.1", False),
    ],
)
def test_the_apps_of_others_on_a_cluster_are_told_apart(app: str, ours: bool) -> None:
    assert is_version(app) is ours


@pytest.mark.parametrize(
    "one",
    [
        version(),
        version(runtime="onnx", resources={"gpus": 0.5}, replicas={"min": 2, "max": 4}),
        version(inputs=[{"name": "x", "datatype": "FP16", "shape": [-1, 4]}]),
        version(engine={"context": 4096, "task": "embedding"}),
        version(generation={"temperature": 1, "seed": 7, "stop": ["</s>"], "system_prompt": "Be brief."}),
    ],
)
def test_json_brings_a_version_back(one: Version) -> None:
    assert version_from_json(version_to_json(one)) == one


@pytest.mark.parametrize(("minimum", "first", "may_sleep"), [(0, 1, True), (1, 1, False), (3, 3, False)])
def test_a_version_that_may_sleep_is_proven_by_one_worker(minimum: int, first: int, may_sleep: bool) -> None:
    scaling = version(replicas={"min": minimum, "max": 4}).serving.scaling
    assert (scaling.first, scaling.may_sleep) == (first, may_sleep)
