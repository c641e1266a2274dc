"""Which extras a model needs that are not installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from runtimes.extras import EXTRA_OF, missing_extras

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_every_extra_is_one_of_the_package() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert set(EXTRA_OF.values()) <= set(extras)


def test_nothing_is_missing_of_a_runtime_that_needs_no_extra() -> None:
    assert missing_extras("onnx") == ()


@pytest.mark.parametrize("runtime", ["xgboost", "skops", "keras"])
def test_a_library_that_is_not_installed_is_told_by_its_extra(
    monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    assert missing_extras(runtime) == (EXTRA_OF[runtime],)


def test_a_pickle_needs_the_libraries_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sklearn", "joblib", "lightgbm"):
        monkeypatch.setitem(sys.modules, package, None)
    imports = ("builtins.getattr", "joblib.numpy_pickle.NumpyArrayWrapper", "lightgbm.sklearn.LGBMClassifier")
    assert missing_extras("sklearn", imports) == ("sklearn", "lightgbm")
