"""The runtime of skops files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from runtimes.base import Resources
from runtimes.errors import LoadError, ModelError
from runtimes.extras import missing_library
from runtimes.formats import Format, identify
from runtimes.pickles.refusals import Refused
from runtimes.sklearn.model import SklearnModel


class SkopsRuntime:
    """Loads files of `skops.io.dump`: estimators of scikit-learn, without running code."""

    name: ClassVar[str] = "skops"
    formats: ClassVar[tuple[Format, ...]] = (Format.SKOPS,)

    def load(self, path: Path, resources: Resources) -> SklearnModel:
        """Load the estimator. Raises LoadError, and UnsafeFormat for what is not on the allow-list."""
        from runtimes.sklearn.rehearsal import ENGINES, try_first

        names = self.check(path)
        # skops has the engine read its bytes before anybody can check them.
        try_first(path, names, ENGINES.keys(), f"{__name__}:rehearse")
        return self.load_here(path, resources, names)

    def load_here(self, path: Path, resources: Resources, names: list[str]) -> SklearnModel:
        """Load the estimator in this process; `names` are those that `check` returned. Raises LoadError."""
        from runtimes.pickles.whole import check_whole
        from runtimes.sklearn.runtime import model_of

        try:
            import skops
            import skops.io
        except ImportError as error:
            raise missing_library(path, "skops", "skops", error) from error
        try:
            # skops asks for a part of these only: all are on the list.
            estimator = skops.io.load(path, trusted=names)
            check_whole(estimator)
            return model_of(
                estimator, path, resources, f"loaded by skops {skops.__version__}", "sklearn_skops"
            )
        except Refused as error:
            raise LoadError(f"{path} is damaged: {error}; copy or save the model again") from error
        except ModelError:
            raise
        except Exception as error:
            raise LoadError(
                f"skops {skops.__version__} refuses {path}: {str(error) or repr(error)}"
            ) from error

    def check(self, path: Path) -> list[str]:
        """Return all that the file names. Raises LoadError and UnsafeFormat, without skops."""
        from runtimes.skops import schema

        format_ = identify(path)
        if format_ is not Format.SKOPS:
            raise LoadError(f"{path} is no whole skops file but {format_.title}; save the model again")
        return schema.check(path)

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the estimator is loaded."""
        return


def rehearse(path: Path) -> None:
    """Load the file, whose model answers made-up rows then. Raises LoadError and UnsafeFormat."""
    runtime = SkopsRuntime()
    runtime.load_here(path, Resources(), runtime.check(path)).close()
