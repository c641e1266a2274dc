"""The memory that llama.cpp takes for a model, from headers alone: an upper bound, close for most models."""

from __future__ import annotations

from runtimes import gguf_kinds
from runtimes.engines.base import Memory
from runtimes.gguf_file import GgufFile

_CELL = 2  # bytes of a number in the cache: FP16
_STATE = 4  # and in the state of a layer without attention: FP32
_PADDING = 256  # tokens; llama.cpp rounds the context of a slot up to this

# Measured: the interpreter with xllamacpp in it, and what a loaded model adds for its vocabulary.
_PROCESS = 48 * 1024 * 1024
_BYTES_PER_TOKEN = 400


def estimate(files: tuple[GgufFile, ...], context: int, slots: int, batch: int, is_causal: bool) -> Memory:
    """Return the memory of one model.

    Args:
        files: the model's parts, the first of which has its metadata.
        context: tokens of a slot.
        slots: calls at a time.
        batch: tokens that are computed at a time.
        is_causal: whether it writes text, and so keeps the keys and values of what it has read.
    """
    file = files[0]
    weights = sum(part.data_bytes for part in files)
    cache = _cache(file, padded(context) * slots, slots) if is_causal else 0
    return Memory(weights, cache, _PROCESS + _buffers(file, batch, padded(context)))


def padded(context: int) -> int:
    """Return the tokens that a slot really gets."""
    return -(-context // _PADDING) * _PADDING


def _cache(file: GgufFile, cells: int, slots: int) -> int:
    """Return the bytes of keys and values, and of the states of layers that have these instead.

    A sliding window needs less than is counted here.
    """
    layers = file.number(file.own("block_count")) or 0
    heads = file.number(file.own("attention.head_count")) or 0
    width = file.number(file.own("embedding_length")) or 0
    size = width // heads if heads else 0
    keys = file.number(file.own("attention.key_length")) or size
    values = file.number(file.own("attention.value_length")) or size
    heads_of_layers = file.numbers(file.own("attention.head_count_kv")) or (heads,)
    if len(heads_of_layers) == 1:
        heads_of_layers *= layers
    attention = sum(heads_of_layers) * (keys + values) * cells * _CELL
    inner = file.number(file.own("ssm.inner_size")) or 0
    # The state itself, and the last inputs of the convolution.
    rows = (file.number(file.own("ssm.state_size")) or 0) + (file.number(file.own("ssm.conv_kernel")) or 0)
    return attention + layers * inner * rows * slots * _STATE


def _buffers(file: GgufFile, batch: int, context: int) -> int:
    """Return the bytes of what is computed in between, for `batch` tokens."""
    width = file.number(file.own("embedding_length")) or 0
    inner = max(file.number(file.own("feed_forward_length")) or 0, width)
    vocabulary = gguf_kinds.vocabulary(file)[1]
    # Two rows of the widest layer and four of the others are alive at a time, and the mask of the attention.
    activations = batch * (2 * inner + 4 * width) * 4 + batch * context * 4
    return activations + vocabulary * _BYTES_PER_TOKEN
