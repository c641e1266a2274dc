"""A writer of GGUF files, and small random models in that form, which llama.cpp loads in no time."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Metadata = Mapping[str, object]
Tensors = Mapping[str, NDArray[np.float32]]

_ALIGNMENT = 32
_BYTE, _CONTROL, _UNKNOWN, _NORMAL = 6, 3, 2, 1

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOL_TEMPLATE = (
    "{% if tools %}You may call {{ tools | tojson }} as <tool_call>{json}</tool_call>.\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    '{% for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Raw:
    """An unusual value: bytes that are written as they are, with the number of their type."""

    kind: int
    data: bytes


def header(metadata: Metadata, tensors: Tensors, *, version: int = 3) -> bytes:
    """The bytes before the tensors, padded; whole numbers are written as uint32, fractions as float32."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _text(key) + _value(value)
    offset = 0
    for name, array in tensors.items():
        shape = array.shape[::-1]
        out += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", 0, offset)
        offset += _padded(array.nbytes)
    return bytes(out) + bytes(_padded(len(out)) - len(out))


def write(path: Path, metadata: Metadata, tensors: Tensors) -> Path:
    """Write a file; the tensors are FP32."""
    with path.open("wb") as file:
        file.write(header(metadata, tensors))
        for array in tensors.values():
            file.write(array.astype("<f4").tobytes() + bytes(_padded(array.nbytes) - array.nbytes))
    return path


def tiny_llama(
    path: Path, *, context: int = 512, template: str | None = CHAT_TEMPLATE, seed: int = 0, **more: object
) -> Path:
    """Write a random llama of two layers whose tokens are bytes; `more` are keys, with `__` for a dot."""
    metadata, tensors = llama_parts(context=context, template=template, seed=seed)
    return write(path, metadata | {key.replace("__", "."): value for key, value in more.items()}, tensors)


def llama_parts(
    *, context: int = 512, template: str | None = CHAT_TEMPLATE, seed: int = 0
) -> tuple[dict[str, object], dict[str, NDArray[np.float32]]]:
    """The metadata and the tensors of `tiny_llama`."""
    width, inner, heads, heads_kv, layers = 64, 128, 4, 2, 2
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256]
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny",
        "llama.block_count": layers,
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": heads_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [float(-index) for index in range(len(pieces))],
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    shapes = {"token_embd.weight": (len(pieces), width), "output_norm.weight": (width,)}
    shapes["output.weight"] = (len(pieces), width)
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.attn_q.weight": (width, width),
            f"blk.{layer}.attn_k.weight": (width // heads * heads_kv, width),
            f"blk.{layer}.attn_v.weight": (width // heads * heads_kv, width),
            f"blk.{layer}.attn_output.weight": (width, width),
            f"blk.{layer}.ffn_norm.weight": (width,),
            f"blk.{layer}.ffn_gate.weight": (inner, width),
            f"blk.{layer}.ffn_up.weight": (inner, width),
            f"blk.{layer}.ffn_down.weight": (width, inner),
        }
    return metadata, _random(shapes, seed)


def monotonous_llama(path: Path, token: int) -> Path:
    """Write a llama that always says one token, as damaged weights make a model do: 2 ends the answer."""
    metadata, tensors = llama_parts()
    for name, array in tensors.items():
        if name.endswith(("attn_output.weight", "ffn_down.weight", "output.weight")):
            tensors[name] = np.zeros_like(array)
    tensors["token_embd.weight"] = np.ones_like(tensors["token_embd.weight"])
    tensors["output.weight"][token] = 1.0
    return write(path, metadata, tensors)


def tiny_bert(path: Path, *, pooling: int = 1, context: int = 64, seed: int = 0) -> Path:
    """Write a random BERT: one of embeddings, or a reranker where `pooling` is 4."""
    width, inner, layers = 32, 64, 2
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"▁{word}" for word in ("the", "cat", "dog", "sat", "on", "mat", "moon", "rises", "over")]
    words += [f"▁{chr(letter)}" for letter in range(97, 123)] + [chr(letter) for letter in range(97, 123)]
    kinds = [_CONTROL if word.startswith("[") else _NORMAL for word in words]
    metadata: dict[str, object] = {
        "general.architecture": "bert",
        "general.type": "model",
        "bert.block_count": layers,
        "bert.context_length": context,
        "bert.embedding_length": width,
        "bert.feed_forward_length": inner,
        "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(words), width),
        "token_types.weight": (2, width),
        "position_embd.weight": (context, width),
        **_with_bias("token_embd_norm", width),
    }
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= _with_bias(f"blk.{layer}.{name}", width, width)
        shapes |= _with_bias(f"blk.{layer}.attn_output_norm", width)
        shapes |= _with_bias(f"blk.{layer}.ffn_up", inner, width)
        shapes |= _with_bias(f"blk.{layer}.ffn_down", width, inner)
        shapes |= _with_bias(f"blk.{layer}.layer_output_norm", width)
    if pooling == 4:
        shapes |= _with_bias("cls", width, width) | _with_bias("cls.output", 1, width)
    return write(path, metadata, _random(shapes, seed))


def tiny_adapter(path: Path, *, architecture: str = "llama", seed: int = 1, scale: float = 1.0) -> Path:
    """Write a LoRA adapter of rank 2 for the first layer of `tiny_llama`."""
    metadata: dict[str, object] = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 2.0,
    }
    shapes = {"blk.0.attn_q.weight.lora_a": (2, 64), "blk.0.attn_q.weight.lora_b": (64, 2)}
    return write(path, metadata, {name: array * scale for name, array in _random(shapes, seed).items()})


def projector(path: Path) -> Path:
    """Write a file that says it is a projector; it has no tensors that would make one."""
    metadata = {"general.architecture": "clip", "general.type": "mmproj", "clip.has_vision_encoder": True}
    return write(path, metadata, {"mm.0.weight": np.zeros((4, 4), np.float32)})


def split(directory: Path, stem: str, *, context: int = 512) -> list[Path]:
    """Write `tiny_llama` as two files, and return their paths."""
    metadata, tensors = llama_parts(context=context)
    names = [*tensors]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    paths = []
    for index, half in enumerate(halves):
        own: dict[str, object] = {
            "split.no": np.uint16(index),
            "split.count": np.uint16(2),
            "split.tensors.count": np.int32(len(names)),
        }
        path = directory / f"{stem}-{index + 1:05d}-of-00002.gguf"
        paths.append(
            write(path, own | (metadata if index == 0 else {}), {name: tensors[name] for name in half})
        )
    return paths


def _with_bias(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _random(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Norms are ones, biases zeros, and other tensors random."""
    random = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        if name.endswith("norm.weight"):
            tensors[name] = np.ones(shape, np.float32)
        elif name.endswith(".bias"):
            tensors[name] = np.zeros(shape, np.float32)
        else:
            tensors[name] = random.normal(0, 0.1, shape).astype(np.float32)
    return tensors


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case Raw(kind, data):
            return struct.pack("<I", kind) + data
        case bool():
            return struct.pack("<I?", 7, value)
        case np.integer() if value.dtype == np.uint16:
            return struct.pack("<IH", 2, int(value))
        case np.integer() if value.dtype == np.int32:
            return struct.pack("<Ii", 5, int(value))
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case np.ndarray():
            return struct.pack("<IIQ", 9, 5, len(value)) + value.astype("<i4").tobytes()
        case Sequence() if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(str(text)) for text in value)
        case Sequence():
            return struct.pack("<IIQ", 9, 6, len(value)) + struct.pack(f"<{len(value)}f", *value)
        case _:
            raise TypeError(type(value))
