"""The kit of a run: what its model is called, and what is said where it cannot be pulled or served."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.run_kit import pull_wanted, wanted
from gateway.errors import InvalidReference, KitError, NotFound, UnusableModel
from gateway.oci.options import SourceOptions
from runtimes import extras
from tests.support.pickles import code_kit

DIGEST = "sha256:" + "0" * 64


def pull(tmp_path: Path, text: str, *, may_run_code: bool = False) -> None:
    asked = wanted(text, None, may_run_code=may_run_code)
    pull_wanted(asked, SourceOptions(kitops_home=tmp_path / "kitops"), tmp_path / "home")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("registry.example.com/team/iris:v1", "iris"),
        (f"registry.example.com/team/iris@{DIGEST}", "iris"),
        ("kit:chat/smollm2.q4:v1", "smollm2.q4"),
        ("oci-layout:DIR:samples/iris:v1", "iris"),
        (f"oci-layout:DIR:{DIGEST}", "model"),
        ("registry.example.com/stats:v1", "model"),
        (f"registry.example.com/{'a' * 65}:v1", "model"),
    ],
)
def test_the_model_is_called_as_its_kit(text: str, name: str) -> None:
    assert wanted(text, None).name == name


def test_a_path_is_answered_with_the_reference_to_write(tmp_path: Path, layout: Path) -> None:
    config = tmp_path / "kitserve.yaml"
    config.touch()
    with pytest.raises(InvalidReference, match=f"`kitserve serve {config}`"):
        wanted(str(config), None)
    with pytest.raises(InvalidReference, match=f"write oci-layout:{layout}:NAME:TAG"):
        wanted(str(layout), None)


def test_a_relative_path_is_answered_so_too(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads as a kit in kit's own storage, which has none of that name."""
    monkeypatch.chdir(layout.parent)
    with pytest.raises(
        NotFound, match=r"no such kit: kit:samples:latest.* write oci-layout:samples:NAME:TAG"
    ):
        pull(tmp_path, "samples")


def test_a_tag_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, layout: Path) -> None:
    with pytest.raises(NotFound, match=r"no such kit: .* it has .*samples/iris:v1"):
        pull(tmp_path, f"oci-layout:{layout}:samples/iris:v9")


def test_a_library_that_is_missing_comes_with_the_commands_that_install_it(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"oci-layout:{layout}:samples/iris-pickle:v1"
    pull(tmp_path, text)
    monkeypatch.setattr(extras, "_is_here", lambda package: False)
    with pytest.raises(UnusableModel) as raised:
        pull(tmp_path, text)
    assert "pip install 'kitserve[sklearn]'" in str(raised.value)
    assert f"uvx --from 'kitserve[sklearn]' kitserve run {text}" in str(raised.value)


def test_a_kit_that_runs_code_needs_the_option_that_allows_it(tmp_path: Path) -> None:
    text = code_kit(tmp_path / "layout")
    with pytest.raises(KitError, match="`kitserve run --allow-code` does that"):
        pull(tmp_path, text)
    pull(tmp_path, text, may_run_code=True)
