"""Directories of Hugging Face's: what model is in one, and what it is for.

Such a directory has `config.json` and weights as safetensors, `model.safetensors` or shards with
`model.safetensors.index.json`. Files are read within bounds, and nothing of transformers is imported. A model
is one candidate, whatever its number of shards; it stands under the path of `model.safetensors`, or of the
index. Two runtimes read them, and the format says which: `Format.HUGGING_FACE` is for the runtime
`transformers`, whose models take and give tensors in the worker's own process, and
`Format.HUGGING_FACE_GENERATION` is for those whose engine is a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from runtimes.errors import LoadError, ModelError, NoRuntime, UnsafeFormat
from runtimes.formats import Format, identify
from runtimes.hugging_face.files import read_object
from runtimes.hugging_face.modules import Dense, Modules, read_modules
from runtimes.mlflow.mlmodel import NAME as MLMODEL

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""The files of which a tokenizer has one at least."""

_COMPONENT = Path("components", "tokenizer")
_MAX_INDEX_BYTES = 64 * 1024 * 1024
_MAX_SHARDS = 1_000
# Where a config says what computes attention: a name of transformers' own, or a repository of the hub.
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


class Pipeline(StrEnum):
    """What a model is for, by the names of Hugging Face's pipelines."""

    TEXT_GENERATION = "text-generation"
    FEATURE_EXTRACTION = "feature-extraction"
    TEXT_RANKING = "text-ranking"
    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105  no password
    IMAGE_CLASSIFICATION = "image-classification"


# By the suffix of a model's class; a sequence classifier with one label ranks.
_SUFFIXES: Mapping[str, Pipeline] = {
    "ForCausalLM": Pipeline.TEXT_GENERATION,
    "LMHeadModel": Pipeline.TEXT_GENERATION,
    "ForSequenceClassification": Pipeline.TEXT_CLASSIFICATION,
    "ForTokenClassification": Pipeline.TOKEN_CLASSIFICATION,
    "ForImageClassification": Pipeline.IMAGE_CLASSIFICATION,
}


@dataclass(frozen=True, slots=True)
class HuggingFaceModel:
    """The model of one directory."""

    directory: Path
    weights: tuple[Path, ...]
    """Its safetensors files: one, or its shards."""
    config: Mapping[str, Any]
    pipeline: Pipeline
    modules: Modules | None
    """What makes embeddings of the transformer's output; None where there is no `modules.json`."""

    @property
    def path(self) -> Path:
        """Where it stands as a candidate."""
        single = self.directory / WEIGHTS
        return single if single in self.weights else self.directory / INDEX

    @property
    def tokenizer(self) -> Path:
        """The directory of its tokenizer: its own, or where MLflow saves that beside it."""
        component = self.directory.parent / _COMPONENT
        has_own = any((self.directory / name).is_file() for name in TOKENIZERS)
        is_mlflow = (self.directory.parent / MLMODEL).is_file()
        return component if is_mlflow and not has_own and component.is_dir() else self.directory

    @property
    def format(self) -> Format:
        """Which runtimes read it."""
        is_generation = self.pipeline is Pipeline.TEXT_GENERATION
        return Format.HUGGING_FACE_GENERATION if is_generation else Format.HUGGING_FACE


def read_directory(path: Path) -> HuggingFaceModel:
    """Return the model of a directory, given as itself or as a file in it.

    Raises:
        UnsafeFormat: where it has or names code of its own; that is never run, whatever the policy allows.
        LoadError: where there is no such model, it is not whole, or it is for something that is not served.
    """
    directory = path if path.is_dir() else path.parent
    config = read_object(directory / CONFIG)
    if not _says_model(config):
        raise LoadError(
            f"{directory / CONFIG} is missing, or names no model; without it, weights are no model"
        )
    _check_code(directory / CONFIG, config)
    modules = read_modules(directory) if _is_embedding(directory) else None
    pipeline = _pipeline(directory, config) if modules is None else Pipeline.FEATURE_EXTRACTION
    return HuggingFaceModel(directory, _weights(directory), config, pipeline, modules)


def with_directories(formats: Mapping[Path, Format]) -> dict[Path, Format]:
    """Return the formats of files with one entry for each directory's model in place of its safetensors."""
    merged = dict(formats)
    for directory in _directories(formats):
        try:
            model = read_directory(directory)
        except ModelError:
            continue
        steps = () if model.modules is None else model.modules.steps
        parts = {directory, *(step.weights.parent for step in steps if isinstance(step, Dense))}
        for path, format_ in formats.items():
            if path.parent in parts and _has_weights(path, format_):
                del merged[path]
        merged[model.path] = model.format
    return merged


def refusal(formats: Mapping[Path, Format]) -> UnsafeFormat | NoRuntime | None:
    """Return why the first directory that has weights and a `config.json` is not served; None without one."""
    for directory in _directories(formats):
        try:
            if _says_model(read_object(directory / CONFIG)):
                read_directory(directory)
        except UnsafeFormat as error:
            return error
        except ModelError as error:
            return NoRuntime(str(error))
    return None


def _directories(formats: Mapping[Path, Format]) -> list[Path]:
    """Return the directories of safetensors that have a `config.json`, in their order."""
    directories = dict.fromkeys(
        path.parent for path, format_ in formats.items() if _has_weights(path, format_)
    )
    return [directory for directory in directories if (directory / CONFIG).is_file()]


def _has_weights(path: Path, format_: Format) -> bool:
    return format_ is Format.SAFETENSORS or (format_ is Format.JSON and path.name == INDEX)


def _check_code(path: Path, config: Mapping[str, Any]) -> None:
    """Raise UnsafeFormat where a config, or one within it, names code: the kit's, or a kernel of the hub."""
    configs: list[Any] = [config]
    while configs:
        part = configs.pop()
        if isinstance(part, list):
            configs += part
        if not isinstance(part, dict):
            continue
        if part.get("auto_map"):
            raise UnsafeFormat(
                f"{path} names code of the kit (auto_map), which is never run, not even with allow_code; if "
                "transformers knows the model by itself, remove auto_map and pack the kit again, else export "
                "the model to ONNX"
            )
        for name in _IMPLEMENTATIONS:
            if "/" in str(part.get(name)):
                raise UnsafeFormat(
                    f"{path} names a kernel of the hub, {part[name]!r} ({name}), which is code; remove it "
                    "and pack the kit again"
                )
        configs += part.values()


def _says_model(config: Mapping[str, Any]) -> bool:
    """Tell whether a `config.json` is one of transformers'; other libraries have files of that name, too."""
    return "model_type" in config or "architectures" in config


def _is_embedding(directory: Path) -> bool:
    """Tell whether a list of modules makes embeddings, where the directory says what it makes."""
    kind = read_object(directory / "config_sentence_transformers.json").get("model_type")
    return kind in (None, "SentenceTransformer")


def _pipeline(directory: Path, config: Mapping[str, Any]) -> Pipeline:
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    for suffix, pipeline in _SUFFIXES.items():
        if name.endswith(suffix):
            is_ranking = pipeline is Pipeline.TEXT_CLASSIFICATION and label_count(config) == 1
            return Pipeline.TEXT_RANKING if is_ranking else pipeline
    if name.endswith("Model"):
        raise LoadError(
            f"{directory} has a {name} and no modules.json, so nothing says what its output is for: save it "
            "with sentence-transformers to have embeddings"
        )
    raise LoadError(
        f"{directory / CONFIG} has the architecture {name or 'none'!r}, which is not served; served are "
        f"those that end in {', '.join(_SUFFIXES)}, and embedding models with a modules.json"
    )


def label_count(config: Mapping[str, Any]) -> int:
    """Return how many labels a classifier has, as transformers counts them: 2 where nothing says it."""
    labels, count = config.get("id2label"), config.get("num_labels")
    if isinstance(labels, dict) and labels:
        return len(labels)
    return count if isinstance(count, int) else 2


def _weights(directory: Path) -> tuple[Path, ...]:
    """Return the files of weights. Raises LoadError where one is missing or cut short."""
    if _is_file(directory / WEIGHTS):
        files = [directory / WEIGHTS]
    else:
        names = read_object(directory / INDEX, _MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise LoadError(
                f"{directory} has no {WEIGHTS} and no {INDEX}: weights must have the names that transformers "
                "writes; save the model again with save_pretrained"
            )
        shards = sorted({str(name) for name in names.values()})
        if len(shards) > _MAX_SHARDS or any(PurePosixPath(name).name != name for name in shards):
            raise LoadError(f"{directory / INDEX} names files that are not beside it; save the model again")
        files = [directory / name for name in shards]
    for file in files:
        if not _is_file(file):
            raise LoadError(f"{file} is missing, which {INDEX} names; pack all shards as parts of the model")
        format_ = identify(file)
        if format_ is not Format.SAFETENSORS:
            raise LoadError(f"{file} is no whole safetensors file but {format_.title}; pack the kit again")
    return tuple(files)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
