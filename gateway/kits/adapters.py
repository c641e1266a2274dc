"""The LoRA adapters of a kit, and whether they fit its base, which most often is its parent's model.

An engine applies them when it loads the base; a child's adapters come on top of its parents'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from gateway.errors import UnusableModel
from gateway.kits.hints import part_paths
from gateway.kits.library import UnpackedKit
from runtimes import gguf_file, gguf_kinds
from runtimes.engines.base import Adapter
from runtimes.errors import LoadError
from runtimes.formats import Format, identify
from runtimes.select import Choice

_PEFT_CONFIG = "adapter_config.json"
_PEFT_WEIGHTS = "adapter_model.safetensors"


def adapters(kit: UnpackedKit, choice: Choice, names: Iterable[str]) -> tuple[Adapter, ...]:
    """Return the LoRA adapters of a kit, each once: those at these paths, and those that only files tell of.

    Raises UnusableModel where one is none, or of another form than the base.
    """
    paths = dict.fromkeys(_adapter(kit, name) for name in (*names, *_directories(kit, choice.path)))
    paths |= dict.fromkeys(_by_header(kit, choice.path))
    for path in paths:
        _check_form(kit, choice, path)
    return tuple(Adapter(path) for path in paths)


def _directories(kit: UnpackedKit, base: Path) -> Iterator[str]:
    """Yield the parts that are directories with an adapter's config, whatever their types and names are."""
    for name in part_paths(kit.kit):
        path = kit.path / name
        if (path / _PEFT_CONFIG).is_file() and not base.is_relative_to(path):
            yield name


def _by_header(kit: UnpackedKit, base: Path) -> Iterator[Path]:
    """Yield the GGUF files beside a model whose header says that they are adapters."""
    for path in sorted(kit.path.rglob("*.gguf")):
        with suppress(LoadError):
            if (
                path != base
                and path.is_file()
                and gguf_kinds.kind(gguf_file.read(path)) == gguf_kinds.ADAPTER
            ):
                yield path


def _check_form(kit: UnpackedKit, choice: Choice, path: Path) -> None:
    name, is_peft = path.relative_to(kit.path), path.is_dir()
    if is_peft and choice.format is Format.GGUF:
        raise UnusableModel(
            f"{kit.kit.reference}: its adapter {str(name)!r} is PEFT's (safetensors), and its base "
            f"{choice.path.name!r} is GGUF, which takes adapters in GGUF only; convert the adapter with "
            "llama.cpp's convert_lora_to_gguf.py, or put it on the base's safetensors, and pack again"
        )
    if not is_peft and choice.format is not Format.GGUF:
        raise UnusableModel(
            f"{kit.kit.reference}: its adapter {str(name)!r} is GGUF, and its base is safetensors, "
            "which takes adapters of PEFT only; pack the adapter's "
            f"{_PEFT_CONFIG} and {_PEFT_WEIGHTS}, or put it on a base in GGUF"
        )


def _adapter(kit: UnpackedKit, name: str) -> Path:
    """Return an adapter's GGUF file, or the directory of a PEFT adapter. Raises UnusableModel for others."""
    path = kit.path / name
    if path.is_file():
        if identify(path) is Format.GGUF:
            return path
        directory = path.parent
    else:
        directory = path
        if not (path / _PEFT_CONFIG).is_file():
            files = [
                file for file in sorted(path.glob("*")) if file.is_file() and identify(file) is Format.GGUF
            ]
            if len(files) == 1:
                return files[0]
    if (directory / _PEFT_CONFIG).is_file() and (directory / _PEFT_WEIGHTS).is_file():
        return directory
    raise UnusableModel(
        f"{kit.kit.reference}: its adapter {name or 'at its top'!r} is neither a GGUF file nor a directory "
        f"with {_PEFT_CONFIG} and {_PEFT_WEIGHTS} (a .bin file is a pickle); pack it as one of them"
    )
