"""Models of Hugging Face's transformers that take and give tensors, in this process.

What each takes and gives is in the module of its task. Language models that generate are for other runtimes,
whose engine is a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runtimes.base import Resources, Signature
from runtimes.encoders.embedding import embedding_signature, load_embedding
from runtimes.encoders.image_classifier import image_signature, load_image_classification
from runtimes.encoders.loading import check_files, check_installed
from runtimes.encoders.model import TransformersModel
from runtimes.encoders.rerank import load_rerank, rerank_signature
from runtimes.encoders.sequence_classifier import classification_signature, load_classification
from runtimes.encoders.token_classifier import load_token_classification, token_signature
from runtimes.engines.base import EngineOptions, Memory
from runtimes.errors import LoadError
from runtimes.formats import Format
from runtimes.hugging_face.directory import HuggingFaceModel, Pipeline, read_directory
from runtimes.hugging_face.memory import weight_bytes
from runtimes.torch_tensors import prepare

_LIBRARIES = 400 * 1024 * 1024  # measured: torch and transformers take 340 MiB


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the models of one task are described, and how they are loaded."""

    signature: Callable[[HuggingFaceModel], Signature]
    load: Callable[[HuggingFaceModel, str], TransformersModel]


_KINDS: Mapping[Pipeline, _Kind] = {
    Pipeline.FEATURE_EXTRACTION: _Kind(embedding_signature, load_embedding),
    Pipeline.TEXT_RANKING: _Kind(rerank_signature, load_rerank),
    Pipeline.TEXT_CLASSIFICATION: _Kind(classification_signature, load_classification),
    Pipeline.TOKEN_CLASSIFICATION: _Kind(token_signature, load_token_classification),
    Pipeline.IMAGE_CLASSIFICATION: _Kind(image_signature, load_image_classification),
}


class TransformersRuntime:
    """Loads directories with weights in safetensors: embeddings, rerankers, and classifiers."""

    name: ClassVar[str] = "transformers"
    formats: ClassVar[tuple[Format, ...]] = (Format.HUGGING_FACE,)

    def load(self, path: Path, resources: Resources) -> TransformersModel:
        """Load the model whose weights, or their index, are at `path`. Raises LoadError or UnsafeFormat."""
        source = _read(path)
        return _KINDS[source.pipeline].load(source, prepare(resources))

    def memory(self, path: Path, options: EngineOptions) -> Memory:  # noqa: ARG002 - none is for encoders
        """Return what `load` takes on a CPU, whose numbers are FP32. Raises LoadError or UnsafeFormat."""
        return Memory(weight_bytes(_read(path), "float32"), other=_LIBRARIES)

    def check(self, path: Path) -> None:
        """Raise what `load` would raise, as far as the files show it, and where transformers is missing."""
        _read(path)

    def signature(self, path: Path) -> Signature:
        """Return the inputs and outputs, by the directory's files. Raises LoadError or UnsafeFormat."""
        source = _read(path)
        return _KINDS[source.pipeline].signature(source)


def _read(path: Path) -> HuggingFaceModel:
    source = read_directory(path)
    if source.pipeline not in _KINDS:
        raise LoadError(f"{path} is a model for {source.pipeline}, which another runtime serves")
    check_installed(path)
    check_files(source)
    return source
