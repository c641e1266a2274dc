"""Signatures as cosign writes them with a key: simple signing, and Sigstore bundles."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import NotFound
from gateway.kits.public_keys import PublicKey
from gateway.oci.content import OCI_MANIFEST, BlobStream, Descriptor
from gateway.oci.documents import DescriptorDocument
from gateway.oci.reference import Digest, Reference

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIMPLE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
PREDICATE = "https://sigstore.dev/cosign/sign/v1"

Put = Callable[[str, bytes], dict[str, Any]]
"""Stores a blob of a media type; returns its descriptor as written in a manifest."""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


class Signer:
    """A key pair of one of the kinds `kinds`, and what it signs."""

    kinds = ("p256", "p384", "p521", "p384-sha256", "ed25519", "rsa", "rsa-pss")

    def __init__(self, name: str = "keys/prod.pub", kind: str = "p256") -> None:
        self.name = name
        self._sign, public = _pair(kind)
        self.pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self._der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key(self) -> PublicKey:
        return PublicKey.parse(self.name, self.pem)

    @property
    def hint(self) -> str:
        return b64(hashlib.sha256(self._der).digest())

    def sign(self, data: bytes) -> bytes:
        return self._sign(data)

    def simple(self, payload: bytes, put: Put) -> dict[str, Any]:
        """Sign a payload of simple signing; return its layer."""
        return {**put(SIMPLE, payload), "annotations": {SIGNATURE: b64(self.sign(payload))}}

    def envelope(self, payload: bytes, payload_type: str = IN_TOTO) -> dict[str, Any]:
        """A DSSE envelope."""
        head = f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} ".encode()
        signature = b64(self.sign(head + payload))
        return {"payload": b64(payload), "payloadType": payload_type, "signatures": [{"sig": signature}]}

    def bundle(self, payload: bytes) -> dict[str, Any]:
        """A bundle that names this key by its hint."""
        return {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": self.hint}},
            "dsseEnvelope": self.envelope(payload),
        }


def claim(digest: Digest, repository: str = "registry.example.com/team/iris") -> bytes:
    """The payload of simple signing, as cosign writes it."""
    return (
        f'{{"critical":{{"identity":{{"docker-reference":"{repository}"}},'
        f'"image":{{"docker-manifest-digest":"{digest}"}},'
        '"type":"cosign container image signature"},"optional":null}'
    ).encode()


def statement(digest: Digest, predicate: str = PREDICATE) -> dict[str, Any]:
    """The in-toto statement of cosign's bundles."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {digest.algorithm: digest.hex}}],
        "predicateType": predicate,
        "predicate": {},
    }


def tag_manifest(layers: list[dict[str, Any]], put: Put) -> bytes:
    """The manifest behind cosign's tag."""
    return compact(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": put(CONFIG, b"{}"), "layers": layers}
    )


def referrer_manifest(
    layers: list[dict[str, Any]], subject: Descriptor, put: Put, artifact_type: str = BUNDLE
) -> bytes:
    """A manifest whose subject is the kit."""
    return compact(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": put(EMPTY, b"{}"),
            "layers": layers,
            "subject": {"mediaType": OCI_MANIFEST, "digest": str(subject.digest), "size": subject.size},
            "annotations": {"dev.sigstore.bundle.content": "dsse-envelope"},
        }
    )


class Shelf:
    """A Source in memory that keeps signatures, and a list of the requests for them."""

    def __init__(self, reference: Reference, kit: bytes = b"{}") -> None:
        self.reference = reference
        self.kit = Descriptor(OCI_MANIFEST, Digest.of(kit), len(kit))
        self.blobs: dict[Digest, bytes] = {self.kit.digest: kit}
        self.tags: dict[str, Descriptor] = {}
        self.subjects: dict[Digest, list[Descriptor]] = {}
        self.requests: list[str] = []

    def put(self, media_type: str, data: bytes) -> dict[str, Any]:
        self.blobs[Digest.of(data)] = data
        return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}

    def tag_signatures(self, *layers: dict[str, Any]) -> None:
        """Put layers behind the kit's signature tag."""
        self.tags[f"sha256-{self.kit.digest.hex}.sig"] = self._stored(
            tag_manifest(list(layers), self.put), None
        )

    def refer(self, *layers: dict[str, Any], artifact_type: str = BUNDLE, has_type: bool = True) -> None:
        """Add a referrer of the kit with these layers; `has_type` says whether lists state its type."""
        manifest = referrer_manifest(list(layers), self.kit, self.put, artifact_type)
        descriptor = self._stored(manifest, artifact_type if has_type else None)
        self.subjects.setdefault(self.kit.digest, []).append(descriptor)

    def refer_bundle(self, bundle: Mapping[str, Any]) -> None:
        self.refer(self.put(BUNDLE, compact(bundle)))

    def resolve(self) -> Descriptor:
        return self.kit

    def manifest(self, descriptor: Descriptor) -> bytes:
        self.requests.append(f"manifest {descriptor.digest}")
        return self._found(descriptor.digest)

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[BlobStream]:
        self.requests.append(f"blob {descriptor.digest}")
        yield BlobStream(offset, iter([self._found(descriptor.digest)[offset:]]))

    def resolve_tag(self, tag: str) -> Descriptor | None:
        self.requests.append(f"tag {tag}")
        return self.tags.get(tag)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        self.requests.append(f"referrers {digest}")
        return tuple(self.subjects.get(digest, ()))

    def _stored(self, manifest: bytes, artifact_type: str | None) -> Descriptor:
        written = DescriptorDocument.model_validate(self.put(OCI_MANIFEST, manifest)).descriptor()
        return Descriptor(written.media_type, written.digest, written.size, {}, artifact_type)

    def _found(self, digest: Digest) -> bytes:
        try:
            return self.blobs[digest]
        except KeyError:
            raise NotFound(f"{self.reference}: there is no {digest}") from None


def _pair(kind: str) -> tuple[Callable[[bytes], bytes], Any]:
    if kind == "ed25519":
        private = ed25519.Ed25519PrivateKey.generate()
        return private.sign, private.public_key()
    if kind.startswith("rsa"):
        large = rsa.generate_private_key(65537, 2048)
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        pad = salted if kind == "rsa-pss" else padding.PKCS1v15()
        return lambda data: large.sign(data, pad, hashes.SHA256()), large.public_key()
    curve, hash_ = {
        "p256": (ec.SECP256R1(), hashes.SHA256()),
        "p384": (ec.SECP384R1(), hashes.SHA384()),
        "p384-sha256": (ec.SECP384R1(), hashes.SHA256()),
        "p521": (ec.SECP521R1(), hashes.SHA512()),
        "p224": (ec.SECP224R1(), hashes.SHA256()),
    }[kind]
    curved = ec.generate_private_key(curve)
    return lambda data: curved.sign(data, ec.ECDSA(hash_)), curved.public_key()
