"""The check of a `.keras` file: a zip of a configuration, weights in HDF5, and perhaps assets.

Keras makes instances of what the configuration names, so each class and function of it must be on the list of
`keras_names`. Weights in HDF5 can point into other files, and both forms can be far larger than the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.tensorflow.keras_names import CLASSES, FUNCTIONS
from runtimes.zip_members import DAMAGE, limit, read_json

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"

_MAX_CONFIG = 64 * 1024 * 1024
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
# What layers read as a file where it is a text.
_FILES = ("vocabulary", "idf_weights")


def check(path: Path) -> None:
    """Check all but the weights of the `.keras` file at `path`, without Keras.

    Raises:
        UnsafeFormat: where it names a class, a function or a file that is none of Keras's own.
        LoadError: where it is damaged.
    """
    try:
        config = read_json(path, CONFIG, _MAX_CONFIG)
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if not isinstance(config, dict):
        raise _damaged(path, ValueError(f"{CONFIG} is no object"))
    for part in _objects({**config, "compile_config": None}):
        _check_object(path, part)


def check_weights(path: Path) -> None:
    """Check the weights of the `.keras` file at `path` with h5py. Raises UnsafeFormat and LoadError."""
    import h5py

    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(WEIGHTS) as member,
            h5py.File(member, "r") as weights,
        ):
            size = sum(_dataset_bytes(path, weights, h5py))
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if size > limit(path):
        raise LoadError(
            f"{path} declares {size} bytes of weights, which it cannot hold; save the model again"
        )


def _objects(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object of a configuration."""
    parts = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            yield part
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _check_object(path: Path, part: Mapping[str, Any]) -> None:
    for key in _FILES:
        if isinstance(part.get(key), str):
            raise UnsafeFormat(
                f"{path} reads a {key} from the file {part[key][:80]!r}, which is none of its own; give the "
                "layer the words themselves, and save the model again"
            )
    if "class_name" not in part:
        return
    name, module, registered = (part.get(key) for key in ("class_name", "module", "registered_name"))
    if not isinstance(name, str):
        raise UnsafeFormat(f"{path} has a class_name that is no text but {str(name)[:80]!r}")
    if name in _VALUES:
        return
    if name == "function":
        name = part.get("config")
        is_known = isinstance(name, str) and name in FUNCTIONS.get(str(module), ())
    elif module is None:
        is_known = any(name in names for names in CLASSES.values())
    else:
        is_known = isinstance(name, str) and name in CLASSES.get(str(module), ())
    if not is_known or registered not in (None, name):
        shown = ".".join(str(each)[:80] for each in (module, name) if each)
        raise UnsafeFormat(
            f"{path} names {shown!r}, which is not on the list of Keras's own layers and functions that only "
            "compute; export the model with model.export(…), as a SavedModel or ONNX, and pack that"
        )


def _dataset_bytes(path: Path, group: Any, h5py: Any) -> Iterator[int]:
    """Yield the size of each dataset in a group of HDF5, and refuse what is in another file."""
    groups = [group]
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UnsafeFormat(f"{path} has weights that are a link, {name[:80]!r}; save the model again")
            member = group[name]
            # A group may hold itself, and one that is in several places is looked through in each.
            if h5py.h5o.get_info(member.id).rc > 1:
                raise UnsafeFormat(
                    f"{path} has weights that are in several places, {name[:80]!r}; save the model again"
                )
            if isinstance(member, h5py.Group):
                groups.append(member)
            elif (
                not isinstance(member, h5py.Dataset) or member.external or member.is_virtual or member.chunks
            ):
                raise UnsafeFormat(
                    f"{path} has weights that Keras does not write so, {name[:80]!r}: in another file, or "
                    "in pieces; save the model again"
                )
            else:
                yield member.nbytes


def _damaged(path: Path, error: Exception) -> LoadError:
    return LoadError(f"{path} is no whole Keras file: {str(error) or repr(error)}; save the model again")
