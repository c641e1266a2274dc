"""Classifiers of whole texts, or of pairs of texts.

The second text of a pair goes into `text_pair`. Outputs are those of transformers' pipeline: `logits` as the
model gives them, `probabilities` by softmax, or by sigmoid where a text may have several labels, and `label`,
the name of the likeliest one. A regression has `logits` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.encoders.loading import load_module, load_tokenizer
from runtimes.encoders.model import TransformersModel
from runtimes.encoders.texts import TextReader, decode_texts, max_length_of, require_as_many
from runtimes.hugging_face.directory import HuggingFaceModel, label_count
from runtimes.text_model import TEXT

LOGITS = "logits"
PROBABILITIES = "probabilities"
LABEL = "label"
PAIR = "text_pair"


def class_outputs(source: HuggingFaceModel) -> tuple[TensorSpec, ...]:
    """Return the outputs of a classifier."""
    count = label_count(source.config)
    logits = TensorSpec(LOGITS, Datatype.FP32.value, (-1, count))
    if source.config.get("problem_type") == "regression":
        return (logits,)
    probabilities = TensorSpec(PROBABILITIES, Datatype.FP32.value, (-1, count))
    return (logits, probabilities, TensorSpec(LABEL, Datatype.BYTES.value, (-1,)))


class Classes:
    """Makes a classifier's outputs of its logits; `config` is the loaded model's."""

    def __init__(self, config: Any) -> None:
        self.count: int = config.num_labels
        names = [str(config.id2label[index]).encode() for index in range(self.count)]
        self._names = np.array(names, object)
        is_multiple = config.problem_type == "multi_label_classification"
        self._probabilities = _sigmoid if is_multiple else softmax

    def __call__(self, logits: Array) -> dict[str, Array]:
        return {
            LOGITS: logits,
            PROBABILITIES: self._probabilities(logits),
            LABEL: self._names[logits.argmax(axis=-1)],
        }


def softmax(logits: Array) -> Array:
    """Return probabilities that add up to 1 along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _sigmoid(logits: Array) -> Array:
    result: Array = np.reciprocal(1 + np.exp(-logits))
    return result


class SequenceClassifier:
    """A transformer with a classifier of sequences on it."""

    def __init__(self, source: HuggingFaceModel, device: str) -> None:
        tokenizer = load_tokenizer(source)
        self.module = load_module(source, "AutoModelForSequenceClassification", device)
        config = self.module.config
        # Decoders look for the last token that is no padding, so they must know what padding is.
        self.reader = TextReader(
            tokenizer, self.module, device, max_length_of(tokenizer, config), config.pad_token_id
        )

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[Array, Array]:
        """Return logits of shape [rows, labels], and how many tokens each row has."""
        if not texts:
            return np.empty((0, self.module.config.num_labels), np.float32), np.empty(0, np.int64)
        tokens = self.reader.tokens(self.reader.read(texts, pairs))
        logits = np.empty((len(texts), self.module.config.num_labels), np.float32)
        for batch in self.reader.batches(tokens):
            logits[batch.rows] = self.module(**batch.inputs).logits.float().cpu().numpy()
        return logits, tokens.counts


def classification_signature(source: HuggingFaceModel) -> Signature:
    """Return the inputs and outputs, by the directory's files."""
    text, pair = (TensorSpec(name, Datatype.BYTES.value, (-1,)) for name in (TEXT, PAIR))
    return Signature((text,), class_outputs(source), (pair,))


def load_classification(source: HuggingFaceModel, device: str) -> TransformersModel:
    """Load the model. Raises LoadError."""
    classifier = SequenceClassifier(source, device)
    classes = Classes(classifier.module.config)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        texts = decode_texts(TEXT, inputs[TEXT])
        pairs = decode_texts(PAIR, inputs[PAIR]) if PAIR in inputs else None
        if pairs is not None:
            require_as_many(TEXT, len(texts), PAIR, len(pairs))
        logits, _ = classifier.logits(texts, pairs)
        return classes(logits)

    return TransformersModel(classification_signature(source), device, run)
