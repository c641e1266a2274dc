"""Kits whose model is another kit's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.errors import InvalidKitfile, KitError, NotTrusted, UnsafeArchive
from gateway.kits.library import Library
from gateway.kits.limits import MAX_PARENTS
from gateway.kits.parents import model_of
from gateway.kits.policy import Policy
from gateway.oci.reference import Digest, LayoutReference, parse_reference
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar
from tests.support.signing import Signer, claim, tag_manifest


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "layout")


def _child(
    builder: LayoutBuilder,
    reference: str,
    parent: str,
    parts: tuple[tuple[str, bytes], ...] = (),
    **model: object,
) -> str:
    """Store a kit whose model is the parent's, with parts of its own; return its digest."""
    layers = [builder.blob(f"{MODELKIT}.modelpart.v1.tar", tar(part)) for part in parts]
    entries = [
        {"path": path, "name": path, "digest": layer["digest"]}
        for (path, _), layer in zip(parts, layers, strict=True)
    ]
    kitfile = {"model": {"path": parent, "parts": entries, **model}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    return builder.artifact(reference, {"schemaVersion": 2, "config": config, "layers": layers or None})


def _named(builder: LayoutBuilder, name: str) -> LayoutReference:
    repository, _, tag = name.partition(":")
    return LayoutReference(builder.directory, repository, tag, None)


def test_the_sample_child_has_its_parents_model(library: Library, layout: Path) -> None:
    child = library.open(parse_reference(f"oci-layout:{layout}:samples/iris-child:v1"))
    parent = library.open(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))
    assert [str(kit.digest) for kit in child.kit.parents] == [str(parent.kit.digest)]
    assert child.kit.parents[0].reference.digest == parent.kit.digest
    assert child.model_path.read_bytes() == parent.model_path.read_bytes()
    assert child.path != parent.path
    assert child.kit.size == 2560


def test_parts_and_words_are_merged_the_childs_first(library: Library, builder: LayoutBuilder) -> None:
    builder.kit("base/m:v1", tar(("model", None), ("model/w.bin", b"w")))
    _child(builder, "mid/m:v1", "r.io/base/m:v1", (("mid.txt", b"mid"),), name="mid", framework="onnx")
    _child(
        builder, "top/m:v1", "r.io/mid/m:v1", (("top.txt", b"top"),), name="top", parameters={"threshold": 1}
    )
    opened = library.open(_named(builder, "top/m:v1"))
    assert opened.model_path == opened.path / "model"
    assert {
        str(path.relative_to(opened.path)): path.read_bytes()
        for path in opened.path.rglob("*")
        if path.is_file()
    } == {"model/w.bin": b"w", "mid.txt": b"mid", "top.txt": b"top"}
    model = model_of(opened.kit)
    assert model is not None
    assert (model.name, model.framework, model.parameters) == ("top", "onnx", {"threshold": 1})
    assert [part.path for part in model.parts] == ["top.txt", "mid.txt"]
    assert model.path == "model"


def test_a_parent_that_moves_on_is_not_followed(library: Library, builder: LayoutBuilder) -> None:
    builder.kit("base/m:v1", tar(("model", b"1")))
    _child(builder, "top/m:v1", "r.io/base/m:v1")
    first = library.open(_named(builder, "top/m:v1"))
    moved = LayoutBuilder(builder.directory.with_name("moved"))
    moved.kit("base/m:v1", tar(("model", b"2")))
    _child(moved, "top/m:v1", "r.io/base/m:v1")
    for name in ("index.json",):
        (builder.directory / name).write_bytes((moved.directory / name).read_bytes())
    for blob in (moved.directory / "blobs/sha256").iterdir():
        (builder.directory / "blobs/sha256" / blob.name).write_bytes(blob.read_bytes())
    reopened = library.open(_named(builder, "top/m:v1"))
    assert reopened.kit.digest == first.kit.digest
    assert reopened.from_cache
    assert reopened.model_path.read_bytes() == b"1"
    fresh = Library(builder.directory.with_name("fresh")).open(_named(builder, "top/m:v1"))
    assert fresh.model_path.read_bytes() == b"2"
    assert fresh.path.name != first.path.name


def test_parents_that_another_node_found_hold(builder: LayoutBuilder, tmp_path: Path) -> None:
    builder.kit("base/m:v1", tar(("model", b"1")))
    _child(builder, "top/m:v1", "r.io/base/m:v1")
    first = Library(tmp_path / "first").open(_named(builder, "top/m:v1"))
    parents = [parent.reference for parent in first.kit.parents]
    builder.kit("base/m:v2", tar(("model", b"2")))
    index = json.loads((builder.directory / "index.json").read_text())
    index["manifests"] = [
        {**entry, "annotations": {"org.opencontainers.image.ref.name": name.replace("m:v2", "m:v1")}}
        for entry in index["manifests"]
        if (name := entry["annotations"]["org.opencontainers.image.ref.name"]) != "base/m:v1"
    ]
    (builder.directory / "index.json").write_text(json.dumps(index))
    second = Library(tmp_path / "second").open(_named(builder, "top/m:v1"), parents=parents)
    assert second.kit.key == first.kit.key
    assert second.model_path.read_bytes() == b"1"
    assert Library(tmp_path / "alone").open(_named(builder, "top/m:v1")).model_path.read_bytes() == b"2"


def test_circles_and_long_chains_end(library: Library, builder: LayoutBuilder) -> None:
    _child(builder, "a/m:v1", "r.io/b/m:v1")
    _child(builder, "b/m:v1", "r.io/a/m:v1")
    with pytest.raises(InvalidKitfile, match=r"a/m:v1.*circle.*→.*b/m"):
        library.open(_named(builder, "a/m:v1"))
    _child(builder, "self/m:v1", "r.io/self/m:v1")
    with pytest.raises(InvalidKitfile, match="circle"):
        library.open(_named(builder, "self/m:v1"))
    builder.kit("chain/m0:v1", tar(("model", b"x")))
    for number in range(1, MAX_PARENTS + 2):
        _child(builder, f"chain/m{number}:v1", f"r.io/chain/m{number - 1}:v1")
    assert len(library.open(_named(builder, f"chain/m{MAX_PARENTS}:v1")).kit.parents) == MAX_PARENTS
    with pytest.raises(InvalidKitfile, match="longer than 10"):
        library.open(_named(builder, f"chain/m{MAX_PARENTS + 1}:v1"))


def test_a_parent_from_a_place_that_is_not_allowed_is_not_asked_for(
    library: Library, builder: LayoutBuilder
) -> None:
    _child(builder, "top/m:v1", "127.0.0.1:1/base/m:v1")
    with pytest.raises(NotTrusted, match=r"127\.0\.0\.1:1/base/m:v1"):
        library.open(_named(builder, "top/m:v1"), policy=Policy(registries=("oci-layout",)))


def test_two_kits_that_have_one_file_are_refused(library: Library, builder: LayoutBuilder) -> None:
    builder.kit("base/m:v1", tar(("model", b"1")))
    _child(builder, "top/m:v1", "r.io/base/m:v1", (("model", b"2"),))
    with pytest.raises(UnsafeArchive, match=r"top/m:v1.*'model'"):
        library.open(_named(builder, "top/m:v1"))


def test_a_parent_without_a_model_is_named(library: Library, builder: LayoutBuilder) -> None:
    config = builder.blob(f"{MODELKIT}.config.v1+json", b"{}")
    builder.artifact("base/m:v1", {"schemaVersion": 2, "config": config, "layers": None})
    _child(builder, "top/m:v1", "r.io/base/m:v1")
    with pytest.raises(KitError, match=r"top/m:v1.* has no model"):
        library.open(_named(builder, "top/m:v1"))


def test_a_parent_is_judged_as_its_child_is(library: Library, builder: LayoutBuilder) -> None:
    signer = Signer()

    def sign(name: str, digest: str) -> None:
        layer = signer.simple(claim(Digest.parse(digest)), builder.blob)
        tag = f"{name}:{digest.replace(':', '-')}.sig"
        builder.artifact(tag, json.loads(tag_manifest([layer], builder.blob)))

    parent = builder.kit("base/m:v1", tar(("model", b"1")))
    sign("top/m", _child(builder, "top/m:v1", "r.io/base/m:v1"))
    policy = Policy(keys=(signer.key,))
    with pytest.raises(NotTrusted, match=r"base/m:v1.*is not signed"):
        library.open(_named(builder, "top/m:v1"), policy=policy)
    sign("base/m", parent)
    opened = library.open(_named(builder, "top/m:v1"), policy=policy)
    assert opened.verdict.signature.startswith("signed by")


def test_a_parent_found_in_one_place_is_no_parent_for_another(library: Library, tmp_path: Path) -> None:
    """The digest of a child does not fix its parent, so a copy of the child may not choose it for all."""
    kits = []
    for content in (b"evil", b"good"):
        builder = LayoutBuilder(tmp_path / content.decode())
        builder.kit("base/m:v1", tar(("model", content)))
        _child(builder, "top/m:v1", "r.io/base/m:v1")
        kits.append(library.open(_named(builder, "top/m:v1")))
    assert kits[0].kit.digest == kits[1].kit.digest
    assert [kit.model_path.read_bytes() for kit in kits] == [b"evil", b"good"]


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'["no reference!"]', b"[1]", b"\xff"])
def test_a_damaged_note_of_parents_is_made_again(
    library: Library, builder: LayoutBuilder, tmp_path: Path, damage: bytes
) -> None:
    builder.kit("base/m:v1", tar(("model", b"1")))
    _child(builder, "top/m:v1", "r.io/base/m:v1")
    library.open(_named(builder, "top/m:v1"))
    (note,) = (tmp_path / "library/parents").iterdir()
    whole = note.read_bytes()
    note.write_bytes(damage)
    assert library.open(_named(builder, "top/m:v1")).from_cache
    assert note.read_bytes() == whole
