"""The names of runtimes that people write in a config, and those that there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from gateway.config.faults import name_written
from gateway.config.models import AUTO, Model
from gateway.config.yaml_file import FieldPath

_ENGINES: Mapping[str, str] = {
    **dict.fromkeys(("llama.cpp", "llamacpp", "llama-cpp", "llama_cpp", "llama-server", "ollama"), "gguf"),
    **dict.fromkeys(("huggingface", "hugging-face", "hf", "sentence-transformers"), "transformers"),
    **dict.fromkeys(("onnxruntime", "ort"), "onnx"),
    **dict.fromkeys(("pytorch", "torch"), "torchscript"),
    **dict.fromkeys(("scikit-learn", "joblib"), "sklearn"),
}
"""What people write for a runtime whose name they do not know."""


def unknown_runtimes(
    models: Sequence[Model],
    runtimes: Sequence[str],
    lines: Mapping[FieldPath, int],
    written: Mapping[FieldPath, FieldPath],
) -> Iterator[str]:
    """Yield a fault for each model whose runtime there is not, with the one that is likely meant."""
    names = [AUTO, *runtimes]
    for index, model in enumerate(models):
        if model.runtime not in names:
            field, line = name_written(("models", index, "runtime"), lines, written)
            word = model.runtime.lower()
            meant = [name for name in (_ENGINES.get(word),) if name in names]
            close = meant or difflib.get_close_matches(word, names, n=1)
            advice = f"; did you mean {close[0]!r}?" if close else "."
            yield (
                f"line {line}: {field}: there is no runtime {model.runtime!r}{advice} "
                f"Installed are {', '.join(runtimes)}"
            )
