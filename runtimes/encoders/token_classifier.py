"""Classifiers of tokens, such as those that find the names in a text.

The output `entities` is a JSON list for each text: neighbouring tokens of one label are one entity, as in
transformers' pipeline with `aggregation_strategy="simple"`, and tokens with the label `O` are left out. An
entity has its `label` without `B-` and `I-`, `score` (the mean of its tokens), `start` and `end` (in
characters), and `text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.encoders.loading import load_module, load_tokenizer
from runtimes.encoders.model import TransformersModel
from runtimes.encoders.sequence_classifier import softmax
from runtimes.encoders.texts import TextReader, decode_texts, max_length_of
from runtimes.errors import LoadError
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.text_model import TEXT

ENTITIES = "entities"
_OUTSIDE = "O"


def token_signature(_source: HuggingFaceModel) -> Signature:
    """Return the inputs and outputs of any classifier of tokens."""
    text, entities = (TensorSpec(name, Datatype.BYTES.value, (-1,)) for name in (TEXT, ENTITIES))
    return Signature((text,), (entities,))


def load_token_classification(source: HuggingFaceModel, device: str) -> TransformersModel:
    """Load the model. Raises LoadError, also where the tokenizer does not say where its tokens are."""
    return TransformersModel(token_signature(source), device, _TokenClassifier(source, device))


class _TokenClassifier:
    def __init__(self, source: HuggingFaceModel, device: str) -> None:
        tokenizer = load_tokenizer(source)
        if not tokenizer.is_fast:
            raise LoadError(f"{source.directory} needs a tokenizer.json, for where tokens are in a text")
        self._module = load_module(source, "AutoModelForTokenClassification", device)
        config = self._module.config
        self._labels: Mapping[int, str] = config.id2label
        pad = tokenizer.pad_token_id or 0
        self._reader = TextReader(tokenizer, self._module, device, max_length_of(tokenizer, config), pad)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        texts = decode_texts(TEXT, inputs[TEXT])
        entities = np.empty(len(texts), object)
        if not texts:
            return {ENTITIES: entities}
        read = self._reader.read(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
        offsets, specials = read["offset_mapping"], read["special_tokens_mask"]
        tokens = self._reader.tokens(read)
        for batch in self._reader.batches(tokens):
            logits = self._module(**batch.inputs).logits.float().cpu().numpy()
            probabilities = softmax(logits)
            for line, row in enumerate(batch.rows):
                scored = (
                    (start, end, probabilities[line, token])
                    for token, (start, end) in enumerate(offsets[row])
                    if not specials[row][token]
                )
                entities[row] = orjson.dumps(list(self._entities(texts[row], scored)))
        return {ENTITIES: entities}

    def _entities(self, text: str, tokens: Iterator[tuple[int, int, Array]]) -> Iterator[dict[str, Any]]:
        """Join neighbouring tokens of one label; each token has its place, and a score for each label."""
        group: list[tuple[int, int, float]] = []
        label = ""
        for start, end, scores in tokens:
            index = int(scores.argmax())
            prefix, tag = _parts(self._labels[index])
            if group and (tag != label or prefix == "B"):
                yield from _entity(text, label, group)
                group = []
            label = tag
            group.append((start, end, float(scores[index])))
        yield from _entity(text, label, group)


def _parts(label: str) -> tuple[str, str]:
    """Return the prefix of a label, and what is left of it."""
    prefix, dash, tag = label.partition("-")
    return (prefix, tag) if dash and prefix in ("B", "I") else ("I", label)


def _entity(text: str, label: str, group: list[tuple[int, int, float]]) -> Iterator[dict[str, Any]]:
    if group and label != _OUTSIDE:
        start, end = group[0][0], group[-1][1]
        score = sum(score for *_, score in group) / len(group)
        yield {"label": label, "score": score, "start": start, "end": end, "text": text[start:end]}
