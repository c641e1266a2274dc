"""The estimator in a joblib file or a pickle, and the release of scikit-learn that made it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError
from runtimes.extras import missing_library
from runtimes.pickles.dry_run import dry_run
from runtimes.pickles.refusals import Refused
from runtimes.pickles.unpickler import load

log = logging.getLogger(__name__)


def unpickle(path: Path, *, runs_code: bool = False) -> tuple[Any, str]:
    """Load the file; return what it holds and the version of scikit-learn that made it.

    With `runs_code`, it may import and run anything; else only what is on the list of known names. Raises
    LoadError.
    """
    try:
        import joblib
        import sklearn
        from sklearn.exceptions import InconsistentVersionWarning
    except ImportError as error:
        raise missing_library(path, "scikit-learn", "sklearn", error) from error
    version = sklearn.__version__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        failure = None
        try:
            estimator = joblib.load(path) if runs_code else load(path)
        except Exception as error:
            failure = error
    for warning in caught:
        if isinstance(warning.message, InconsistentVersionWarning):
            version = warning.message.original_sklearn_version
    if isinstance(failure, Refused):
        raise LoadError(f"{path} is no pickle of known libraries: {failure}") from failure
    if failure is not None:
        # What is refused before it has a state warns of nothing.
        version = next(iter(dry_run(path).versions), version)
        reason = str(failure) if isinstance(failure, LoadError) else repr(failure)
        raise LoadError(
            f"scikit-learn {sklearn.__version__} cannot load {path}, made with {version}: {reason}"
        ) from failure
    if version != sklearn.__version__:
        versions = {"path": str(path), "made_with": version, "installed": sklearn.__version__}
        log.warning("made with another scikit-learn", extra=versions)
    return estimator, version
