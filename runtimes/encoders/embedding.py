"""Embeddings of texts: a transformer, the pooling of its output, and what follows, as `modules.json` says.

Texts are prepared as sentence-transformers prepares them: stripped, with the prompt before them, and cut to
`max_seq_length` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.encoders.loading import load_module, load_tokenizer
from runtimes.encoders.model import TransformersTextModel
from runtimes.encoders.pooling import load_steps, pool
from runtimes.encoders.texts import TextReader, decode_texts, max_length_of, require_as_many
from runtimes.engines.task import Task
from runtimes.errors import InputError, LoadError
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.hugging_face.files import read_object
from runtimes.hugging_face.modules import Dense
from runtimes.text_model import EMBEDDING, PROMPT_NAME, TEXT, TOKENS

# sentence-transformers once named the file after the model's type.
_TYPES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# What transformers calls the length of a token's vector, in one model or another.
_SIZES = ("hidden_size", "d_model", "dim", "n_embd")
_MAX_PROMPTS = 100


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How sentence-transformers prepares texts, by the files that it writes."""

    max_length: int | None
    """In tokens."""
    is_lowered: bool
    prompts: Mapping[str, str]
    """What is put before a text, by name."""
    default_prompt: str


def read_options(directory: Path) -> TextOptions:
    """Return a directory's options. Raises LoadError."""
    texts = next(
        filter(None, (read_object(directory / f"sentence_{kind}_config.json") for kind in _TYPES)), {}
    )
    config = read_object(directory / "config_sentence_transformers.json")
    prompts = config.get("prompts") or {}
    default = config.get("default_prompt_name") or ""
    is_text = isinstance(prompts, dict) and all(isinstance(prompt, str) for prompt in prompts.values())
    if not is_text or len(prompts) > _MAX_PROMPTS or (default and default not in prompts):
        raise LoadError(
            f"{directory / 'config_sentence_transformers.json'} has prompts that make no sense; "
            "save the model again"
        )
    length = texts.get("max_seq_length")
    return TextOptions(
        length if isinstance(length, int) and length > 0 else None,
        texts.get("do_lower_case") is True,
        prompts,
        prompts.get(default, ""),
    )


def embedding_signature(source: HuggingFaceModel) -> Signature:
    """Return the inputs and outputs, by the directory's files."""
    text = TensorSpec(TEXT, Datatype.BYTES.value, (-1,))
    prompt = TensorSpec(PROMPT_NAME, Datatype.BYTES.value, (-1,))
    outputs = (
        TensorSpec(EMBEDDING, Datatype.FP32.value, (-1, _dimensions(source))),
        TensorSpec(TOKENS, Datatype.INT64.value, (-1,)),
    )
    return Signature((text,), outputs, (prompt,) if read_options(source.directory).prompts else ())


def load_embedding(source: HuggingFaceModel, device: str) -> TransformersTextModel:
    """Load the model. Raises LoadError."""
    return TransformersTextModel(
        embedding_signature(source),
        device,
        _Embedder(source, device),
        Task.EMBEDDING,
        max(0, _dimensions(source)),
        _shorter(source.config),
    )


def _shorter(config: Mapping[str, Any]) -> frozenset[int] | None:
    """Return the lengths to which an embedding may be cut; None: to any (Matryoshka embeddings)."""
    lengths = config.get("matryoshka_dimensions")
    if isinstance(lengths, list):
        return frozenset(length for length in lengths if isinstance(length, int))
    return None if config.get("is_matryoshka") else frozenset()


def _dimensions(source: HuggingFaceModel) -> int:
    """Return how many numbers an embedding has; -1 where the files do not say it."""
    assert source.modules is not None
    layers = [step for step in source.modules.steps if isinstance(step, Dense)]
    if layers:
        return layers[-1].out_features
    size = next((source.config[name] for name in _SIZES if isinstance(source.config.get(name), int)), -1)
    return size if size < 0 else size * len(source.modules.pooling.modes)


class _Embedder:
    def __init__(self, source: HuggingFaceModel, device: str) -> None:
        assert source.modules is not None
        self._options = read_options(source.directory)
        architectures = source.config.get("architectures") or [""]
        is_encoder = str(architectures[0]).endswith("EncoderModel")
        tokenizer = load_tokenizer(source)
        self._module = load_module(source, "AutoModelForTextEncoding" if is_encoder else "AutoModel", device)
        limits = filter(None, (self._options.max_length, max_length_of(tokenizer, self._module.config)))
        self._reader = TextReader(
            tokenizer, self._module, device, min(limits, default=None), tokenizer.pad_token_id or 0
        )
        self._modes = source.modules.pooling.modes
        self._steps = load_steps(source.modules, device)
        self._dimensions = _dimensions(source)
        # How many tokens of a prompt are not to count.
        self._skipped: dict[str, int] = {}
        if not source.modules.pooling.includes_prompt:
            prompts = {*self._options.prompts.values(), self._options.default_prompt} - {""}
            self._skipped = {prompt: self._reader.prefix_length(prompt) for prompt in prompts}

    def text_of(self, tokens: Sequence[int]) -> str:
        return self._reader.text_of(tokens)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        texts = [text.strip() for text in decode_texts(TEXT, inputs[TEXT])]
        if not texts:
            return {
                EMBEDDING: np.empty((0, max(0, self._dimensions)), np.float32),
                TOKENS: np.empty(0, np.int64),
            }
        prompts = self._prompts(inputs.get(PROMPT_NAME), len(texts))
        texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        if self._options.is_lowered:
            texts = [text.lower() for text in texts]
        tokens = self._reader.tokens(self._reader.read(texts))
        rows: list[int] = []
        vectors = []
        for batch in self._reader.batches(tokens):
            rows += batch.rows
            vectors.append(self._vectors(batch.inputs, [prompts[row] for row in batch.rows]))
        joined = np.concatenate(vectors)
        embeddings = np.empty_like(joined)
        embeddings[rows] = joined
        return {EMBEDDING: embeddings, TOKENS: tokens.counts}

    def _vectors(self, inputs: Mapping[str, Any], prompts: Sequence[str]) -> Array:
        states = self._module(**inputs)[0].float()
        mask = inputs["attention_mask"]
        if any(prompt in self._skipped for prompt in prompts):
            mask = mask.clone()
            for row, prompt in enumerate(prompts):
                mask[row, : self._skipped.get(prompt, 0)] = 0
        vectors = pool(states, mask, self._modes)
        for step in self._steps:
            vectors = step(vectors)
        array: Array = vectors.cpu().numpy()
        return array

    def _prompts(self, names: Array | None, count: int) -> list[str]:
        """Return the prompt of each text. Raises InputError for a name that the model does not have."""
        if names is None:
            return [self._options.default_prompt] * count
        require_as_many(TEXT, count, PROMPT_NAME, len(names))
        prompts = self._options.prompts
        for name in (decoded := decode_texts(PROMPT_NAME, names)):
            if name and name not in prompts:
                raise InputError(f"unknown prompt {name!r}; the model has {', '.join(map(repr, prompts))}")
        return [prompts[name] if name else "" for name in decoded]
