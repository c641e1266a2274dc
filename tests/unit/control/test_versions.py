from __future__ import annotations

from typing import Any

import pytest

from gateway.config.config import Model
from gateway.control.state.versions import (
    Version,
    is_version,
    kind_of,
    version_from_json,
    version_of,
    version_to_json,
)
from gateway.oci.reference import Digest

KIT = "registry.test/team/iris:v1"
DIGEST = str(Digest.of(b"one"))
OTHER_DIGEST = str(Digest.of(b"two"))
SHORT = DIGEST.removeprefix("sha256:")[:12]


def version(kit: str = KIT, digest: str = DIGEST, number: int = 1, **model: Any) -> Version:
    return version_of(
        Model.model_validate({"name": "iris", "kit": "registry.test/any:v1", **model}), kit, digest, number
    )


@pytest.mark.parametrize(
    "other",
    [
        version(name="lilac"),
        version(kit="registry.test/team/iris:v2"),
        version(kit="registry.test/team/lilac:v1"),
        version(digest=OTHER_DIGEST),
        version(runtime="onnx"),
        version(resources={"cpus": 2}),
        version(resources={"gpus": 0.5}),
        version(replicas=2),
        version(replicas={"min": 1, "max": 3}),
        version(replicas={"target_ongoing_requests": 2}),
        version(replicas={"min": 0}),
        version(replicas={"upscale_delay": 9}),
        version(replicas={"downscale_delay": 9}),
        version(replicas={"downscale_to_zero_delay": 9}),
        version(replicas={"wake_timeout": 9}),
        version(batching={}),
        version(batching={"max_delay": 0}),
        version(queue={"max_requests": 9}),
        version(queue={"max_bytes": "1MiB"}),
        version(timeout=9),
    ],
    ids=[
        "name",
        "tag",
        "repository",
        "digest",
        "runtime",
        "cpus",
        "gpus",
        "replicas",
        "most",
        "target",
        "none",
        "up",
        "down",
        "to zero",
        "wake",
        "batching",
        "delay",
        "queue",
        "bytes",
        "timeout",
    ],
)
def test_what_needs_other_workers_changes_the_fingerprint(other: Version) -> None:
    assert other.fingerprint != version().fingerprint
    assert kind_of(other.app) != kind_of(version().app)


@pytest.mark.parametrize(
    "same",
    [
        version(number=2),
        version(canary={"kit": "registry.test/team/iris:v9", "weight": 7}),
        version(kit=f"{KIT}@{DIGEST}"),
        version(runtime="auto", resources={"cpus": 1, "gpus": 0}, replicas=1, timeout="1m", queue={}),
    ],
    ids=["number", "canary", "pinned", "defaults written out"],
)
def test_what_needs_no_other_workers_leaves_it(same: Version) -> None:
    assert same.fingerprint == version().fingerprint
    assert kind_of(same.app) == kind_of(version().app)


def test_a_number_makes_another_app_of_the_same_kind() -> None:
    one, two = version(number=1), version(number=2)
    assert (one.app, two.app) == (f"{kind_of(one.app)}.1", f"{kind_of(one.app)}.2")


@pytest.mark.parametrize(
    ("kit", "names"),
    [
        (KIT, ("v1", DIGEST, SHORT)),
        ("registry.test/team/iris", ("latest", DIGEST, SHORT)),
        (f"registry.test/team/iris@{DIGEST}", (SHORT, DIGEST)),
        (f"oci-layout:/kits:team/iris:v1@{DIGEST}", ("v1", DIGEST, SHORT)),
    ],
    ids=["tag", "no tag", "digest", "layout"],
)
def test_a_version_answers_to_its_tag_and_digest(kit: str, names: tuple[str, ...]) -> None:
    found = version(kit=kit)
    assert found.names == names
    assert found.label == names[0]
    assert found.reference.endswith(f"@{DIGEST}")


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
    "one", [version(), version(runtime="onnx", resources={"gpus": 0.5}, replicas={"min": 2, "max": 4})]
)
def test_json_brings_a_version_back(one: Version) -> None:
    assert version_from_json(version_to_json(one)) == one


@pytest.mark.parametrize(("least", "first", "may_sleep"), [(0, 1, True), (1, 1, False), (3, 3, False)])
def test_a_version_that_may_sleep_is_proven_by_one_worker(least: int, first: int, may_sleep: bool) -> None:
    found = version(replicas={"min": least, "max": 4})
    assert (found.first_replicas, found.may_sleep) == (first, may_sleep)
