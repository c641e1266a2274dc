"""A registry as Ollama's is: it sends manifests as plain text, without their digest, and by tag alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import NotFound
from gateway.kits.library import Library
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import parse_reference
from tests.support.answers import Answers, Handler
from tests.support.artifacts import LayoutBuilder
from tests.support.dialects import gguf, ollama_model


@pytest.fixture
def digest(server: Answers, tmp_path: Path) -> str:
    """Serve `library/smollm2:135m` as that registry does."""
    builder = LayoutBuilder(tmp_path / "layout")
    digest = ollama_model(builder, "m:v1", [("model", gguf("m")), ("params", b'{"temperature":0.2}')])

    def answer(handler: Handler) -> None:
        repository, _, rest = handler.path.removeprefix("/v2/").partition("/manifests/")
        if repository == "library/smollm2" and rest == "135m":
            data = (builder.directory / "blobs" / digest.replace(":", "/")).read_bytes()
            handler.say(200, data, Content_Type="text/plain; charset=utf-8")
            return
        blob = builder.directory / "blobs" / handler.path.rpartition("/blobs/")[2].replace(":", "/")
        if handler.path.startswith("/v2/library/smollm2/blobs/sha256:") and blob.is_file():
            handler.say(200, blob.read_bytes(), Content_Type="application/octet-stream")
        else:
            handler.say(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    server.answer = answer
    return digest


def library(server: Answers, directory: Path) -> Library:
    return Library(directory, SourceOptions({server.host: RegistryOptions(plain_http=True)}))


def test_a_model_is_pulled_by_its_tag(server: Answers, digest: str, tmp_path: Path) -> None:
    reference = parse_reference(f"{server.host}/library/smollm2:135m")
    unpacked = library(server, tmp_path / "cache").open(reference)
    assert str(unpacked.kit.digest) == digest
    assert (unpacked.path / "model.gguf").read_bytes() == gguf("m")
    unpacked.lease.release()


def test_another_node_pulls_it_by_its_digest(server: Answers, digest: str, tmp_path: Path) -> None:
    for version in ("", ":135m"):
        reference = parse_reference(f"{server.host}/library/smollm2{version}@{digest}")
        unpacked = library(server, tmp_path / f"cache{version[1:]}").open(reference)
        assert unpacked.kit.kitfile.model is not None
        assert unpacked.kit.kitfile.model.parameters == {"temperature": 0.2}
        unpacked.lease.release()


@pytest.mark.usefixtures("digest")
def test_what_is_not_there_is_not_found(server: Answers, tmp_path: Path) -> None:
    for name in ("other:135m", "smollm2:7b", f"smollm2@sha256:{'0' * 64}"):
        reference = parse_reference(f"{server.host}/library/{name}")
        with pytest.raises(NotFound, match="404"):
            library(server, tmp_path / "cache").describe(reference)
