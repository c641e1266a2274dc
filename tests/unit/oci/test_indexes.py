from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import DigestMismatch, KitError, NotAKit, NotFound
from gateway.kits.indexes import choose_kit, is_index, parse_index
from gateway.kits.manifest import parse_manifest
from gateway.oci.content import OCI_INDEX, OCI_MANIFEST, Descriptor
from gateway.oci.reference import Digest
from tests.support.artifacts import MODELKIT, MODELPACK, sha256

DOCKER = "application/vnd.docker.distribution.manifest"
IMAGE = "application/vnd.oci.image.config.v1+json"
CHART = "application/vnd.cncf.helm.config.v1+json"


class _Repository:
    """A repository of manifests, which keeps the digests that were read."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.reads: list[str] = []

    def add(self, config: str, media_type: str = OCI_MANIFEST, note: int = 0, **more: Any) -> dict[str, Any]:
        """Store a manifest. Return the entry of an index for it."""
        manifest = {
            "schemaVersion": 2,
            "config": {"mediaType": config, "digest": sha256(b"{}"), "size": 2},
            "layers": [],
            "annotations": {"note": str(note)},
        }
        data = json.dumps(manifest).encode()
        self.manifests[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}

    def kit(self, note: int = 0, **more: Any) -> dict[str, Any]:
        return self.add(f"{MODELKIT}.config.v1+json", note=note, **more)

    def read(self, descriptor: Descriptor) -> bytes:
        digest = str(descriptor.digest)
        self.reads.append(digest)
        if digest not in self.manifests:
            raise NotFound(f"r.io/x has no {digest}")
        return self.manifests[digest]


@pytest.fixture
def repository() -> _Repository:
    return _Repository()


def _index(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": list(entries), **more}).encode()


def _chosen(repository: _Repository, *entries: Any, **more: Any) -> str:
    return str(choose_kit(_index(*entries, **more), "r.io/x:v1", repository.read).descriptor.digest)


@pytest.mark.parametrize("config", [f"{MODELKIT}.config.v1+json", f"{MODELPACK}.config.v1+json"])
def test_the_one_kit_is_found_among_others(repository: _Repository, config: str) -> None:
    kit = repository.add(config, platform={"os": "linux", "architecture": "amd64"})
    others = [
        repository.add(IMAGE, note=1),
        repository.add(CHART),
        repository.add(IMAGE, f"{DOCKER}.v2+json", note=2),
        {"mediaType": OCI_INDEX, "digest": sha256(b"nested"), "size": 10},
        {"mediaType": "application/x-unknown", "digest": sha256(b"unknown"), "size": 10},
        {"mediaType": OCI_MANIFEST, "digest": sha256(b"missing"), "size": 10},
    ]
    assert _chosen(repository, *others, kit) == kit["digest"]
    assert _chosen(repository, kit, *others) == kit["digest"]
    assert _chosen(repository, kit, kit, artifactType=f"{MODELKIT}.index.v1+json") == kit["digest"]
    assert sha256(b"nested") not in repository.reads


def test_several_kits_are_for_a_user_to_choose_from(repository: _Repository) -> None:
    labels = {"quantization": "q4_0", "totalParameters": 7_000_000_000, "accelerators": ["cuda"]}
    first = repository.kit(1, modelMetadata=labels, annotations={"org.opencontainers.image.ref.name": "q4"})
    second = repository.kit(2, platform={"os": "linux", "architecture": "arm64", "variant": "v8"})
    image = repository.add(IMAGE)
    with pytest.raises(NotAKit) as caught:
        _chosen(repository, first, second, image, repository.add(IMAGE, note=1))
    assert str(caught.value) == (
        f"r.io/x:v1 is an index with {first['digest']} "
        '(tag q4, accelerators=["cuda"], quantization=q4_0, totalParameters=7000000000); '
        f"{second['digest']} (linux/arm64/v8); besides, it has a container image (×2); "
        "say which with `variant`, or name one kit of it by its digest or its own tag"
    )


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda _: [], "an empty index; name"),
        (lambda r: [r.add(IMAGE, note=1), r.add(IMAGE, note=2)], "an index of container images; name"),
        (lambda r: [r.add(IMAGE, f"{DOCKER}.v2+json")], "an index of container images; name"),
        (lambda r: [r.add(CHART)], "an index with no kit in it, but a Helm chart; name"),
        (lambda r: [r.add(IMAGE), r.add("a/b")], "but a container image, an artifact of type 'a/b'; name"),
        (lambda r: [r.kit(media_type=OCI_INDEX)], "but a nested index; name"),
        (lambda r: [r.kit(media_type=f"{DOCKER}.list.v2+json")], "but a nested index; name"),
        (lambda r: [r.kit(media_type="text/plain")], "but an entry of type 'text/plain'; name"),
        (
            lambda _: [{"mediaType": OCI_MANIFEST, "digest": sha256(b"gone"), "size": 1}],
            "but a manifest that its repository does not have; name",
        ),
    ],
)
def test_an_index_without_a_kit_says_what_it_has(
    repository: _Repository, build: Callable[[_Repository], list[Any]], what: str
) -> None:
    with pytest.raises(NotAKit, match=rf"^r\.io/x:v1 is .*{what}"):
        _chosen(repository, *build(repository))


def test_no_more_than_64_entries_are_looked_at(repository: _Repository) -> None:
    entries = [repository.add(IMAGE, note=note) for note in range(500)]
    with pytest.raises(NotAKit, match=r"a container image \(×64\), 436 entries not read"):
        _chosen(repository, *entries)
    assert len(repository.reads) == 64
    with pytest.raises(NotAKit, match=r"436 entries not read; name one kit"):
        _chosen(repository, repository.kit(), *entries[1:])
    kits = [repository.kit(note) for note in range(100)]
    with pytest.raises(NotAKit, match="besides, it has 36 entries not read") as caught:
        _chosen(repository, *kits)
    assert str(caught.value).count("sha256:") == 64
    many = [{**entries[0], "digest": f"sha256:{number:064x}"} for number in range(10_001)]
    with pytest.raises(KitError, match=r"manifests: .*at most 10000"):
        _chosen(repository, *many)


def test_what_is_damaged_or_broken_is_not_passed_over(repository: _Repository) -> None:
    kit, image = repository.kit(), repository.add(IMAGE)

    def damaged(descriptor: Descriptor) -> bytes:
        raise DigestMismatch("damaged")

    with pytest.raises(DigestMismatch):
        choose_kit(_index(kit, image), "r", damaged)
    broken = {"mediaType": OCI_MANIFEST, "digest": sha256(b"{}"), "size": 2}
    repository.manifests[sha256(b"{}")] = b"{}"
    with pytest.raises(KitError, match=rf"^r\.io/x:v1: {sha256(b'{}')}: its manifest is broken"):
        _chosen(repository, kit, broken)
    index = _index(kit)
    repository.manifests[sha256(index)] = index
    disguised = {"mediaType": OCI_MANIFEST, "digest": sha256(index), "size": len(index)}
    with pytest.raises(NotAKit, match="is an index of manifests, not a kit"):
        _chosen(repository, kit, disguised)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "its index cannot be read"),
        (b"[]", "is not an object"),
        (b'{"manifests":[],"manifests":[]}', "repeated key"),
        (b'{"manifests":' + b"[" * 100_000, "nested too deeply"),
        (b" " * (4 * 1024 * 1024 + 1), "4 MiB are allowed"),
        (b'{"manifests":[]}', "broken: schemaVersion"),
        (_index(schemaVersion=1), "broken: schemaVersion"),
        (_index(schemaVersion="2"), "broken: schemaVersion"),
        (b'{"schemaVersion":2,"manifests":null}', "broken: manifests"),
        (b'{"schemaVersion":2}', "broken: manifests"),
        (_index({"mediaType": "a/b", "digest": "sha256:../x", "size": 1}), r"manifests\.0\.digest"),
        (_index({"mediaType": "a/b", "digest": sha256(b""), "size": -1}), r"manifests\.0\.size"),
        (_index({"mediaType": "a/b", "digest": sha256(b""), "size": 0, "platform": []}), r"0\.platform"),
        (_index({"mediaType": "a/b", "Digest": sha256(b"")}), r"manifests\.0\.'Digest' instead of 'digest'"),
        (_index(Manifests=[]), "'Manifests' instead of 'manifests'"),
        (_index(mediaType=OCI_MANIFEST), "which is not an index's"),
        (_index(config={}), "an index and a manifest in one"),
        (_index(layers=None), "an index and a manifest in one"),
        (_index(fsLayers=[]), "an index and a manifest in one"),
    ],
)
def test_broken_indexes(data: bytes, why: str) -> None:
    with pytest.raises(KitError, match=rf"^r\.io/x:v1.*{why}"):
        parse_index(data, "r.io/x:v1")


def test_the_media_type_that_was_sent() -> None:
    for written, sent in ((OCI_INDEX, OCI_INDEX), (None, OCI_INDEX), (OCI_INDEX, None), (None, None)):
        assert parse_index(_index(**({"mediaType": written} if written else {})), "r", sent) == ()
    assert parse_index(_index(), "r", f"{DOCKER}.list.v2+json") == ()
    with pytest.raises(KitError, match="was sent as"):
        parse_index(_index(mediaType=OCI_INDEX), "r", OCI_MANIFEST)
    with pytest.raises(KitError, match="which is not an index's"):
        parse_index(_index(), "r", OCI_MANIFEST)


def test_entries_are_read_once_each_in_their_order() -> None:
    entries = [
        {"mediaType": "a/b", "digest": sha256(b"1"), "size": 1},
        {"mediaType": "a/b", "digest": sha256(b"2"), "size": 2, "platform": {"os": "linux", "new": [1]}},
        {"mediaType": "a/b", "digest": sha256(b"1"), "size": 1},
    ]
    first, second = parse_index(_index(*entries), "r")
    assert (first.descriptor.digest, first.platform, first.tag, first.labels) == (
        Digest.of(b"1"),
        None,
        None,
        {},
    )
    assert (second.descriptor.size, second.platform) == (2, "linux")
    assert str(first) == str(Digest.of(b"1"))


def test_what_others_wrote_is_shown_short_and_plain() -> None:
    entry = {"mediaType": "a/b", "digest": sha256(b"1"), "size": 1, "modelMetadata": {"a\n": "x" * 5000}}
    (shown,) = map(str, parse_index(_index(entry), "r"))
    assert len(shown) < 200
    assert shown.isprintable()


def test_documents_are_told_apart() -> None:
    assert is_index(_index())
    assert is_index(b'{"manifests":null,"layers":[]}')
    for data in (b"", b"[]", b'{"layers":[]}', b'{"Manifests":[]}'):
        assert not is_index(data)
    with pytest.raises(NotAKit, match="an index and a manifest in one"):
        parse_manifest(b'{"manifests":null,"layers":[]}', "r")
