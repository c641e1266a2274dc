"""What versions take and give: said once by a worker, and known from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.contract import Announcement, Description, WorkerState
from gateway.control.state.database import State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.desired import DesiredModel
from gateway.control.state.versions import Version, version_of
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Kitfile
from gateway.kits.manifest import Format, Manifest
from gateway.oci.content import Descriptor
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, parse_reference
from gateway.worker.describe import describe
from runtimes.base import Signature, TensorSpec

KIT = parse_reference("registry.test/team/iris:v1")
DIGEST = Digest.of(b"one")
SIGNATURE = Signature(
    (TensorSpec("input", "FP32", (-1, 4)), TensorSpec("free", "BYTES")),
    (TensorSpec("scores", "FP32", (-1, 3)),),
)
DESCRIPTION = Description("onnxruntime_onnx", SIGNATURE, "Sorts flowers.", "MIT", {"": ("setosa", "né")})


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state.db")
    yield opened
    opened.close()


def version(number: int = 1) -> Version:
    return version_of(DesiredModel("iris", KIT), PinnedReference.of(KIT, DIGEST), number)


def report(
    version: Version, state: WorkerState = WorkerState.READY, description: Description | None = None
) -> Announcement:
    return Announcement("w", version.app, state, description=description)


def test_a_worker_is_asked_once_it_is_ready_until_it_has_told(state: State) -> None:
    state.keep_version(version())
    known = Descriptions(state)
    assert not known.hear(report(version(), WorkerState.PULLING))
    assert not known.hear(report(version(), WorkerState.LOADING))
    assert known.hear(report(version()))
    assert known.hear(report(version()))
    assert known.of(version().app) is None
    assert not known.hear(report(version(), description=DESCRIPTION))
    assert known.of(version().app) == DESCRIPTION
    assert not known.hear(report(version()))


def test_a_gateway_that_starts_again_need_not_ask(state: State) -> None:
    state.keep_version(version())
    Descriptions(state).hear(report(version(), description=DESCRIPTION))
    again = Descriptions(state)
    assert again.of(version().app) == DESCRIPTION
    assert not again.hear(report(version()))


def test_what_is_removed_is_forgotten_with_the_next_that_comes(state: State) -> None:
    state.keep_version(version(1))
    state.keep_version(version(2))
    known = Descriptions(state)
    known.hear(report(version(1), description=DESCRIPTION))
    state.drop_version(version(1).app)
    known.hear(report(version(2), description=DESCRIPTION))
    assert known.of(version(1).app) is None
    assert known.of(version(2).app) == DESCRIPTION


def test_nothing_is_kept_of_a_version_that_is_gone(state: State) -> None:
    known = Descriptions(state)
    assert not known.hear(report(version(), description=DESCRIPTION))
    assert known.of(version().app) is None
    assert state.descriptions() == {}


def kit(**kitfile: Any) -> Kit:
    manifest = Manifest(Format.MODELKIT, Descriptor("application/json", DIGEST, 2), (), {})
    return Kit(KIT, DIGEST, manifest, Kitfile.model_validate(kitfile), (), "")


def test_a_kit_says_what_its_model_is() -> None:
    package = {"description": "Sorts flowers.", "license": "MIT"}
    found = describe(kit(package=package), "onnxruntime_onnx", SIGNATURE, {"": ("setosa", "né")})
    assert found == DESCRIPTION
    model = {"name": "m", "description": "A model.", "license": "BSD"}
    assert describe(kit(model=model), "p", SIGNATURE, {}).about == "A model."
    both = describe(kit(model=model, package=package), "p", SIGNATURE, {})
    assert (both.about, both.license) == ("Sorts flowers.", "BSD")
    assert describe(kit(), "p", SIGNATURE, {}) == Description("p", SIGNATURE)


def test_what_a_kit_says_at_length_is_cut() -> None:
    labels = {"y": tuple("x" * 5000 for _ in range(5000))}
    found = describe(kit(package={"description": "x" * 10**6}), "p", SIGNATURE, labels)
    assert len(found.about) == 2000
    assert found.labels == {"y": ("x" * 199 + "…",) * 100}
