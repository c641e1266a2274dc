"""What a GGUF file is, by its header: a model and what it can do, or what only helps one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from runtimes import gguf_file
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.gguf_file import GgufFile, Length

ADAPTER, PROJECTOR = "a LoRA adapter", "a projector, which makes images or sound into tokens (mmproj)"
_VOCABULARY = "a vocabulary without a model"

_KINDS = {"adapter": ADAPTER, "mmproj": PROJECTOR, "imatrix": "an importance matrix for quantizing"}
_ARCHITECTURES = {"clip": PROJECTOR, "controlvector": "a control vector", "imatrix": _KINDS["imatrix"]}

# Architectures that read a text as a whole, and write none.
_BERTS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert")
_ENCODERS = frozenset((*_BERTS, "eurobert", "gemma-embedding", "t5encoder"))
_POOLED, _RANKED = (1, 2, 3), 4  # llama.cpp's pooling types mean, cls and last; rank

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def kind(file: GgufFile) -> str:
    """Return what the file is, where it is not a model; "" for a model or a part of one."""
    other = _ARCHITECTURES.get(file.architecture) or _KINDS.get(file.text("general.type"), "")
    if not other and not file.tensors and file.part[1] == 1 and file.architecture:
        return _VOCABULARY
    return other


def candidates(paths: Iterable[Path]) -> set[Path]:
    """Return those of GGUF files that may be the model.

    Not the adapters and projectors beside it, nor any but the first part of a file that is split. A file that
    cannot be read may be the model.
    """
    paths = set(paths)
    files: dict[Path, GgufFile | None] = {}
    for path in paths:
        try:
            files[path] = gguf_file.read(path)
        except LoadError:
            files[path] = None
    models = {path for path, file in files.items() if file is None or not kind(file)}
    first: dict[tuple[Path, str], Path] = {}
    for path in sorted(models):
        file, match = files[path], _PART.fullmatch(path.name)
        if file is None or file.part[1] == 1 or match is None:
            continue
        # Sorted by name, they are sorted by number.
        if first.setdefault((path.parent, match[1]), path) != path:
            models.discard(path)
    return models


def parts(file: GgufFile) -> tuple[GgufFile, ...]:
    """Return all files of the model whose first is `file`. Raises LoadError where one is missing or wrong."""
    number, count = file.part
    if count == 1:
        return (file,)
    match = _PART.fullmatch(file.path.name)
    if match is None or int(match[2]) != number or int(match[3]) != count:
        raise LoadError(
            f"{file.path} is part {number} of {count} of a model, and must be named so: "
            f"NAME-{number:05d}-of-{count:05d}.gguf"
        )
    names = [f"{match[1]}-{index:05d}-of-{count:05d}.gguf" for index in range(1, count + 1)]
    missing = [name for name in names if not (file.path.parent / name).is_file()]
    if missing:
        listed = ", ".join(missing[:3]) + (" and more" if len(missing) > 3 else "")
        raise LoadError(f"{file.path} is part {number} of {count} of a model, and {listed} is not beside it")
    if number != 1:
        raise LoadError(f"{file.path} is part {number} of {count} of a model: name the first, {names[0]}")
    files = (file, *(gguf_file.read(file.path.parent / name) for name in names[1:]))
    for index, part in enumerate(files, 1):
        if part.part != (index, count):
            raise LoadError(
                f"{part.path} says that it is part {part.part[0]} of {part.part[1]}; it is another model's"
            )
    return files


def tasks(file: GgufFile, task: Task | None, has_template: bool) -> frozenset[Task]:
    """Return what a model can be asked for; `task` is what people say of it.

    Raises:
        LoadError: where the model cannot do that.
    """
    is_encoder = file.architecture in _ENCODERS or file.metadata.get(file.own("attention.causal")) is False
    if task in (Task.CHAT, Task.COMPLETION) and is_encoder:
        raise LoadError(
            f"{file.path} writes no text: its architecture is {file.architecture}; task {task} is wrong"
        )
    pooling = file.number(file.own("pooling_type"))
    if task is Task.RERANK or (task is None and pooling == _RANKED):
        return frozenset({Task.RERANK})
    if task is Task.EMBEDDING or (task is None and (is_encoder or pooling in _POOLED)):
        return frozenset({Task.EMBEDDING})
    return frozenset({Task.CHAT, Task.COMPLETION} if has_template else {Task.COMPLETION})


def has_pooling(file: GgufFile) -> bool:
    """Whether the file says how the vectors of tokens become one."""
    return file.number(file.own("pooling_type")) in _POOLED


def vocabulary(file: GgufFile) -> tuple[str, int]:
    """Return the kind of a model's vocabulary, and how many tokens it has."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    count = tokens.count if isinstance(tokens, Length) else file.number(file.own("vocab_size"))
    return file.text("tokenizer.ggml.model"), count or 0


def context_of(file: GgufFile) -> int | None:
    """Return how many tokens the model was trained with; None where the file does not say."""
    return file.number(file.own("context_length"))
