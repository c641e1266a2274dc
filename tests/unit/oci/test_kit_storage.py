from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gateway.errors import DigestMismatch, NotFound, RegistryError
from gateway.kits.library import Library
from gateway.oci.content import Descriptor
from gateway.oci.kit_storage import KitStorageSource
from gateway.oci.options import SourceOptions, kit_home
from gateway.oci.reference import Digest, LocalReference, parse_reference
from gateway.oci.sources import open_source
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.dialects import OCI_INDEX, gguf, modelkit, modelkit_index
from tests.support.kitops import kit_storage

V1 = Digest.parse("sha256:702c3f942317fbbe1f30dca2f5fd2019cbfdf3e7ed7b7718d2cda6d6c56aac8d")
V2 = Digest.parse("sha256:29ffc517c883dd34033dbc81fd7b0589fb9f878de405803b10bcd3a370c043ec")
REAL = Path(__file__).parents[4] / "shared" / "kits" / "kitops-home"


@pytest.fixture
def home(tmp_path: Path, layout: Path) -> Path:
    kit_storage(tmp_path / "home", layout, "127.0.0.1:5055")
    return tmp_path / "home"


def _source(home: Path, name: str) -> KitStorageSource:
    reference = parse_reference(name)
    assert isinstance(reference, LocalReference)
    return KitStorageSource(reference, home)


def _tags_file(home: Path, repository: str) -> Path:
    return home / "storage" / f"{base64.urlsafe_b64encode(repository.encode()).decode()}-tags.json"


@pytest.mark.parametrize("storage", ["made here", "made by kit"])
def test_a_tag_is_found(home: Path, layout: Path, storage: str) -> None:
    if storage == "made by kit" and not REAL.is_dir():
        pytest.skip(f"{REAL} is not there")
    source = _source(REAL if storage == "made by kit" else home, "kit:127.0.0.1:5055/samples/iris:v1")
    descriptor = source.resolve()
    assert (descriptor.digest, descriptor.size) == (V1, 725)
    data = source.manifest(descriptor)
    assert data == (layout / "blobs/sha256" / V1.hex).read_bytes()
    for part in [json.loads(data)["config"], *json.loads(data)["layers"]]:
        blob = Descriptor(part["mediaType"], Digest.parse(part["digest"]), part["size"])
        for offset in (0, 100):
            with source.blob(blob, offset) as stream:
                content = b"".join(stream.chunks)
            assert (stream.start, content) == (
                offset,
                (layout / "blobs/sha256" / blob.digest.hex).read_bytes()[offset:],
            )
    other = source.resolve_tag("v2")
    assert other is not None
    assert other.digest == V2
    assert source.resolve_tag("v9") is None
    assert source.referrers(V1) == ()


def test_bare_names_are_those_without_a_registry(tmp_path: Path, layout: Path) -> None:
    kit_storage(tmp_path, layout, "localhost")
    for name in ("samples/iris:v1", "kit:samples/iris:v1"):
        assert _source(tmp_path, name).resolve().digest == V1
    with pytest.raises(NotFound):
        _source(tmp_path, "localhost/samples/iris:v1").resolve()


@pytest.mark.parametrize(
    "name", [f"127.0.0.1:5055/samples/iris@{V1}", f"127.0.0.1:5055/other:v1@{V1}", str(V1)]
)
def test_a_digest_needs_no_tag(home: Path, name: str) -> None:
    for path in (home / "storage").glob("*-tags.json"):
        path.unlink()
    descriptor = _source(home, f"kit:{name}").resolve()
    assert (descriptor.digest, descriptor.size) == (V1, 725)
    missing = Digest.of(b"nothing")
    with pytest.raises(NotFound, match=f"lacks blob {missing}.*pack or pull it again with kit"):
        _source(home, f"kit:iris@{missing}").resolve()


def test_a_name_that_is_not_there_is_told_what_is(home: Path) -> None:
    with pytest.raises(NotFound) as caught:
        _source(home, "iris:v1").resolve()
    assert str(caught.value).startswith(
        f"kit:iris:v1: kit's local storage {home / 'storage'} has no iris:v1; "
        "it has 127.0.0.1:5055/samples/iris-child:v1, "
    )
    assert str(caught.value).endswith("; for a kit in a registry, write HOST/REPOSITORY:TAG")
    with pytest.raises(
        NotFound, match=r"it has 127.0.0.1:5055/samples/iris:bad, 127.0.0.1:5055/samples/iris:v1"
    ):
        _source(home, "kit:127.0.0.1:5055/samples/iris:v9").resolve()


def test_odd_files_do_not_hide_what_is_there(home: Path) -> None:
    for name in ("+-tags.json", "w-tags.json", "_w==-tags.json"):
        (home / "storage" / name).write_text("{}")
    _tags_file(home, "r.io/broken").write_text("{")
    (home / "storage" / "pipe-tags.json").mkdir()
    with pytest.raises(NotFound, match=r"it has 127.0.0.1:5055/samples/iris-child:v1"):
        _source(home, "iris:v1").resolve()
    with pytest.raises(RegistryError, match="no usable OCI image layout"):
        _source(home, "kit:r.io/broken:v1").resolve()


@pytest.mark.parametrize(
    "text",
    ["[]", '{"v1":{}}', '{"v1":{"mediaType":"a","digest":"sha256:../x","size":1}}', '{"a":1,"a":2}', "\xff"],
)
def test_broken_tags_are_refused(home: Path, text: str) -> None:
    _tags_file(home, "127.0.0.1:5055/samples/iris").write_text(text, "latin-1")
    with pytest.raises(RegistryError, match=r"no usable OCI image layout .*-tags.json"):
        _source(home, "kit:127.0.0.1:5055/samples/iris:v1").resolve()


def test_a_storage_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=f"{tmp_path}/nowhere/storage has no iris:v1, as it does not exist; set"
    ):
        _source(tmp_path / "nowhere", "iris:v1").resolve()


def test_the_form_of_kit_before_0_3_is_told(tmp_path: Path) -> None:
    old = LayoutBuilder(tmp_path / "storage" / "localhost" / "team" / "iris")
    old.kit("v1", tar(("model", b"x")))
    with pytest.raises(NotFound, match=r"form of kit before 0\.3; run `kit list` of a newer kit"):
        _source(tmp_path, "team/iris:v1").resolve()
    reference = parse_reference(f"oci-layout:{old.directory}:team/iris:v1")
    assert open_source(reference, SourceOptions()).resolve().size > 0


def test_blobs_are_verified_and_never_links(home: Path) -> None:
    source = _source(home, "kit:127.0.0.1:5055/samples/iris:v1")
    descriptor = source.resolve()
    path = home / "storage/blobs/sha256" / V1.hex
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(DigestMismatch):
        source.manifest(descriptor)
    path.rename(home / "elsewhere")
    path.symlink_to(home / "elsewhere")
    with pytest.raises(RegistryError, match="symbolic link"):
        source.manifest(descriptor)


def test_referrers_are_found_in_the_whole_storage(tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    kit = Digest.parse(builder.kit("samples/iris:v1", tar(("model", b"x"))))
    subject = {"mediaType": "x", "digest": str(kit), "size": 1}
    builder.artifact("samples/iris:signed", {"subject": subject, "artifactType": "a/b"})
    kit_storage(tmp_path / "home", builder.directory, "r.io")
    (referrer,) = _source(tmp_path / "home", "kit:r.io/samples/iris:v1").referrers(kit)
    assert referrer.artifact_type == "a/b"


def test_a_name_too_long_for_a_file_is_not_there(home: Path) -> None:
    with pytest.raises(RegistryError):
        _source(home, "a" * 250).resolve()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KITOPS_HOME": "/kit", "XDG_DATA_HOME": "/data"}, "/kit"),
        ({"XDG_DATA_HOME": "/data"}, "/data/kitops"),
        ({"KITOPS_HOME": "", "XDG_DATA_HOME": ""}, "/home/me/.local/share/kitops"),
        ({}, "/home/me/.local/share/kitops"),
    ],
)
def test_kits_own_directory(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("KITOPS_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert kit_home() == Path(expected)


def test_a_reference_is_opened_where_kit_keeps_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = parse_reference("kit:127.0.0.1:5055/samples/iris:v1")
    assert open_source(reference, SourceOptions(kitops_home=home)).resolve().digest == V1
    monkeypatch.setenv("KITOPS_HOME", str(home))
    assert open_source(reference, SourceOptions()).resolve().digest == V1


@pytest.fixture
def indexed(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A home with `llm:q4`, `llm:q8`, `llm:all`, an index of both, and a kit `llm:both` beside an index."""
    builder = LayoutBuilder(tmp_path / "indexed")
    digests = {tag: modelkit(builder, f"llm:{tag}", {"m.gguf": gguf(tag)}) for tag in ("q4", "q8", "both")}
    labels = {"llm:q4": {"quantization": "q4_0"}, "llm:q8": {"quantization": "q8_0"}}
    digests["all"] = modelkit_index(builder, "llm:all", labels)
    digests["index"] = modelkit_index(builder, "llm:both", labels)
    kit_storage(tmp_path / "home17", builder.directory, "localhost")
    return tmp_path / "home17", digests


def test_an_index_is_found_by_its_tag_and_its_digest(indexed: tuple[Path, dict[str, str]]) -> None:
    home, digests = indexed
    for name in ("kit:llm:all", "llm:all", "llm:all[auto]", f"llm@{digests['all']}"):
        descriptor = _source(home, name).resolve()
        assert str(descriptor.digest) == digests["all"]
        assert descriptor.media_type == OCI_INDEX
    with pytest.raises(NotFound, match=r"it has llm:all, llm:both, llm:q4, llm:q8; for a kit in"):
        _source(home, "llm:v1").resolve()


def test_a_tag_of_a_kit_and_an_index_means_the_index_where_there_is_a_variant(
    indexed: tuple[Path, dict[str, str]],
) -> None:
    home, digests = indexed
    assert str(_source(home, "llm:both").resolve().digest) == digests["both"]
    assert str(_source(home, "llm:both[quantization=q4_0]").resolve().digest) == digests["index"]


def test_a_kit_of_an_index_in_kits_storage_is_opened(
    indexed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    home, digests = indexed
    library = Library(tmp_path / "cache", SourceOptions(kitops_home=home))
    unpacked = library.open(parse_reference("kit:llm:all[quantization=q8_0]"))
    assert str(unpacked.kit.digest) == digests["q8"]
    assert (unpacked.path / "m.gguf").read_bytes() == gguf("q8")
    unpacked.lease.release()
