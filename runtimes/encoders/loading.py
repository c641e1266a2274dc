"""How parts of a directory of Hugging Face's are loaded with transformers: from its files and no others.

Nothing is fetched, no code of the directory is run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError
from runtimes.extras import missing_library
from runtimes.hugging_face.directory import TOKENIZERS, HuggingFaceModel, Pipeline

ADAPTER = "adapter_config.json"

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
_MAX_REASON = 500
_LOCAL = {"local_files_only": True, "trust_remote_code": False}
# A part of some models that only their own training used; embeddings are made without it.
_UNUSED = "pooler."


def check_files(source: HuggingFaceModel) -> None:
    """Raise LoadError where files are missing that the model's task needs, or others would mislead."""
    if (source.directory / ADAPTER).exists():
        # transformers would load the base that the adapter names, from wherever that is.
        raise LoadError(
            f"{source.directory / ADAPTER} makes an adapter of this; merge it into its base, and pack that"
        )
    takes_text = source.pipeline is not Pipeline.IMAGE_CLASSIFICATION
    if takes_text and not any((source.tokenizer / name).is_file() for name in TOKENIZERS):
        raise LoadError(f"{source.directory} has no {TOKENIZERS[0]}; pack it with the model")


def check_installed(path: Path) -> None:
    """Raise LoadError unless transformers is installed; it is not imported for that."""
    if find_spec("transformers") is None:
        raise missing_library(path, "transformers", "transformers")


def import_transformers(path: Path) -> Any:
    """Return the module `transformers`, which is told to fetch nothing. Raises LoadError."""
    check_installed(path)
    # It reads them when it is imported.
    for name in _OFFLINE:
        os.environ[name] = "1"
    # Its own threads would be one for each core of the machine, whatever the worker may use.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        import transformers
    except Exception as error:
        raise LoadError(f"{path}: transformers cannot be imported: {error}") from error
    module: Any = transformers
    module.utils.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


def load_tokenizer(source: HuggingFaceModel) -> Any:
    """Return the tokenizer. Raises LoadError."""
    transformers = import_transformers(source.path)
    try:
        return transformers.AutoTokenizer.from_pretrained(str(source.tokenizer), **_LOCAL)
    except Exception as error:
        raise _refused(transformers, source.tokenizer, "tokenizer", error) from error


def load_module(source: HuggingFaceModel, auto_class: str, device: str) -> Any:
    """Return the model's `torch.nn.Module` on a device; its numbers are FP32 on CPUs, else as in the file.

    `auto_class` is one of transformers that knows models by their config, such as `AutoModel`.

    Raises:
        LoadError: where transformers refuses the files, or they lack some of the model's weights, which it
            would make up.
    """
    transformers = import_transformers(source.path)
    import torch

    options = {
        **_LOCAL,
        "use_safetensors": True,
        "output_loading_info": True,
        "dtype": torch.float32 if device == "cpu" else "auto",
    }
    loader = getattr(transformers, auto_class).from_pretrained
    try:
        try:
            # A config may name an implementation that would be fetched, so one is always given.
            module, info = loader(str(source.directory), attn_implementation="sdpa", **options)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            module, info = loader(str(source.directory), attn_implementation="eager", **options)
    except Exception as error:
        raise _refused(transformers, source.directory, "model", error) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LoadError(
            f"{source.path} lacks weights of {type(module).__name__}: {missing[0]}{more}; save it again"
        )
    return module.eval().to(device)


def _refused(transformers: Any, directory: Path, part: str, error: Exception) -> LoadError:
    reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
    if "ignore_mismatched_sizes" in reason:
        reason = "its weights have other shapes than config.json says"
    return LoadError(f"transformers {transformers.__version__} refuses the {part} in {directory}: {reason}")
