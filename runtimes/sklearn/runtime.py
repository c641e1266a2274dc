"""The runtime of scikit-learn's estimators.

A pickle of known libraries is loaded without running what is in it. To load any other runs its code, so
`select.choose` chooses such a file only where that is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Resources
from runtimes.errors import LoadError
from runtimes.formats import Format, identify
from runtimes.sklearn.loading import unpickle
from runtimes.sklearn.model import SklearnModel
from runtimes.sklearn.signature import signature_of


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
        refuse them would refuse every kit after each upgrade of the server. As every estimator predicts one
        row of zeros here, one that does not work fails now and not at its first call.
        """
        format_ = identify(path)
        if format_ is not Format.PICKLE:
            raise LoadError(f"{path} is no whole pickle but {format_.title}; save the model again")
        estimator, version = unpickle(path, runs_code=self._runs_code)
        try:
            _limit_threads(estimator, resources.threads)
            return SklearnModel(estimator, signature_of(estimator, path))
        except (AttributeError, ImportError, KeyError, TypeError) as error:
            raise LoadError(
                f"{path} was made with scikit-learn {version}, and its {type(estimator).__name__} does not "
                f"work with the one installed: {error!r}; install that version, or make the model again"
            ) from error

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the pickle is loaded."""
        return


def _limit_threads(estimator: Any, threads: int) -> None:
    """Limit the threads of the estimator and of this process's linear algebra libraries."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    parallel = {
        name: threads
        for name, value in estimator.get_params().items()
        if name.rpartition("__")[2] == "n_jobs" and value is not None
    }
    estimator.set_params(**parallel)
