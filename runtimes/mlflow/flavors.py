"""The flavors of a model of MLflow: which of them is served, and from which of the directory's files.

The other files there are no models of their own: the environment, the example, code, parts of a wrapper. The
flavor `python_function` wraps another one. By itself it is code, which needs MLflow and all that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runtimes.errors import LoadError, ModelError, NoRuntime, UnsafeFormat
from runtimes.formats import Format
from runtimes.mlflow.mlmodel import NAME, MLmodel, read_mlmodel, text

_WRAPPER = "python_function"
_MAX_NAMES = 5
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a flavor has its model."""

    library: str
    """What people call the library."""
    version: str
    """The member with the library's version."""
    member: str = ""
    """The member with the path of the model, within the directory."""
    default: str = ""
    """That path where there is no such member."""
    is_named_model: bool = False
    """Whether the path is a directory in which the model is called `model`, with any suffix."""


# Those whose files are data first, as a model may be saved in several.
_LAYOUTS: Mapping[str, _Layout] = {
    "onnx": _Layout("ONNX", "onnx_version", "data", "model.onnx"),
    "xgboost": _Layout("XGBoost", "xgb_version", "data", "model.xgb"),
    "lightgbm": _Layout("LightGBM", "lgb_version", "data", "model.lgb"),
    "catboost": _Layout("CatBoost", "catboost_version", "data", "model.cb"),
    "keras": _Layout("Keras", "keras_version", "data", "data", is_named_model=True),
    "tensorflow": _Layout("TensorFlow", "keras_version", "data", "data", is_named_model=True),
    "sentence_transformers": _Layout(
        "sentence-transformers", "sentence_transformers_version", "", "model.sentence_transformer"
    ),
    "transformers": _Layout("transformers", "transformers_version", "model_binary", "model"),
    "pytorch": _Layout("PyTorch", "pytorch_version", "model_data", "data", is_named_model=True),
    "sklearn": _Layout("scikit-learn", "sklearn_version", "pickled_model", "model.pkl"),
}

SAVED_WITH = (
    "mlflow.sklearn, mlflow.xgboost, mlflow.lightgbm, mlflow.catboost, mlflow.onnx, mlflow.tensorflow, "
    "mlflow.keras, mlflow.transformers, or mlflow.pytorch with serialization_format='pt2'"
)


@dataclass(frozen=True, slots=True)
class Flavor:
    """The flavor of a model that is served, and where its model is."""

    name: str
    library: str
    version: str
    """The version of the library that the model was made with, "" where that is not said."""
    model: str
    """The path of a file, or of a directory, within the model's."""
    is_named_model: bool = False

    def holds(self, path: PurePosixPath) -> bool:
        """Tell whether the file at `path`, within the model's directory, is the model or one of its files."""
        model = PurePosixPath(self.model)
        if path == model:
            return True
        if model not in path.parents:
            return False
        first = path.relative_to(model).parts[0]
        return not self.is_named_model or first.partition(".")[0] == "model"


def flavor_of(mlmodel: MLmodel) -> Flavor:
    """Return the flavor that is served.

    Raises:
        UnsafeFormat: where the model has no flavor but `python_function`.
        NoRuntime: where it has only flavors that are not served.
    """
    for name, layout in _LAYOUTS.items():
        members = mlmodel.flavors.get(name)
        if members is None:
            continue
        model, is_named_model = text(members.get(layout.member)) or layout.default, layout.is_named_model
        if name == "tensorflow" and (saved_model := text(members.get("saved_model_dir"))):
            model, is_named_model = saved_model, False
        return Flavor(name, layout.library, text(members.get(layout.version)), model, is_named_model)
    others = [name[:_MAX_NAME] for name in mlmodel.flavors if name != _WRAPPER][:_MAX_NAMES]
    if not others and _WRAPPER in mlmodel.flavors:
        loader = text(mlmodel.flavors[_WRAPPER].get("loader_module"))[:_MAX_NAME] or "a module of its own"
        raise UnsafeFormat(
            f"{mlmodel.path} has the flavor python_function alone (loaded by {loader}), which is code that "
            f"needs MLflow; it is never run, not even with allow_code: save the model with {SAVED_WITH}, or "
            "set the Kitfile's model.path to a file in the directory that is a model by itself"
        )
    named = ", ".join(map(repr, others)) or "none"
    raise NoRuntime(
        f"{mlmodel.path} has the flavors {named}, and none of them is served; save the model with "
        f"{SAVED_WITH}, or export it to ONNX"
    )


def without_wrappings(formats: Mapping[Path, Format]) -> tuple[dict[Path, Format], list[ModelError]]:
    """Return the formats of files without those in directories of MLflow that are not the model there.

    Directories whose model is not served have no files left; the second list says why, in an error for each.
    """
    remaining, refusals = dict(formats), list[ModelError]()
    paths = [path for path in formats if path.name == NAME]
    # What is within a directory of MLflow belongs to it, a model of MLflow included.
    for path in sorted(paths, key=lambda path: len(path.parts)):
        if path not in remaining:
            continue
        try:
            mlmodel = read_mlmodel(path)
            if mlmodel is None:
                continue
            flavor = flavor_of(mlmodel)
        except ModelError as error:
            refusals.append(error)
            _remove(remaining, path.parent, lambda _: False)
            continue
        if not _remove(remaining, path.parent, flavor.holds):
            refusals.append(
                LoadError(
                    f"{path} says that the model of the flavor {flavor.name} is {flavor.model}, and that is "
                    "not there; pack the whole directory as MLflow saved it"
                )
            )
    return remaining, refusals


def _remove(formats: dict[Path, Format], directory: Path, holds: Callable[[PurePosixPath], bool]) -> bool:
    """Remove the files below `directory` that `holds` says no to; tell whether there are others."""
    has_others = False
    for path in [path for path in formats if directory in path.parents]:
        if holds(PurePosixPath(path.relative_to(directory))):
            has_others = True
        else:
            del formats[path]
    return has_others
