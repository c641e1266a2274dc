"""The signatures of cosign are found wherever they are, and trusted only for a key of the policy."""

from __future__ import annotations

import json
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import RegistryUnavailable, Unauthorized
from gateway.kits import key_schemes
from gateway.kits.public_keys import PublicKey
from gateway.kits.signatures import MAX_CANDIDATES, SearchResult, find_signature
from gateway.oci.content import OCI_MANIFEST, BlobStream, Descriptor
from gateway.oci.reference import Digest, parse_reference
from tests.support.signing import (
    BUNDLE,
    CONFIG,
    SIGNATURE,
    SIMPLE,
    SIMPLE_ARTIFACT,
    Shelf,
    Signer,
    b64,
    claim,
    compact,
    statement,
)

REFERENCE = parse_reference("registry.example.com/team/iris:v1")
OTHER = Digest.of(b"another kit")
PROD = Signer()
ATTACKER = Signer("keys/attacker.pub")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(REFERENCE, b'{"a":"kit"}')


def find(shelf: Shelf, *signers: Signer) -> SearchResult:
    return find_signature(shelf, shelf.kit.digest, [signer.key for signer in signers or (PROD,)])


def good_layer(shelf: Shelf, signer: Signer = PROD) -> dict[str, Any]:
    return signer.simple(claim(shelf.kit.digest), shelf.put)


def good_bundle(shelf: Shelf, signer: Signer = PROD) -> dict[str, Any]:
    return signer.bundle(compact(statement(shelf.kit.digest)))


@pytest.mark.parametrize("kind", Signer.kinds)
def test_every_kind_of_key_in_every_scheme(shelf: Shelf, kind: str) -> None:
    signer = Signer("keys/ci.pub", kind)
    shelf.tag_signatures(good_layer(shelf, signer))
    assert find(shelf, PROD, signer) == SearchResult("keys/ci.pub", "cosign tag signature")
    shelf.tags.clear()
    shelf.refer_bundle(good_bundle(shelf, signer))
    assert find(shelf, PROD, signer) == SearchResult("keys/ci.pub", "cosign bundle")
    shelf.subjects.clear()
    shelf.refer(good_layer(shelf, signer), artifact_type=SIMPLE_ARTIFACT)
    assert find(shelf, PROD, signer) == SearchResult("keys/ci.pub", "cosign referrer signature")


def put_tag(shelf: Shelf) -> None:
    shelf.tag_signatures(good_layer(shelf))


def put_bundle(shelf: Shelf) -> None:
    shelf.refer_bundle(good_bundle(shelf))


def put_untold(shelf: Shelf) -> None:
    shelf.refer(shelf.put(BUNDLE, compact(good_bundle(shelf))), has_type=False)


def put_among_others(shelf: Shelf) -> None:
    shelf.refer(shelf.put("application/spdx+json", b"{}"), artifact_type="application/spdx+json")
    shelf.refer(good_layer(shelf), artifact_type=CONFIG)


def put_both(shelf: Shelf) -> None:
    put_tag(shelf)
    put_bundle(shelf)


@pytest.mark.parametrize("put", [put_tag, put_bundle, put_untold, put_among_others, put_both])
def test_the_verdict_is_the_same_wherever_it_is(shelf: Shelf, put: Callable[[Shelf], None]) -> None:
    assert find(shelf) == SearchResult()
    put(shelf)
    assert find(shelf).key == "keys/prod.pub"
    assert find(shelf, ATTACKER).refused


def test_nothing_else_is_fetched(shelf: Shelf) -> None:
    for kind in ("application/spdx+json", "application/vnd.in-toto+json"):
        shelf.refer(shelf.put(kind, b"{}"), artifact_type=kind)
    assert find(shelf) == SearchResult()
    assert shelf.requests == [f"tag sha256-{shelf.kit.digest.hex}.sig", f"referrers {shelf.kit.digest}"]


def changed(bundle: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Change members by their paths, with "__" between parts."""
    copy: dict[str, Any] = json.loads(json.dumps(bundle))
    for path, value in changes.items():
        *parents, last = path.split("__")
        member = copy
        for parent in parents:
            member = member[parent]
        member[last] = value
    return copy


def reworded(payload: bytes, old: str, new: str) -> bytes:
    assert old.encode() in payload
    return payload.replace(old.encode(), new.encode())


def simple_cases(shelf: Shelf) -> dict[str, tuple[dict[str, Any], str]]:
    digest = shelf.kit.digest
    payload, layer = claim(digest), good_layer(shelf)
    signature = layer["annotations"][SIGNATURE]
    reserialised = json.dumps(json.loads(payload)).encode()
    curve = Signer(kind="p384")
    wrong_type = reworded(payload, "cosign container image", "atomic container")
    no_digest = reworded(payload, "docker-manifest-digest", "digest")
    return {
        "another key": (good_layer(shelf, ATTACKER), "none of keys/prod.pub made it"),
        "another digest": (PROD.simple(claim(OTHER), shelf.put), f"it is for '{OTHER}'"),
        "a signature of another payload": (
            {**layer, "annotations": {SIGNATURE: b64(PROD.sign(claim(OTHER)))}},
            "none of .* made it",
        ),
        "an altered payload": (
            {
                **shelf.put(SIMPLE, reworded(payload, "team/iris", "team/rose")),
                "annotations": {SIGNATURE: signature},
            },
            "none of .* made it",
        ),
        "another type": (PROD.simple(wrong_type, shelf.put), "signed as 'atomic container signature'"),
        "no digest": (PROD.simple(no_digest, shelf.put), "it is for no digest"),
        "written anew": (
            {**shelf.put(SIMPLE, reserialised), "annotations": {SIGNATURE: signature}},
            "none of .* made it",
        ),
        "another curve": (good_layer(shelf, curve), "none of .* made it"),
        "cut base64": ({**layer, "annotations": {SIGNATURE: signature[:-3]}}, "not in base64"),
        "no base64": ({**layer, "annotations": {SIGNATURE: "!" + signature}}, "not in base64"),
        "no signature": ({**layer, "annotations": {}}, "is missing"),
        "a long signature": ({**layer, "annotations": {SIGNATURE: "A" * 9_000}}, "too long"),
        "no JSON": (PROD.simple(b"hello", shelf.put), "no usable JSON"),
        "a list": (PROD.simple(b"[1]", shelf.put), "not in the form"),
        "null": (PROD.simple(b'{"critical":null}', shelf.put), "not in the form"),
        "deep": (PROD.simple(b"[" * 100_000, shelf.put), "no usable JSON"),
        "keys twice": (PROD.simple(b'{"critical":1,"critical":2}', shelf.put), "repeated key"),
        "missing": ({**layer, "digest": str(OTHER)}, "there is no"),
        "shorter": ({**layer, "size": layer["size"] + 1}, "has not the .* bytes"),
        "longer": ({**layer, "size": layer["size"] - 1}, "has not the .* bytes"),
        "huge": ({**layer, "size": 5 * 1024**3}, "1 MiB is allowed"),
    }


SIMPLE_CASES = list(simple_cases(Shelf(REFERENCE)))


@pytest.mark.parametrize("name", SIMPLE_CASES)
def test_a_bad_simple_signature_is_refused_with_its_reason(shelf: Shelf, name: str) -> None:
    layer, reason = simple_cases(shelf)[name]
    shelf.tag_signatures(layer)
    shelf.refer(layer, artifact_type=SIMPLE_ARTIFACT)
    result = find(shelf)
    assert not result.key
    assert len(result.refused) == 2
    for text in result.refused:
        assert re.search(reason, text), text


def bundle_cases(shelf: Shelf) -> dict[str, tuple[dict[str, Any], str]]:
    signed_statement = statement(shelf.kit.digest)
    bundle = good_bundle(shelf)
    envelope = bundle["dsseEnvelope"]
    signature = envelope["signatures"][0]

    def signed(**changes: Any) -> dict[str, Any]:
        return PROD.bundle(compact(changed(signed_statement, **changes)))

    another = PROD.envelope(compact(signed_statement), "application/json")
    return {
        "another key": (good_bundle(shelf, ATTACKER), "none of keys/prod.pub made it"),
        "an attacker's key with our hint": (
            {**good_bundle(shelf, ATTACKER), "verificationMaterial": bundle["verificationMaterial"]},
            "none of .* made it",
        ),
        "its own key": (
            changed(good_bundle(shelf, ATTACKER), verificationMaterial__publicKey__rawBytes=ATTACKER.pem),
            "publicKey.rawBytes",
        ),
        "a certificate": (
            changed(bundle, verificationMaterial__certificate={"rawBytes": "AAAA"}),
            "relies on a certificate",
        ),
        "only a certificate": (
            changed(bundle, verificationMaterial={"certificate": {"rawBytes": "AAAA"}}),
            "relies on a certificate",
        ),
        "a chain": (
            changed(bundle, verificationMaterial={"x509CertificateChain": {"certificates": []}}),
            "relies on a certificate",
        ),
        "no material": (changed(bundle, verificationMaterial={}), "not in the form of a signature"),
        "a message": (
            changed(bundle, dsseEnvelope=None, messageSignature={}),
            "not in the form of a signature",
        ),
        "two signatures": (
            changed(bundle, dsseEnvelope__signatures=[signature, signature]),
            "has 2 signatures",
        ),
        "no signatures": (changed(bundle, dsseEnvelope__signatures=[]), "has 0 signatures"),
        "another payload type": (changed(bundle, dsseEnvelope=another), "its payload is 'application/json'"),
        "a changed payload type": (
            changed(bundle, dsseEnvelope__payloadType="text"),
            "its payload is 'text'",
        ),
        "another payload": (
            changed(bundle, dsseEnvelope__payload=b64(compact(statement(OTHER)))),
            "none of .* made it",
        ),
        "payload without its encoding": (
            changed(bundle, dsseEnvelope__signatures=[{"sig": b64(PROD.sign(compact(signed_statement)))}]),
            "none of .* made it",
        ),
        "another bundle": (changed(bundle, mediaType="application/x"), "bundle of type 'application/x'"),
        "another digest": (PROD.bundle(compact(statement(OTHER))), "for another digest"),
        "right name, wrong digest": (
            signed(subject=[{"name": f"sha256:{shelf.kit.digest.hex}", "digest": {"sha256": OTHER.hex}}]),
            "for another digest",
        ),
        "right hex, wrong algorithm": (
            signed(subject=[{"digest": {"sha512": shelf.kit.digest.hex}}]),
            "for another digest",
        ),
        "null subjects": (signed(subject=[None, None]), "for another digest"),
        "null digests": (signed(subject=[{"digest": None}]), "for another digest"),
        "no subjects": (signed(subject=[]), "for another digest"),
        "null for subjects": (signed(subject=None), "not in the form"),
        "an old statement": (signed(_type="https://in-toto.io/Statement/v0.1"), "not a signature"),
        "an attestation": (
            signed(predicateType="https://slsa.dev/provenance/v1"),
            "statement of 'https://slsa.dev/provenance/v1'",
        ),
        "broken base64": (changed(bundle, dsseEnvelope__payload="%%%"), "not in base64"),
        "no JSON": (PROD.bundle(b"hello"), "no usable JSON"),
        "nothing": ({}, "mediaType: Field required"),
    }


BUNDLE_CASES = list(bundle_cases(Shelf(REFERENCE)))


@pytest.mark.parametrize("name", BUNDLE_CASES)
def test_a_bad_bundle_is_refused_with_its_reason(shelf: Shelf, name: str) -> None:
    bundle, reason = bundle_cases(shelf)[name]
    shelf.refer_bundle(bundle)
    result = find(shelf)
    assert not result.key
    (text,) = result.refused
    assert re.search(reason, text), text


def test_good_bundles_with_more_than_is_needed(shelf: Shelf) -> None:
    signed_statement = changed(
        statement(shelf.kit.digest),
        subject=[None, {"digest": {"sha256": OTHER.hex}}, *statement(shelf.kit.digest)["subject"]],
    )
    material = {"publicKey": {"hint": ATTACKER.hint}, "tlogEntries": [{"logIndex": "1"}], "new": 1}
    shelf.refer_bundle({**PROD.bundle(compact(signed_statement)), "verificationMaterial": material})
    assert find(shelf).key == "keys/prod.pub"


def test_the_specifications_spelling_of_the_digest(shelf: Shelf) -> None:
    payload = reworded(claim(shelf.kit.digest), "docker-manifest", "Docker-manifest")
    shelf.tag_signatures(PROD.simple(payload, shelf.put))
    assert find(shelf).key == "keys/prod.pub"
    claims = json.loads(payload)
    claims["critical"]["image"]["docker-manifest-digest"] = str(OTHER)
    shelf.tag_signatures(PROD.simple(compact(claims), shelf.put))
    assert not find(shelf).key


@pytest.mark.parametrize("seed", range(5))
def test_one_good_among_bad_ones_in_any_order(shelf: Shelf, seed: int) -> None:
    order = random.Random(seed)
    layers = [layer for layer, _ in simple_cases(shelf).values()]
    shelf.tag_signatures(*order.sample(layers, len(layers)))
    bundles = [bundle for bundle, _ in bundle_cases(shelf).values()]
    for bundle in order.sample([*bundles, good_bundle(shelf)], len(bundles) + 1):
        shelf.refer_bundle(bundle)
    assert find(shelf) == SearchResult("keys/prod.pub", "cosign bundle", ())
    shelf.subjects.clear()
    shelf.tag_signatures(*order.sample([*layers, good_layer(shelf)], len(layers) + 1))
    assert find(shelf) == SearchResult("keys/prod.pub", "cosign tag signature", ())


def test_a_manifest_that_cannot_be_used_does_not_hide_others(shelf: Shelf) -> None:
    for data in (b"", b"[]", b'{"layers":null}', b'{"layers":[{"mediaType":"x"}]}', b"\xff", b"[" * 10_000):
        shelf.put(OCI_MANIFEST, data)
        shelf.subjects.setdefault(shelf.kit.digest, []).append(
            Descriptor(OCI_MANIFEST, Digest.of(data), len(data), {}, BUNDLE)
        )
    shelf.tags[f"sha256-{shelf.kit.digest.hex}.sig"] = Descriptor(OCI_MANIFEST, OTHER, 100)
    assert len(find(shelf).refused) == 7
    put_bundle(shelf)
    assert find(shelf).key == "keys/prod.pub"


def test_only_the_policys_keys_ever_verify(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = key_schemes.load_key

    def recorded(pem: str) -> Any:
        loaded.append(pem)
        return load(pem)

    monkeypatch.setattr(key_schemes, "load_key", recorded)
    for bundle, _ in bundle_cases(shelf).values():
        shelf.refer_bundle(bundle)
    shelf.tag_signatures(*(layer for layer, _ in simple_cases(shelf).values()))
    assert not find(shelf).key
    assert set(loaded) == {PROD.key.pem}


def test_looking_is_bounded(shelf: Shelf) -> None:
    bad = [ATTACKER.simple(claim(Digest.of(b"%d" % number)), shelf.put) for number in range(5_000)]
    shelf.tag_signatures(*bad)
    for number in range(200):
        shelf.refer(*bad[:100], shelf.put(BUNDLE, b"%d" % number))
    shelf.requests.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    result = find(shelf)
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    assert len(result.refused) == 2 * MAX_CANDIDATES
    assert len([request for request in shelf.requests if request.startswith("blob")]) == 2 * MAX_CANDIDATES
    assert (
        len([request for request in shelf.requests if request.startswith("manifest")]) <= 1 + MAX_CANDIDATES
    )


def test_a_huge_signature_is_never_asked_for(shelf: Shelf) -> None:
    shelf.tag_signatures({**good_layer(shelf), "size": 5 * 1024**3})
    find(shelf)
    assert not [request for request in shelf.requests if request.startswith("blob")]


def test_bytes_of_another_digest_are_no_payload(shelf: Shelf) -> None:
    layer = good_layer(shelf)
    shelf.blobs[OTHER] = shelf.blobs[Digest.parse(layer["digest"])]
    shelf.tag_signatures({**layer, "digest": str(OTHER)})
    (text,) = find(shelf).refused
    assert text == f"cosign tag signature: the bytes sent for {OTHER} have another digest"


def test_a_stream_without_end_is_left(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.tag_signatures(good_layer(shelf))
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(64)

    monkeypatch.setattr(shelf, "blob", lambda _: nullcontext(BlobStream(0, endless())))
    (text,) = find(shelf).refused
    assert "has not the" in text
    assert taken < 10


@pytest.mark.parametrize("error", [RegistryUnavailable, Unauthorized])
@pytest.mark.parametrize("method", ["resolve_tag", "referrers", "manifest", "blob"])
def test_a_source_that_cannot_be_asked_is_no_missing_signature(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, method: str, error: type[Exception]
) -> None:
    shelf.tag_signatures(good_layer(shelf, ATTACKER))

    def fail(*_: object) -> None:
        raise error("registry.example.com: no answer in 15 s")

    monkeypatch.setattr(shelf, method, fail)
    with pytest.raises(error, match="no answer"):
        find(shelf)


PRIVATE = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIMr\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        ("", "not in PEM"),
        ("hello", "not in PEM"),
        (PROD.pem.replace("MFkw", "MFkx"), "not in PEM, or is damaged"),
        (PROD.pem[: len(PROD.pem) // 2], "not in PEM, or is damaged"),
        (PRIVATE, "private key"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END", "private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate"),
        (PROD.pem + ATTACKER.pem, "more than one key"),
        (Signer(kind="p224").pem, "not ECDSA on P-256"),
        ("ключ", "not in PEM"),
    ],
    # Not by the keys, which differ in each process: processes that share the tests must name them alike.
    ids=(
        "nothing",
        "text",
        "damaged",
        "cut",
        "private",
        "cosign-private",
        "certificate",
        "two-keys",
        "p224",
        "not-ascii",
    ),
)
def test_a_key_that_cannot_verify_is_refused_when_it_is_made(pem: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^keys/prod\.pub is no usable public key: .*{reason}") as caught:
        PublicKey.parse("keys/prod.pub", pem)
    assert "MC4CAQAwBQYDK2VwBCIEIMr" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ValueError, match="no usable public key"):
        replace(PROD.key, pem=pem)


def test_short_rsa_keys_are_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = rsa.generate_private_key(65537, 1024).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ValueError, match="at least 2048 bits"):
        PublicKey.parse("keys/old.pub", pem)


def test_keys_may_have_space_around_them() -> None:
    assert PublicKey.parse("a", f"\n {PROD.pem}\r\n\n") == replace(PROD.key, name="a")
