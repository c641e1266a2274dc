"""The modules of an embedding model, as sentence-transformers lists them in `modules.json`.

That library imports the classes which the file names, and so runs code of whoever wrote it. Here the names
are looked up in a closed list, and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.hugging_face.files import read_json, read_object

MODULES = "modules.json"

_LIBRARY = "sentence_transformers."
_MAX_MODULES = 16
_MAX_DIMENSION = 1_000_000
# In the order in which several modes are joined.
_MODES = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")
_OLD_MODES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = frozenset({"Identity", "Tanh", "Sigmoid", "ReLU", "GELU", "SiLU"})
"""The functions of `torch.nn` that a layer or a score may go through."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the vectors of a text's tokens become one."""

    modes: tuple[str, ...]
    """Of `cls`, `max`, `mean`, `mean_sqrt_len`, `weightedmean` and `lasttoken`; several are joined."""
    includes_prompt: bool = True
    """Whether the tokens of a prompt count."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer and its activation function; `weights` is a safetensors file."""

    weights: Path
    in_features: int
    out_features: int
    activation: str


@dataclass(frozen=True, slots=True)
class Normalize:
    """Vectors get length 1."""


Step = Pooling | Dense | Normalize


@dataclass(frozen=True, slots=True)
class Modules:
    """What follows the transformer of an embedding model, in order; the first is its pooling."""

    steps: tuple[Step, ...]

    @property
    def pooling(self) -> Pooling:
        """The first step."""
        first = self.steps[0]
        assert isinstance(first, Pooling)
        return first


def read_modules(directory: Path) -> Modules | None:
    """Return what `modules.json` of a directory lists; None where there is no such file.

    Raises:
        UnsafeFormat: for a module that is not one of sentence-transformers, or whose weights are a pickle.
        LoadError: for one that is not served, or a list that makes no sense.
    """
    path = directory / MODULES
    entries = read_json(path)
    if entries is None:
        return None
    if not isinstance(entries, list) or not 2 <= len(entries) <= _MAX_MODULES:
        raise LoadError(f"{path} lists no transformer and pooling; save the model again")
    kinds = [_kind(path, entry) for entry in entries]
    if kinds[:2] != ["Transformer", "Pooling"] or _subdirectory(path, entries[0]) != directory:
        raise LoadError(f"{path} must begin with a Transformer in the same directory, and a Pooling")
    steps = zip(kinds[1:], entries[1:], strict=True)
    return Modules(tuple(_STEPS[kind](_subdirectory(path, entry)) for kind, entry in steps))


def _kind(path: Path, entry: Any) -> str:
    name = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise LoadError(f"{path} has a module without a type; save the model again")
    if not name.startswith(_LIBRARY):
        raise UnsafeFormat(
            f"{path} names the module {name!r}, which is code; those of sentence-transformers are served"
        )
    kind = name.rpartition(".")[2]
    if kind not in ("Transformer", *_STEPS):
        raise LoadError(f"{path} names the module {kind!r}; served are {', '.join(('Transformer', *_STEPS))}")
    return kind


def _subdirectory(path: Path, entry: Mapping[str, Any]) -> Path:
    """Return the directory of a module, which is within that of the list."""
    relative = PurePosixPath(str(entry.get("path") or ""))
    if relative.is_absolute() or ".." in relative.parts:
        raise LoadError(f"{path} names the path {str(relative)!r}, which is not within the model")
    return path.parent / relative


def _pooling(directory: Path) -> Pooling:
    path = directory / "config.json"
    config = read_object(path)
    mode = config.get("pooling_mode")
    if mode is None:
        names = [name for old, name in _OLD_MODES.items() if config.get(old) is True]
    else:
        names = mode if isinstance(mode, list) else [mode]
    unknown = [name for name in names if name not in _MODES]
    if unknown or not names:
        raise LoadError(f"{path} has the pooling {unknown or 'none'}; served are {', '.join(_MODES)}")
    modes = tuple(mode for mode in _MODES if mode in names)
    return Pooling(modes, config.get("include_prompt") is not False)


def _dense(directory: Path) -> Dense:
    path = directory / "config.json"
    config = read_object(path)
    sizes = [config.get("in_features"), config.get("out_features")]
    if not all(isinstance(size, int) and 0 < size <= _MAX_DIMENSION for size in sizes):
        raise LoadError(f"{path} says no in_features and out_features; save the model again")
    activation = activation_of(path, config.get("activation_function") or "Tanh")
    weights = directory / "model.safetensors"
    if weights.is_symlink() or not weights.is_file():
        if (directory / "pytorch_model.bin").exists():
            raise UnsafeFormat(
                f"{directory / 'pytorch_model.bin'} is a pickle, which runs code when it is loaded; save the "
                "model as safetensors"
            )
        raise LoadError(f"{weights} is missing; pack it with the model")
    return Dense(weights, int(sizes[0] or 0), int(sizes[1] or 0), activation)


def activation_of(path: Path, name: Any) -> str:
    """Return the class of `torch.nn` that a dotted name means. Raises UnsafeFormat for any other."""
    module, _, kind = str(name).rpartition(".")
    if kind not in ACTIVATIONS or not (not module or module.startswith("torch.nn.")):
        raise UnsafeFormat(
            f"{path} names the activation function {str(name)!r}, which is code; served are "
            f"{', '.join(sorted(ACTIVATIONS))} of torch.nn"
        )
    return kind


_STEPS: Mapping[str, Callable[[Path], Step]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": lambda _directory: Normalize(),
}
