"""Language models of Hugging Face's that are small and random, made in the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

CONTEXT = 512

# With more threads than free cores, torch waits a hundred times longer than such small models compute.
torch.set_num_threads(1)

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# As the ChatML family has it (Qwen, Hermes): tools in the system's message, calls of them between tags.
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nCall one by <tool_call>: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE) -> Any:
    """Return a tokenizer of byte-level BPE that splits nearly all into bytes."""
    backend: Any = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["hello world, what is a model kit?"] * 3, trainer)
    fast: Any = PreTrainedTokenizerFast
    made = fast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    made.chat_template = template
    return made


def llama(layers: int = 2, seed: int = 0, vocabulary: int = 300) -> Any:
    """Return a Llama with random weights, in FP32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def save_llama(directory: Path, template: str | None = TEMPLATE, **generation: Any) -> Path:
    """Write a model and its tokenizer; `generation` goes into generation_config.json."""
    quiet: Any = logging.disable_progress_bar
    quiet()
    words = tokenizer(template)
    llama(vocabulary=len(words)).save_pretrained(directory)
    words.save_pretrained(directory)
    if generation:
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **generation}))
    return directory


def save_adapter(directory: Path, base: Any, *, seed: int = 1, **settings: Any) -> Path:
    """Write a LoRA adapter for `base` with random weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)
    get_peft_model(base, config).save_pretrained(str(directory))
    return directory
