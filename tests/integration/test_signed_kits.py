"""Signed kits get the same verdict from a layout and from a registry without the referrers API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NotTrusted
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.kits.policy import Policy
from gateway.kits.trust import Verdict, judge
from gateway.oci.content import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor, Source
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import Digest, Reference, parse_reference
from gateway.oci.sources import open_source
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.registry import Registry
from tests.support.signing import (
    BUNDLE,
    SIMPLE_ARTIFACT,
    Signer,
    claim,
    compact,
    referrer_manifest,
    statement,
    tag_manifest,
)

PROD = Signer()
ATTACKER = Signer("keys/attacker.pub")
POLICY = Policy(keys=(PROD.key,))


class Kits:
    """A layout with one kit, and its signatures; `name` is its repository in the registry too."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.builder = LayoutBuilder(directory / "layout")
        self.digest = Digest.parse(self.builder.kit(f"{name}:v1", tar(("model", name.encode()))))
        size = len((self.builder.directory / "blobs/sha256" / self.digest.hex).read_bytes())
        self._kit = Descriptor(OCI_MANIFEST, self.digest, size)
        self._referrers: list[dict[str, Any]] = []

    def sign_by_tag(self, *signers: Signer) -> None:
        layers = [signer.simple(claim(self.digest), self.builder.blob) for signer in signers]
        self._add(f"sha256-{self.digest.hex}.sig", tag_manifest(layers, self.builder.blob))

    def sign_by_bundle(self, signer: Signer) -> None:
        bundle = self.builder.blob(BUNDLE, compact(signer.bundle(compact(statement(self.digest)))))
        self._refer([bundle], BUNDLE)

    def sign_by_referrer(self, signer: Signer) -> None:
        self._refer([signer.simple(claim(self.digest), self.builder.blob)], SIMPLE_ARTIFACT)

    def push(self, registry: Registry) -> None:
        """Push all of it, and the list of referrers under the tag that stands in for the API."""
        registry.push_layout(self.builder.directory)
        index = compact({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._referrers})
        entry = {
            **self.builder.blob(OCI_INDEX, index),
            "annotations": {REF_NAME: f"{self.name}:sha256-{self.digest.hex}"},
        }
        registry.push(self.builder.directory, entry)

    def _refer(self, layers: list[dict[str, Any]], artifact_type: str) -> None:
        manifest = referrer_manifest(layers, self._kit, self.builder.blob, artifact_type)
        digest, size = self._add(f"referrer-{len(self._referrers)}", manifest)
        self._referrers.append(
            {"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "artifactType": artifact_type}
        )

    def _add(self, tag: str, manifest: bytes) -> tuple[str, int]:
        digest = self.builder.artifact(f"{self.name}:{tag}", json.loads(manifest))
        path = self.builder.directory / "blobs" / digest.replace(":", "/")
        return digest, path.stat().st_size


@pytest.fixture
def kits(tmp_path: Path) -> Kits:
    return Kits(tmp_path, f"signed/{tmp_path.name}")


@pytest.fixture(params=["layout", "registry"])
def verdict(
    request: pytest.FixtureRequest, tmp_path: Path, kits: Kits, registry: Registry
) -> Callable[[], Verdict]:
    """Judge the kit in its layout, or in the registry, to which it is pushed first."""
    sources = SourceOptions({registry.host: RegistryOptions(plain_http=True)})

    def judged() -> Verdict:
        reference: Reference = parse_reference(f"oci-layout:{kits.builder.directory}:{kits.name}:v1")
        if request.param == "registry":
            kits.push(registry)
            reference = parse_reference(f"{registry.host}/{kits.name}:v1")
        kit = Library(tmp_path / "library", sources).describe(reference)
        assert kit.digest == kits.digest
        return judge(kit, POLICY, lambda: open_source(kit.reference, sources))

    return judged


def test_an_unsigned_kit_is_refused(kits: Kits, verdict: Callable[[], Verdict]) -> None:
    with pytest.raises(NotTrusted, match=f"is not signed: nothing was found for {kits.digest}"):
        verdict()


def test_a_tag_signature(kits: Kits, verdict: Callable[[], Verdict]) -> None:
    kits.sign_by_tag(ATTACKER, PROD)
    assert verdict().signature == "signed by keys/prod.pub (cosign tag signature)"


def test_a_bundle(kits: Kits, verdict: Callable[[], Verdict]) -> None:
    kits.sign_by_bundle(ATTACKER)
    kits.sign_by_bundle(PROD)
    assert verdict().signature == "signed by keys/prod.pub (cosign bundle)"


def test_a_referrer_of_the_first_scheme(kits: Kits, verdict: Callable[[], Verdict]) -> None:
    kits.sign_by_referrer(PROD)
    assert verdict().signature == "signed by keys/prod.pub (cosign referrer signature)"


def test_bad_in_one_place_and_good_in_another(kits: Kits, verdict: Callable[[], Verdict]) -> None:
    kits.sign_by_tag(ATTACKER)
    kits.sign_by_bundle(PROD)
    assert verdict().signature == "signed by keys/prod.pub (cosign bundle)"


def test_another_key_in_every_place(kits: Kits, verdict: Callable[[], Verdict]) -> None:
    kits.sign_by_tag(ATTACKER)
    kits.sign_by_bundle(ATTACKER)
    kits.sign_by_referrer(ATTACKER)
    with pytest.raises(NotTrusted) as caught:
        verdict()
    text = str(caught.value)
    for scheme in ("tag signature", "bundle", "referrer signature"):
        assert f"cosign {scheme}: none of keys/prod.pub made it" in text


def pushed(kits: Kits, registry: Registry, library: Path) -> tuple[Kit, Source]:
    kits.push(registry)
    sources = SourceOptions({registry.host: RegistryOptions(plain_http=True)})
    kit = Library(library, sources).describe(parse_reference(f"{registry.host}/{kits.name}:v1"))
    return kit, open_source(kit.reference, sources)


def test_an_altered_signature_is_never_looked_at(kits: Kits, registry: Registry, tmp_path: Path) -> None:
    kits.sign_by_tag(PROD)
    kit, source = pushed(kits, registry, tmp_path / "library")
    assert judge(kit, POLICY, lambda: source)
    payload = claim(kits.digest)
    registry.blob_path(str(Digest.of(payload))).write_bytes(payload.replace(b"team/iris", b"team/rose"))
    with pytest.raises(NotTrusted, match=r"the bytes sent for sha256:\w{64} have another digest"):
        judge(kit, POLICY, lambda: source)


def test_no_layer_is_fetched_for_a_verdict(kits: Kits, registry: Registry, tmp_path: Path) -> None:
    kit, source = pushed(kits, registry, tmp_path / "library")
    with pytest.raises(NotTrusted):
        judge(kit, POLICY, lambda: source)
    (layer,) = kit.needed_layers()
    assert registry.served(f"/{kits.name}/manifests/") > 0
    assert registry.served(str(layer.descriptor.digest)) == 0


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"{", b"\xff", b'{"signature": 1}'])
def test_a_damaged_verdict_is_judged_again(kits: Kits, tmp_path: Path, damage: bytes) -> None:
    kits.sign_by_tag(PROD)
    library = Library(tmp_path / "library")
    reference = parse_reference(f"oci-layout:{kits.builder.directory}:{kits.name}:v1")
    verdict = library.judge(library.describe(reference), POLICY)
    (note,) = (tmp_path / "library/trust").iterdir()
    whole = note.read_bytes()
    note.write_bytes(damage)
    assert library.judge(library.describe(reference), POLICY) == verdict
    assert note.read_bytes() == whole


def test_a_verdict_on_a_kit_allows_no_other_place_of_it(kits: Kits, tmp_path: Path) -> None:
    kits.sign_by_tag(PROD)
    library = Library(tmp_path / "library")
    policy = Policy(keys=(PROD.key,), registries=("oci-layout",))
    kit = library.describe(parse_reference(f"oci-layout:{kits.builder.directory}:{kits.name}:v1"))
    library.judge(kit, policy)
    elsewhere = library.describe(parse_reference(f"127.0.0.1:1/{kits.name}:v1@{kits.digest}"))
    assert elsewhere.digest == kit.digest
    with pytest.raises(NotTrusted, match=r"127\.0\.0\.1:1"):
        library.judge(elsewhere, policy)
