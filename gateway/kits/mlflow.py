"""What a kit's directory of MLflow says of the model that was chosen in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from gateway.kits.library import UnpackedKit
from runtimes.base import Signature
from runtimes.errors import LoadError, ModelError
from runtimes.mlflow.fit import Fit, fit
from runtimes.mlflow.flavors import Flavor, flavor_of
from runtimes.mlflow.mlmodel import NAME, MLmodel, read_mlmodel
from runtimes.mlflow.schema import read_schema
from runtimes.select import Choice

_WORDS = (
    ("MLflow", "mlflow_version"),
    ("run", "run_id"),
    ("model", "model_uuid"),
    ("made", "utc_time_created"),
)


@dataclass(frozen=True, slots=True)
class MLflowModel:
    """A model of MLflow, and the flavor of it that is served."""

    mlmodel: MLmodel
    flavor: Flavor

    def fit(self, signature: Signature | None) -> Fit:
        """Fit the signature in its MLmodel to that of the model's file; one that cannot be read is noted."""
        try:
            return fit(signature, read_schema(self.mlmodel.inputs))
        except LoadError as error:
            return Fit(signature or Signature((), ()), notes=(f"it cannot be read: {error}",))

    def __str__(self) -> str:
        """Return the flavor, and what else people know the model by."""
        flavor, facts = self.flavor, self.mlmodel.facts
        parts = [" ".join(part for part in (flavor.name, flavor.version) if part)]
        parts += [f"{word} {facts[name]}" for word, name in _WORDS if name in facts]
        return ", ".join(parts)

    @property
    def maker(self) -> str:
        """The library and the version that the model was made with, "" where that is not said."""
        return f"{self.flavor.library} {self.flavor.version}" if self.flavor.version else ""


def mlflow_model(kit: UnpackedKit, choice: Choice) -> MLflowModel | None:
    """Return the model of MLflow that the chosen file is of; None where it is of none.

    `choose` tells of files that cannot be read; where the model was named by itself, none are needed.
    """
    for directory in choice.path.parents:
        if directory != kit.path and kit.path not in directory.parents:
            break
        try:
            mlmodel = read_mlmodel(directory / NAME)
            flavor = None if mlmodel is None else flavor_of(mlmodel)
        except ModelError:
            continue
        path = PurePosixPath(choice.path.relative_to(directory))
        if mlmodel is not None and flavor is not None and flavor.holds(path):
            return MLflowModel(mlmodel, flavor)
    return None
