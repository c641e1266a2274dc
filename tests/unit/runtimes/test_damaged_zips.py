"""Zips whose members have names that are no text, in each format that is one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtimes import pt2_file
from runtimes.base import Resources
from runtimes.encoders.texts import max_length_of
from runtimes.errors import LoadError
from runtimes.tensorflow import keras_file
from runtimes.torchscript import TorchScriptRuntime


def damaged(*names: str) -> bytes:
    """Return a zip of members; the name before the last one's content is no UTF-8, and says it is."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
        header = archive.getinfo(names[-1]).header_offset
    data = bytearray(content.getvalue())
    # The flags and the name of a local header: APPNOTE.TXT, 4.3.7 and 4.4.4.
    data[header + 7] |= 0x08
    data[header + 30] = 0xFF
    return bytes(data)


def torchscript_load(path: Path) -> object:
    return TorchScriptRuntime().load(path, Resources())


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (torchscript_load, ("m/data.pkl", "m/constants.pkl", "m/version", "m/code/a.py")),
        (pt2_file.read, ("m/models/model.json",)),
        (keras_file.check, ("metadata.json", "config.json")),
    ],
    ids=["torchscript", "pt2", "keras"],
)
def test_names_that_are_no_text_are_refused(
    read: Callable[[Path], object], names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.write_bytes(damaged(*names))
    with pytest.raises(LoadError, match="codec can't decode"):
        read(path)


@pytest.mark.parametrize("wrong", [{}, [], "512", None])
def test_lengths_that_are_no_numbers_are_not_taken(wrong: object) -> None:
    config = SimpleNamespace(max_position_embeddings=512, model_type="roberta", pad_token_id=wrong)
    assert max_length_of(SimpleNamespace(model_max_length=wrong), config) == 511
    assert max_length_of(SimpleNamespace(model_max_length=100), config) == 100
