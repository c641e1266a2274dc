"""The trial of files of estimators that hold models of engines which end their process over damaged bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from runtimes.trial import Trial

ENGINES: Mapping[str, str] = {"catboost": "CatBoost", "lightgbm": "LightGBM", "xgboost": "XGBoost"}
"""What these engines are called, by package."""

_BYTES = 8 << 30  # of address space, most of which libraries reserve


def try_first(path: Path, names: Iterable[str], packages: Collection[str], rehearsal: str) -> None:
    """Have a child process load the file where it names one of the packages.

    Args:
        path: the file.
        names: the dotted names that it imports.
        packages: those of `ENGINES` whose bytes are not checked before the engine reads them.
        rehearsal: `module:function`, which loads the file at a path.

    Raises:
        LoadError: where it cannot be loaded, or ended the child.
    """
    engines = {name.partition(".")[0] for name in names} & set(packages)
    if engines:
        title = " or ".join(ENGINES[engine] for engine in sorted(engines))
        with Trial(title, rehearsal, _BYTES + 16 * path.stat().st_size, path.parent) as trial:
            trial.check(path)
