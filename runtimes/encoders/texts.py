"""Texts become batches of tokens: sorted by their length, and padded to the longest of each batch.

A batch costs as much as its longest text for each of its texts, so those of like length go together. Padding
is at the end and masked, so that a text's result does not depend on the others but for rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtimes.base import Array
from runtimes.errors import ExecutionError, InputError

# The limits of one run, in texts and in tokens with the padding.
_MAX_ROWS = 64
_MAX_TOKENS = 16_384
# A CPU computes about as long for so many tokens as it takes to start another run. Measured on all-MiniLM-L6:
# 8 ms for each run, and 0.27 ms for each token, padding or not.
_MAX_PADDING = 32
# A token has fewer characters, but for words that no vocabulary has. What is behind is not read: tokenizers
# take 2 s for a million characters, and would cut them off only then.
_CHARACTERS = 256
# What a tokenizer says that knows no limit.
_NO_LIMIT = 1_000_000_000
# Models whose first position is after the number of their padding token.
_OFFSET_POSITIONS = frozenset(
    {"camembert", "esm", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of a call's texts, as a transformer takes them."""

    rows: Sequence[int]
    """Which rows of the call they are."""
    inputs: Mapping[str, Any]
    """Tensors of shape [rows, tokens]: `input_ids`, `attention_mask`, and what else the model takes."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a call's texts."""

    columns: Mapping[str, Sequence[Sequence[int]]]
    """By the name of the model's input, then by row."""
    counts: Array
    """How many tokens each row has, INT64."""


class TextReader:
    """Makes tokens and batches of texts, as a module takes them.

    Args:
        max_length: where texts are cut, in tokens; None: nowhere.
        pad: the padding's token; None where the module takes no padding, so that texts run one by one.
    """

    def __init__(
        self, tokenizer: Any, module: Any, device: str, max_length: int | None, pad: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._device = device
        self._max_length = max_length
        self._pad = pad
        taken = inspect.signature(module.forward).parameters
        self._names = [name for name in ("input_ids", "token_type_ids") if name in taken]

    def read(self, texts: Sequence[str], pairs: Sequence[str] | None = None, **options: Any) -> Any:
        """Return what the tokenizer makes of texts, or of pairs of them, cut to the limit and not padded."""
        limit: dict[str, Any] = {}
        if self._max_length is not None:
            limit = {"truncation": True, "max_length": self._max_length}
            end = self._max_length * _CHARACTERS
            texts = [text[:end] for text in texts]
            pairs = None if pairs is None else [text[:end] for text in pairs]
        try:
            return self._tokenizer(list(texts), None if pairs is None else list(pairs), **limit, **options)
        except Exception as error:
            raise ExecutionError(f"the tokenizer failed: {error}") from error

    def tokens(self, encoded: Mapping[str, Any]) -> Tokens:
        """Return the tokens in what `read` returned. Raises InputError for a text that has none."""
        columns = {name: encoded[name] for name in self._names if name in encoded}
        counts = np.fromiter(map(len, columns["input_ids"]), np.int64)
        if not counts.all():
            raise InputError(f"text {int(np.argmin(counts))} has no tokens; send one that is not empty")
        return Tokens(columns, counts)

    def batches(self, tokens: Tokens) -> Iterator[Batch]:
        """Yield batches that hold every row once, the longest first."""
        import torch

        order = np.argsort(-tokens.counts, kind="stable").tolist()
        while order:
            longest = int(tokens.counts[order[0]])
            size = 1 if self._pad is None else self._size(tokens.counts[order[:_MAX_ROWS]])
            rows, order = order[:size], order[size:]
            inputs = {}
            for name, column in tokens.columns.items():
                filler = self._pad if name == "input_ids" and self._pad is not None else 0
                padded = np.full((len(rows), longest), filler, np.int64)
                for line, row in enumerate(rows):
                    padded[line, : len(column[row])] = column[row]
                inputs[name] = torch.from_numpy(padded).to(self._device)
            mask = np.arange(longest) < tokens.counts[rows][:, None]
            inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(self._device)
            yield Batch(rows, inputs)

    def _size(self, counts: Array) -> int:
        """Return how many texts the next batch has, of those with these numbers of tokens, longest first."""
        size = min(len(counts), max(1, _MAX_TOKENS // int(counts[0])))
        if self._device == "cpu":
            padding = np.cumsum(counts[0] - counts[:size])
            size = int(np.searchsorted(padding, _MAX_PADDING, side="right"))
        return size

    def prefix_length(self, text: str) -> int:
        """Return how many tokens stand before what follows `text` in the same string."""
        tokens = self.read([text])["input_ids"][0]
        return len(tokens) - (tokens[-1] in self._tokenizer.all_special_ids)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens. Raises InputError for one that the tokenizer does not have."""
        size = len(self._tokenizer)
        for token in tokens:
            if not 0 <= token < size:
                raise InputError(f"token {token} is none of the model's, which are 0 to {size - 1}")
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


def decode_texts(name: str, array: Array) -> list[str]:
    """Return the strings of a BYTES tensor of one axis. Raises InputError for what is not UTF-8."""
    texts = []
    for row, text in enumerate(array.tolist()):
        try:
            texts.append(text if isinstance(text, str) else text.decode())
        except UnicodeDecodeError as error:
            raise InputError(f"input {name!r}, row {row} is not UTF-8: {error}") from error
    return texts


def require_as_many(first: str, rows: int, second: str, others: int) -> None:
    """Raise InputError unless two inputs have as many rows."""
    if rows != others:
        raise InputError(
            f"inputs {first!r} and {second!r} have {rows} and {others} rows; send as many of both"
        )


def max_length_of(tokenizer: Any, config: Any) -> int | None:
    """Return how many tokens a text may have, by the tokenizer and the model; None where neither says it."""
    limits = []
    # Whatever a file has in place of these numbers, the libraries take.
    length = tokenizer.model_max_length
    if isinstance(length, int | float) and 0 < length < _NO_LIMIT:
        limits.append(int(length))
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        is_offset = config.model_type in _OFFSET_POSITIONS
        padding = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
        limits.append(positions - padding - 1 if is_offset else positions)
    return min(limits, default=None)
