"""`kitserve lock` against a real registry: tags that move, parents, and a gateway's library that obeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.config import load_config
from gateway.config.lock import load_locked
from gateway.control.loop.resolver import resolve
from gateway.control.state.desired import desired_from
from gateway.errors import InvalidKitfile
from gateway.kits.library import Library
from gateway.oci.content import REF_NAME
from gateway.oci.reference import parse_reference
from tests.support.artifacts import MODELKIT, OCI_MANIFEST, LayoutBuilder, tar
from tests.support.cli import Cli
from tests.support.registry import Registry


class Workplace:
    """A config with one model, whose kit is in a registry and has a parent there."""

    def __init__(self, directory: Path, registry: Registry, cli: Cli) -> None:
        self.builder = LayoutBuilder(directory / "layout")
        self.registry = registry
        self.file = directory / "kitserve.yaml"
        self.lock = directory / "kitserve.lock"
        self.cli = cli

    def push(self, name: str, tag: str, data: bytes) -> str:
        """Push a kit, where `data` is a model or the reference of a parent; return its digest."""
        named = f"{name}:{tag}"
        if data.startswith(b"127."):
            kitfile = b'{"package": {}, "model": {"path": "%s"}}' % data
            config = self.builder.blob(f"{MODELKIT}.config.v1+json", kitfile)
            digest = self.builder.artifact(named, {"schemaVersion": 2, "config": config, "layers": []})
        else:
            digest = self.builder.kit(named, tar(("model", data)))
        entry = {"mediaType": OCI_MANIFEST, "digest": digest, "annotations": {REF_NAME: named}}
        self.registry.push(self.builder.directory, entry)
        return digest

    def write(self, *kits: str) -> None:
        models = "".join(f"- {{name: m{index}, kit: '{kit}'}}\n" for index, kit in enumerate(kits))
        self.file.write_text(f"models:\n{models}registries: {{{self.registry.host}: {{plain_http: true}}}}\n")

    def run(self, *options: str, code: int = 0) -> str:
        text, error = self.cli("lock", str(self.file), *options, code=code)
        return text + error


@pytest.fixture
def place(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    monkeypatch.setenv("COLUMNS", "300")
    return Workplace(tmp_path, registry, Cli(tmp_path / "home", monkeypatch, capsys))


def test_a_lock_keeps_what_tags_meant_until_it_is_upgraded(place: Workplace) -> None:
    host = place.registry.host
    base = place.push("locked/base", "v1", b"one")
    child = place.push("locked/child", "v1", f"{host}/locked/base:v1".encode())
    place.write(f"{host}/locked/child:v1")
    assert place.run("--check", code=1) == f"there is no {place.lock}; run `kitserve lock {place.file}`\n"
    assert place.run().endswith(f"{place.lock} is written: 1 kit\n")
    entry = f"    digest: {child}\n    parents:\n    - {host}/locked/base:v1@{base}\n"
    assert place.lock.read_text().endswith(f"kits:\n  {host}/locked/child:v1:\n{entry}")

    moved = place.push("locked/base", "v1", b"two")
    before = place.lock.read_text()
    assert "is up to date" in place.run()
    assert "fits" in place.run("--check")
    assert place.lock.read_text() == before
    assert f"v1@{base[7:19]} -> " in place.run("--upgrade")
    assert moved in place.lock.read_text()
    assert base not in place.lock.read_text()

    place.write(f"{host}/locked/child:v1", f"{host}/locked/base:v1")
    assert "locked/base:v1 is in the config, and not in the lock" in place.run("--check", code=1)
    assert f"{host}/locked/base:v1: added, {moved[7:19]}" in place.run()
    place.write(f"{host}/locked/base:v1")
    assert f"{host}/locked/child:v1: removed" in place.run()
    assert not place.cli.home.exists()


def test_a_locked_kit_has_the_locked_parents_wherever_tags_point(place: Workplace) -> None:
    host = place.registry.host
    place.push("moved/base", "v1", b"one")
    child = place.push("moved/child", "v1", f"{host}/moved/base:v1".encode())
    place.write(f"{host}/moved/child:v1")
    place.run()
    place.push("moved/base", "v1", b"two")
    place.push("moved/child", "v1", b"another")
    desired = desired_from(load_locked(place.file))
    (model,) = desired.models
    assert str(resolve(model.kit, place.cli.home, desired).digest) == child
    library = Library(place.cli.home / "cache", desired.sources)
    unpacked = library.open(model.kit, parents=[parent.reference for parent in model.parents])
    unpacked.lease.release()
    assert unpacked.model_path.read_bytes() == b"one"


def test_parents_that_the_kitfile_does_not_name_are_refused(place: Workplace) -> None:
    host = place.registry.host
    place.push("named/base", "v1", b"one")
    other = place.push("named/other", "v1", b"two")
    child = place.push("named/child", "v1", f"{host}/named/base:v1".encode())
    place.write(f"{host}/named/child:v1")
    library = Library(place.cli.home / "cache", desired_from(load_config(place.file)).sources)
    reference = parse_reference(f"{host}/named/child:v1@{child}")
    foreign = parse_reference(f"{host}/named/other:v1@{other}")
    for parents in ([foreign], [foreign, foreign]):
        with pytest.raises(InvalidKitfile, match=r"by its Kitfile, .* has the parent .*/base:v1"):
            library.describe(reference, parents=parents)


def test_what_contradicts_a_digest_of_the_config_is_named_and_then_locked_anew(place: Workplace) -> None:
    host = place.registry.host
    digest = place.push("pinned/kit", "v1", b"one")
    other = place.push("pinned/kit", "v2", b"two")
    place.write(f"{host}/pinned/kit:v1@{digest}")
    place.run()
    place.lock.write_text(place.lock.read_text().replace(f"    digest: {digest}", f"    digest: {other}"))
    said = place.run("--check", code=1)
    assert f"{host}/pinned/kit:v1@{digest} is pinned by the config" in said
    assert f"the lock has another digest for it: {other}" in said
    assert f" -> {digest[7:19]}" in place.run()
    assert "fits" in place.run("--check")


def test_what_contradicts_the_parents_in_the_config_is_named_and_then_locked_anew(place: Workplace) -> None:
    host = place.registry.host
    first = place.push("stated/base", "v1", b"one")
    child = place.push("stated/child", "v1", f"{host}/stated/base:v1".encode())
    place.write(f"{host}/stated/child:v1@{child}")
    place.run()
    second = place.push("stated/base", "v1", b"two")
    parents = f"parents: ['{host}/stated/base:v1@{second}']"
    place.file.write_text(place.file.read_text().replace(f"{child}'", f"{child}', {parents}"))
    said = place.run("--check", code=1)
    assert (
        f"child:v1@{child} has the parents {host}/stated/base:v1@{second} in the config, and others" in said
    )
    assert first in place.lock.read_text()
    assert f"with parents v1@{second[7:19]}" in place.run()
    assert "fits" in place.run("--check")


def test_a_lock_that_cannot_be_made_leaves_the_one_before(place: Workplace) -> None:
    host = place.registry.host
    place.push("gone/kit", "v1", b"one")
    place.write(f"{host}/gone/kit:v1")
    place.run()
    before = place.lock.read_text()
    place.write(f"{host}/gone/kit:v1", f"{host}/gone/kit:v9")
    assert "gone/kit:v9" in place.run(code=1)
    assert place.lock.read_text() == before
