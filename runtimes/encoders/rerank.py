"""Rerankers: sequence classifiers with one label, which say how well a text fits a query.

As sentence-transformers' CrossEncoder has it, the logit goes through the activation function that the config
names, or a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.encoders.model import TransformersTextModel
from runtimes.encoders.sequence_classifier import SequenceClassifier
from runtimes.encoders.texts import decode_texts, require_as_many
from runtimes.engines.task import Task
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.hugging_face.modules import activation_of
from runtimes.text_model import QUERY, SCORE, TEXT, TOKENS


def rerank_signature(_source: HuggingFaceModel) -> Signature:
    """Return the inputs and outputs of any reranker."""
    inputs = tuple(TensorSpec(name, Datatype.BYTES.value, (-1,)) for name in (QUERY, TEXT))
    outputs = (
        TensorSpec(SCORE, Datatype.FP32.value, (-1,)),
        TensorSpec(TOKENS, Datatype.INT64.value, (-1,)),
    )
    return Signature(inputs, outputs)


def load_rerank(source: HuggingFaceModel, device: str) -> TransformersTextModel:
    """Load the model. Raises LoadError or UnsafeFormat."""
    activation = _activation(source)
    return TransformersTextModel(
        rerank_signature(source), device, _Reranker(source, device, activation), Task.RERANK
    )


def _activation(source: HuggingFaceModel) -> str:
    """Return the class of `torch.nn` that makes a score of a logit."""
    own = source.config.get("sentence_transformers")
    name = own.get("activation_fn") if isinstance(own, dict) else None
    name = name or source.config.get("sbert_ce_default_activation_function")
    return activation_of(source.directory / "config.json", name) if name else "Sigmoid"


class _Reranker:
    def __init__(self, source: HuggingFaceModel, device: str, activation: str) -> None:
        import torch

        self._classifier = SequenceClassifier(source, device)
        self._activation: Callable[[Any], Any] = getattr(torch.nn, activation)()

    def text_of(self, tokens: Sequence[int]) -> str:
        return self._classifier.reader.text_of(tokens)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        queries, texts = decode_texts(QUERY, inputs[QUERY]), decode_texts(TEXT, inputs[TEXT])
        require_as_many(QUERY, len(queries), TEXT, len(texts))
        logits, counts = self._classifier.logits(queries, texts)
        scores: Array = self._activation(torch.from_numpy(logits[:, 0])).numpy()
        return {SCORE: np.ascontiguousarray(scores), TOKENS: counts}
