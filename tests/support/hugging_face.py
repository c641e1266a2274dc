"""Small models of Hugging Face's with random weights, made as transformers itself writes them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.base import Array

WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "in",
    "mat",
    "park",
    "and",
    "is",
    "red",
    "big",
    "paris",
    "london",
    "of",
    "city",
)
TEXTS = (
    "the cat sat on the mat",
    "a dog",
    "the big red dog ran in the park and the cat sat on the mat in the city of london",
    "paris is a city",
    "cat and dog and cat and dog and cat",
)


def texts(*strings: str) -> Array:
    """Return strings as a BYTES tensor."""
    return np.array([string.encode() for string in strings], object)


def _library() -> Any:
    """Return transformers, half of which has no types."""
    return import_module("transformers")


def write_tokenizer(directory: Path, model_max_length: int = 64) -> Any:
    """Write a tokenizer of whole words with BERT's special tokens; returns it as transformers has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = _library().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    fast.save_pretrained(directory)
    return fast


def write_bert(directory: Path, kind: str = "BertModel", **options: Any) -> Any:
    """Write a BERT of two small layers with its tokenizer; returns the module, of the class `kind`."""
    import torch

    transformers = _library()
    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.5,
        **options,
    )
    module = getattr(transformers, kind)(config).eval()
    module.save_pretrained(directory)
    write_tokenizer(directory)
    return module


def write_vit(directory: Path, labels: int = 3) -> Any:
    """Write a small classifier of images of 16 by 16 pixels; returns the module."""
    import torch

    transformers = _library()
    torch.manual_seed(7)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=labels,
        initializer_range=0.5,
    )
    module = transformers.ViTForImageClassification(config).eval()
    module.save_pretrained(directory)
    return module


def write_modules(
    directory: Path,
    pooling: str | dict[str, Any] = "mean",
    dense: int = 0,
    is_normalized: bool = False,
    **texts_config: Any,
) -> None:
    """Write what sentence-transformers has beside a transformer; `dense` is the size of a last layer."""
    import torch
    from safetensors.torch import save_file

    kinds = ["Transformer", "Pooling", *["Dense"] * bool(dense), *["Normalize"] * is_normalized]
    entries = [
        {"path": f"{number}_{kind}" if number else "", "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    files: dict[str, Any] = {
        "modules.json": entries,
        "1_Pooling/config.json": {"pooling_mode": pooling} if isinstance(pooling, str) else pooling,
        "sentence_bert_config.json": {"max_seq_length": 32, **texts_config},
    }
    if dense:
        activation = "torch.nn.modules.activation.Tanh"
        files["2_Dense/config.json"] = {
            "in_features": 16,
            "out_features": dense,
            "activation_function": activation,
        }
    for name, value in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    if dense:
        torch.manual_seed(8)
        weights = {"linear.weight": torch.randn(dense, 16), "linear.bias": torch.randn(dense)}
        save_file(weights, directory / "2_Dense" / "model.safetensors")
