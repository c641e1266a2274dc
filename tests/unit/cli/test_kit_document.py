"""What `kitserve inspect` says of a kit's language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.kit_document import kit_document
from gateway.cli.tables import kit_text
from gateway.kits import examination
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.policy import ANYTHING
from gateway.oci.reference import parse_reference
from runtimes.engines.base import Memory
from runtimes.formats import Format
from runtimes.select import Choice
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.language import GIB, MadeUpEngines

PARAMETERS = {
    "n_ctx": 8192,
    "temp": 0.7,
    "stop": ["</s>"],
    "system": "Be brief.\nBe kind.",
    "quantization": "Q4_K_M",
}


@pytest.fixture
def inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pack a kit with parameters, and return its document."""
    engines = MadeUpEngines(Memory(7 * GIB, GIB, 0))

    def choose(kit: UnpackedKit, *_: object, **__: object) -> Choice:
        return Choice(engines, kit.model_path, Format.GGUF)

    monkeypatch.setattr(examination, "choose_runtime", choose)
    builder = LayoutBuilder(tmp_path / "layout")

    def document(parameters: dict[str, Any]) -> dict[str, Any]:
        layers = [
            ("model", "model.gguf", {"model.gguf": b"GGUF weights"}),
            ("part", "chat_template.jinja", {"chat_template.jinja": b"{{ messages }}"}),
        ]
        pack_kit(builder, "chat:v1", *layers, model={"parameters": parameters})
        reference = parse_reference(f"oci-layout:{builder.directory}:chat:v1")
        return kit_document(Library(tmp_path / "cache"), reference, ANYTHING, None, None)

    return document


def test_a_language_model_is_shown_with_what_it_is_run_with_and_the_memory_that_it_takes(
    inspect: Any,
) -> None:
    document = inspect(PARAMETERS)
    language = document["language"]
    assert document["servable"] is True
    assert language["context"] == 8192
    assert language["tasks"] == ["chat", "completion"]
    assert language["sampling"] == {"temperature": 0.7}
    assert language["ignored"] == {"quantization": "not known"}
    assert language["memory"]["total"] == 8 * GIB
    console = Console(width=200, record=True)
    for part in kit_text(document):
        console.print(part)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    (memory,) = (line for line in lines if line.startswith("memory: "))
    assert memory.startswith(
        "memory: needs 8.0 GiB: 7.0 GiB weights + 1.0 GiB key-value cache (4 slots of 8192 tokens); "
    )
    assert " are free of " in memory
    for line in (
        "tasks: chat, completion",
        "context 8192 parameter n_ctx",
        "slots 4 default",
        "chat_template {{ messages }} part",
        "temperature 0.7 parameter temp",
        "stop '</s>' parameter stop",
        "system_prompt Be brief. Be kind. parameter system",
        "not taken: quantization (not known)",
    ):
        assert line in lines


def test_a_kit_with_a_parameter_that_cannot_be_meant_cannot_be_served(inspect: Any) -> None:
    document = inspect({"temperature": 7})
    assert document["servable"] is False
    assert "model.parameters.temperature is 7, and must be 0 to 2" in document["runtime_message"]
