"""The estimator in a joblib file or a pickle, and the release of scikit-learn that made it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError

log = logging.getLogger(__name__)


def unpickle(path: Path) -> tuple[Any, str]:
    """Load the file; return what it holds and the version of scikit-learn that made it. Raises LoadError."""
    try:
        import joblib
        import sklearn
        from sklearn.exceptions import InconsistentVersionWarning
    except ImportError as error:
        raise LoadError(f"{path} needs scikit-learn: pip install 'kitserve[sklearn]' ({error})") from error
    version = sklearn.__version__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        failure = None
        try:
            estimator = joblib.load(path)
        except Exception as error:
            failure = error
    for warning in caught:
        if isinstance(warning.message, InconsistentVersionWarning):
            version = warning.message.original_sklearn_version
    if failure is not None:
        raise LoadError(
            f"scikit-learn {sklearn.__version__} cannot load {path}, made with {version}: {failure!r}"
        ) from failure
    if version != sklearn.__version__:
        versions = {"path": str(path), "made_with": version, "installed": sklearn.__version__}
        log.warning("made with another scikit-learn", extra=versions)
    return estimator, version
