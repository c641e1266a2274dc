"""The load of a language model of Hugging Face's from a directory, with adapters merged into it.

Nothing is fetched, nothing in the directory runs, and a model of which a weight is missing is refused:
transformers would make one up.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from runtimes.engines.transformers_sampling import Sampling

_ADAPTER = "adapter_model.safetensors"
_SHOWN = 3


class Refused(Exception):
    """The directory, or an adapter, is not what can be served; the message says why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory."""

    model: Any
    tokenizer: Any
    stops: frozenset[int]
    """The tokens that end an answer."""
    defaults: Sampling
    """What the model's own generation_config.json says of sampling."""


def load(
    directory: Path,
    *,
    dtype: str,
    device: str,
    adapters: Sequence[tuple[Path, float]] = (),
    tokenizer_directory: Path | None = None,
) -> Loaded:
    """Load the model. Raises Refused, and whatever transformers raises for a file that it cannot read.

    Args:
        directory: has config.json, safetensors and a tokenizer.
        dtype: the name of torch's, in which it computes.
        device: `cpu` or `cuda`.
        adapters: directories of PEFT's, each with its scale.
        tokenizer_directory: has the tokenizer in place of `directory`.
    """
    library_log: Any = logging  # not typed
    library_log.disable_progress_bar()
    library_log.set_verbosity_error()  # what it warns of is refused here, in a sentence
    if device != "cpu" and not torch.cuda.is_available():
        raise Refused("a GPU is asked for, and torch sees none: install a torch for CUDA, or set gpus to 0")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_directory or directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise Refused(f"the tokenizer cannot be read: {error}") from error
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    model, facts = from_pretrained(
        directory,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused here, in a sentence
    )
    for name, stored, expected in sorted(facts["mismatched_keys"]):
        raise Refused(
            f"the weights are another model's than config.json says: {name} is {[*stored]}, not {[*expected]}"
        )
    if missing := sorted(facts["missing_keys"]):
        raise Refused(
            f"the weights lack {len(missing)} tensors of the model, such as {', '.join(missing[:_SHOWN])}"
        )
    for path, scale in adapters:
        model = _merged(model, path, scale)
    model = model.to(device).eval().requires_grad_(False)
    return Loaded(model, tokenizer, _stops(model, tokenizer), _defaults(directory))


def _merged(model: Any, path: Path, scale: float) -> Any:
    """Return the model with an adapter of PEFT's added to its weights. Raises Refused."""
    from peft import PeftModel, get_peft_model_state_dict

    if not (path / _ADAPTER).is_file():
        raise Refused(
            f"adapter {path.name}: {_ADAPTER} is missing; adapters are served from safetensors only"
        )
    try:
        kind = json.loads((path / "adapter_config.json").read_text())["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"adapter {path.name}: adapter_config.json cannot be read: {error!r}") from error
    if kind != "LORA":
        raise Refused(f"adapter {path.name} is a {kind}; only LoRA adapters (LORA) can be merged")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of what is refused below
            adapted = PeftModel.from_pretrained(model, path, local_files_only=True)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise Refused(f"adapter {path.name} does not fit the model: {_short(error)}") from error
    with safe_open(path / _ADAPTER, framework="pt") as file:
        names = set(file.keys())
    strange = sorted(names ^ set(get_peft_model_state_dict(adapted)))
    if strange:
        raise Refused(
            f"adapter {path.name} does not fit the model: {len(strange)} of its tensors are of layers that "
            f"the other side has not, such as {', '.join(strange[:_SHOWN])}; it was made for another base"
        )
    if scale != 1.0:
        for module in adapted.modules():
            scale_layer: Any = getattr(module, "scale_layer", None)
            if scale_layer is not None:
                scale_layer(scale)
    return adapted.merge_and_unload(safe_merge=True)


def _short(error: Exception) -> str:
    """Return the first lines of an error's text, of which torch writes one for each tensor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
    return " ".join(lines[:2]) + more


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer, as the model and its tokenizer name them."""
    stops: set[Any] = set()
    for source in (model.generation_config, model.config.get_text_config(), tokenizer):
        token = getattr(source, "eos_token_id", None)
        stops |= {*token} if isinstance(token, (list, tuple)) else {token}
    return frozenset(stops - {None})


def _defaults(directory: Path) -> Sampling:
    """Return what generation_config.json says of sampling; the defaults of the OpenAI API where nothing."""
    try:
        fields = json.loads((directory / "generation_config.json").read_text())
    except (OSError, ValueError):
        fields = {}
    has_sampling = isinstance(fields, dict) and fields.get("do_sample") is True
    names = ("temperature", "top_p", "top_k", "min_p") if has_sampling else ()
    settings = {name: fields[name] for name in names if isinstance(fields.get(name), (int, float))}
    penalty = fields.get("repetition_penalty") if isinstance(fields, dict) else None
    if isinstance(penalty, (int, float)) and penalty > 0:
        settings["repetition_penalty"] = float(penalty)
    return Sampling(**settings)
