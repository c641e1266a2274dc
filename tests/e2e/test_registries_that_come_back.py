"""A registry that is away for a while, or lacks something, fails no model for good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kitserve import Running
from tests.support.load import Load
from tests.support.registry import Registry, run_registry

SECONDS = 60


@pytest.fixture
def filled(tmp_path: Path, layout: Path) -> Iterator[Registry]:
    """A registry of its own, to be stopped and damaged."""
    with run_registry(tmp_path / "registry") as registry:
        registry.push_layout(layout)
        yield registry


def is_ready(name: str, status: dict[str, object]) -> bool:
    models = status["models"]
    assert isinstance(models, list)
    return any(model["name"] == name and model["state"] == "ready" for model in models)


def test_what_a_registry_could_not_give_is_fetched_once_it_can(
    kitserve: Running, filled: Registry, layout: Path
) -> None:
    kitserve.models = {"good": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
    kitserve.registries[filled.host] = {"plain_http": True}
    kitserve.apply()
    index = json.loads((layout / "index.json").read_text())["manifests"]
    digest = next(
        entry["digest"]
        for entry in index
        if entry["annotations"]["org.opencontainers.image.ref.name"] == "samples/iris:v2"
    )
    manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
    blob = filled.blob_path(manifest["layers"][0]["digest"])
    hidden = blob.with_name("hidden")
    blob.rename(hidden)
    kitserve.models |= {
        "late": {"kit": f"{filled.host}/samples/iris:late"},
        "lacking": {"kit": f"{filled.host}/samples/iris:v2"},
    }
    with Load(f"{kitserve.url}/v2/models/good/infer", clients=1, pause=0.005) as load:
        # The tag is not pushed yet, and a layer is not there: both have failed, and are tried again.
        assert kitserve.apply(check=False).returncode == 1
        for name in ("late", "lacking"):
            shown = kitserve.model(name)
            assert shown["state"] == "failed", shown
            assert "404" in shown["message"]
        printed = kitserve.run("status", "--admin", kitserve.admin).stdout
        assert "(tried " in " ".join(printed.split())
        # The registry is away while they are tried again.
        filled.stop()
        kitserve.wait(lambda status: "cannot be reached" in json.dumps(status), SECONDS)
        filled.start()
        filled.retag("samples/iris", "v1", "late")
        hidden.rename(blob)
        kitserve.wait(lambda status: is_ready("late", status), SECONDS)
        kitserve.wait(lambda status: is_ready("lacking", status), SECONDS)
    assert load.failures == {}
    assert kitserve.infer("late").status_code == 200
    assert kitserve.infer("lacking").status_code == 200
    assert kitserve.model("late")["retry"] is None
