"""The runtime of scikit-learn's estimators, and of those of other libraries that have its interface.

A pickle of known libraries is loaded without running what is in it. To load any other runs its code, so
`select.choose` chooses such a file only where that is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Resources
from runtimes.errors import LoadError
from runtimes.formats import Format, identify
from runtimes.pickles.dry_run import dry_run
from runtimes.sklearn.loading import unpickle
from runtimes.sklearn.model import SklearnModel
from runtimes.sklearn.nested import is_estimator
from runtimes.sklearn.prepare import prepare
from runtimes.sklearn.rehearsal import try_first
from runtimes.sklearn.releases import changed_meaning


class SklearnRuntime:
    """Loads files of `joblib.dump` and `pickle.dump`, compressed ones included, on the CPU."""

    name: ClassVar[str] = "sklearn"
    formats: ClassVar[tuple[Format, ...]] = (Format.KNOWN_PICKLE, Format.PICKLE)

    def __init__(self, *, runs_code: bool = False) -> None:
        self._runs_code = runs_code

    def with_code(self) -> SklearnRuntime:
        """Return the runtime that runs the code in a file; see `CodeRuntime`."""
        return SklearnRuntime(runs_code=True)

    def load(self, path: Path, resources: Resources) -> SklearnModel:
        """Load the file. Raises LoadError, for one that is no pickle of known libraries, too.

        A file of another version of scikit-learn is loaded, and that is logged: most such files work, and to
        refuse them would refuse every kit after each upgrade of the server. As every estimator answers
        made-up rows here, one that does not work fails now and not at its first call.
        """
        format_ = identify(path)
        if format_ is not Format.PICKLE:
            raise LoadError(f"{path} is no whole pickle but {format_.title}; save the model again")
        if not self._runs_code:
            # XGBoost's and LightGBM's bytes are checked where they are unpickled.
            try_first(path, dry_run(path).imports, ("catboost",), f"{__name__}:rehearse")
        return self.load_here(path, resources)

    def load_here(self, path: Path, resources: Resources) -> SklearnModel:
        """Load the file in this process, whatever it holds. Raises LoadError."""
        estimator, version = unpickle(path, runs_code=self._runs_code)
        return model_of(estimator, path, resources, f"made with scikit-learn {version}")

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the pickle is loaded."""
        return


def rehearse(path: Path) -> None:
    """Load the file, whose model answers made-up rows then. Raises LoadError."""
    SklearnRuntime().load_here(path, Resources()).close()


def model_of(
    estimator: Any, path: Path, resources: Resources, origin: str, platform: str = "sklearn_pickle"
) -> SklearnModel:
    """Return the model of an estimator from the file at `path`; `origin` says what made it.

    Raises:
        LoadError: where it is no estimator that can be called, or does not work.
    """
    if not is_estimator(estimator):
        raise LoadError(
            f"{path} holds a {type(estimator).__name__}, not an estimator of scikit-learn; save the whole "
            "estimator or pipeline"
        )
    if changed := changed_meaning(estimator):
        raise LoadError(
            f"{path} was {origin}, and the one installed would read its {changed} otherwise and give wrong "
            "answers; install that version, or make the model again"
        )
    try:
        return SklearnModel(prepare(estimator, path, resources.threads), platform)
    except RecursionError as error:
        raise LoadError(f"{path} holds estimators within estimators too deep to be called") from error
    except (AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise LoadError(
            f"{path} was {origin}, and its {type(estimator).__name__} does not work with the one installed: "
            f"{error!r}; install that version, or make the model again"
        ) from error
