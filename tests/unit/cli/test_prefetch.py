"""Kits that are fetched while Ray starts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.cli import prefetch as module
from gateway.cli.prefetch import Prefetch, fetch
from gateway.config.config import GatewayConfig
from gateway.control.loop.library import open_library
from gateway.control.loop.retries import host_of
from gateway.control.state.desired import desired_from
from gateway.errors import KitError, NotFound, RegistryUnavailable, Unauthorized
from gateway.oci.reference import Reference
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.waiting import wait


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(tmp_path / "layout")
    builder.kit("a/iris:v1", tar(("model/model.onnx", b"1")))
    return builder


def config_of(layout: LayoutBuilder, *models: Mapping[str, object]) -> GatewayConfig:
    named = [
        {"name": f"m{number}", "kit": f"oci-layout:{layout.directory}:a/iris:v1", **model}
        for number, model in enumerate(models)
    ]
    return GatewayConfig.model_validate({"models": named})


def unpacked(home: Path) -> list[Path]:
    return list(home.rglob("model.onnx"))


def test_a_small_kit_is_unpacked_and_not_leased(layout: LayoutBuilder, tmp_path: Path) -> None:
    config, home = config_of(layout, {}), tmp_path / "home"
    prefetch = Prefetch(config, home)
    prefetch.start()
    wait(lambda: unpacked(home) != [])
    prefetch._thread.join(10)
    assert [file.read_bytes() for file in unpacked(home)] == [b"1"]


def test_a_large_kit_is_left_to_its_worker(
    layout: LayoutBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_small", lambda *_: False)
    desired, home = desired_from(config_of(layout, {})), tmp_path / "home"
    fetch(open_library(home, desired), desired.models[0].kit, desired)
    assert unpacked(home) == []


def test_a_kit_that_no_model_may_use_is_not_unpacked(layout: LayoutBuilder, tmp_path: Path) -> None:
    config, home = config_of(layout, {"trust": {"licenses": ["MIT"]}}), tmp_path / "home"
    prefetch = Prefetch(config, home)
    prefetch.start()
    prefetch._thread.join(10)
    assert unpacked(home) == []


def test_one_that_fails_does_not_keep_the_others_back_but_the_end_does(
    layout: LayoutBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    going_on = threading.Event()

    def fail(_library: object, reference: Reference, _desired: object) -> None:
        asked.append(str(reference))
        going_on.wait(10)
        raise KitError("it is none")

    monkeypatch.setattr(module, "fetch", fail)
    other = {"kit": f"oci-layout:{layout.directory}:a/iris:v2"}
    prefetch = Prefetch(config_of(layout, {}, {}, other), tmp_path)
    going_on.set()
    prefetch.start()
    prefetch._thread.join(10)
    assert [reference[-2:] for reference in asked] == ["v1", "v2"], "each kit once"
    asked.clear()
    prefetch = Prefetch(config_of(layout, {}, other), tmp_path)
    prefetch.stop()
    prefetch.start()
    prefetch._thread.join(10)
    assert asked == []


def test_a_registry_that_fails_is_asked_for_no_other_kit(
    layout: LayoutBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    errors = {"locked.io": Unauthorized("401"), "silent.io": RegistryUnavailable("silent")}

    def fail(_library: object, reference: Reference, _desired: object) -> None:
        asked.append(str(reference))
        raise errors.get(host_of(reference), NotFound("no such tag"))

    monkeypatch.setattr(module, "fetch", fail)
    kits = [f"{host}/a:{tag}" for tag in ("v1", "v2") for host in ("locked.io", "silent.io", "empty.io")]
    prefetch = Prefetch(config_of(layout, *({"kit": kit} for kit in kits)), tmp_path)
    prefetch.start()
    prefetch._thread.join(10)
    assert asked == ["locked.io/a:v1", "silent.io/a:v1", "empty.io/a:v1", "empty.io/a:v2"]


def test_a_cache_that_cannot_be_opened_is_told_by_who_needs_it(
    layout: LayoutBuilder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").write_text("no directory")
    prefetch = Prefetch(config_of(layout, {}), tmp_path / "home")
    prefetch.start()
    prefetch._thread.join(10)
    assert capfd.readouterr().err == ""
