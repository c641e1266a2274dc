"""The files that a kit's model names, and that are in layers which serving does not need otherwise.

An ONNX file may keep its weights in files beside it, and OpenVINO's IR and SavedModels always do. `kit init`
does not know all of those: it puts them into a code layer, together with whatever else it does not know. Only
the files that are named are taken from there. So it is with the `MLmodel` of a directory of MLflow, where
that is packed file by file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from gateway.errors import UnsafeArchive
from gateway.kits.kit import Kit
from gateway.kits.layer import Archive, Layer, Role
from gateway.kits.paths import safe_path
from gateway.kits.pull import WantedLayer
from runtimes.errors import LoadError

_ROLES = frozenset({Role.CODE, Role.DATASET, Role.DOCS})
_MAX_FILES = 1_000
_MLMODEL = "MLmodel"
# Written by MLflow alone.
_OF_MLFLOW = frozenset({"python_env.yaml", "serving_input_example.json"})


def missing_files(kit: Kit, root: Path, files: Iterable[str]) -> frozenset[str]:
    """Return the files that the models among `files`, which are below `root`, name and that are not there.

    They are paths within the kit; a path that leads out of it is left to the runtime, which refuses it. None
    are returned where no other layer of the kit could hold any, and at most 1,000 files are read.
    """
    # Imported here, because numpy comes with it.
    from runtimes import onnx_file
    from runtimes.formats import Format, identify
    from runtimes.openvino import ir_file
    from runtimes.tensorflow import saved_model_file

    readers = {
        Format.ONNX: onnx_file.external_files,
        Format.OPENVINO: ir_file.external_files,
        Format.SAVED_MODEL: saved_model_file.external_files,
    }

    if not any(_may_hold(layer) for link in kit.chain for layer in link.layers):
        return frozenset()
    paths = frozenset(files)
    missing = {mlmodel for mlmodel in map(_mlmodel_beside, paths) if mlmodel} - paths
    for path in sorted(paths)[:_MAX_FILES]:
        with suppress(LoadError):
            reader = readers.get(identify(root / path))
            if reader is not None:
                locations = reader(root / path)
                missing |= {name for name in _within_kit(path, locations) if not (root / name).exists()}
    return frozenset(missing)


def holders(kit: Kit, missing: frozenset[str]) -> Iterator[WantedLayer]:
    """Yield the layers that may hold missing files, those of the most specific path first.

    Where several kits of a chain have such a layer, that of the kit with the model comes first.
    """
    candidates = [
        (path, WantedLayer(link.reference, layer, files))
        for link in reversed(kit.chain)
        for layer in link.layers
        if _may_hold(layer) and (path := layer.safe_path) is not None
        if (files := frozenset(name for name in missing if _covers(layer, path, name)))
    ]
    candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)
    return (wanted for _, wanted in candidates)


def _mlmodel_beside(path: str) -> str:
    """Return where the MLmodel of a file is that MLflow writes beside one; "" for other files."""
    directory, _, name = path.rpartition("/")
    if name not in _OF_MLFLOW:
        return ""
    return f"{directory}/{_MLMODEL}" if directory else _MLMODEL


def _may_hold(layer: Layer) -> bool:
    return layer.role in _ROLES and (layer.archive is Archive.TAR or bool(layer.path))


def _covers(layer: Layer, path: str, name: str) -> bool:
    return name == path or (layer.archive is Archive.TAR and (not path or name.startswith(f"{path}/")))


def _within_kit(model: str, locations: Iterable[str]) -> Iterator[str]:
    for location in locations:
        with suppress(UnsafeArchive):
            if location and not location.startswith("/"):
                yield safe_path(str(PurePosixPath(model).parent / location))
