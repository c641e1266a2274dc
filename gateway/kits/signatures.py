"""Signatures that cosign made with a key, in each of the places where cosign puts them.

    tag sha256-HEX.sig      layers of simple signing: payload blob, base64 signature in an annotation
    referrer, simple        the same layers in a manifest whose subject is the kit
    referrer, bundle        one Sigstore bundle v0.3: a DSSE envelope around an in-toto statement

A signature is valid if a key of the caller made it over bytes that name the kit's digest; keys, certificates
and transparency logs that come with it are never used. What a registry sends is bounded before it is read,
and verified by size and digest before it is parsed.

See cosign's specs/SIGNATURE_SPEC.md and specs/BUNDLE_SPEC.md, and DSSE's protocol.md.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from gateway.errors import ContentError, NotFound
from gateway.kits.public_keys import PublicKey
from gateway.oci.content import MAX_REFERRERS, Descriptor, Source
from gateway.oci.documents import DescriptorDocument, describe_errors, read_json
from gateway.oci.reference import Digest
from gateway.wording import counted

MAX_CANDIDATES = MAX_REFERRERS
"""How many signatures of one place are read at most."""
_MAX_BYTES = 1024 * 1024
_MAX_SIGNATURE = 8 * 1024  # base64 characters; RSA of 16,384 bits takes a third

_SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIMPLE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_BUNDLES = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
)
# The types that referrers without an artifact type of their own are listed under.
_UNTYPED = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.empty.v1+json")
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CLAIM = "cosign container image signature"
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://sigstore.dev/cosign/sign/v1"

_DocumentT = TypeVar("_DocumentT", bound=BaseModel)


class _Document(BaseModel):
    # Signers add members of their own; only those that are verified are read.
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class _Manifest(_Document):
    """The part of an OCI image manifest that holds signatures."""

    layers: list[DescriptorDocument]


class _Critical(_Document):
    type: str
    image: dict[str, str]


class _Claim(_Document):
    """What simple signing signs (cosign's SIGNATURE_SPEC.md, "Payload")."""

    critical: _Critical


class _KeyHint(BaseModel):
    # Other members could be a key that comes with the signature.
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    hint: str | None = None


class _Material(_Document):
    public_key: _KeyHint | None = Field(alias="publicKey", default=None)
    certificate: JsonValue = None
    certificates: JsonValue = Field(alias="x509CertificateChain", default=None)


class _EnvelopeSignature(_Document):
    sig: str


class _Envelope(_Document):
    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: list[_EnvelopeSignature]


class _Bundle(_Document):
    """The part of a Sigstore bundle (sigstore_bundle.proto) that a signature by a key needs."""

    media_type: str = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope | None = Field(alias="dsseEnvelope", default=None)


class _Subject(_Document):
    digest: dict[str, str] | None = None


class _Statement(_Document):
    """An in-toto statement (in-toto attestation spec, "Statement")."""

    type: str = Field(alias="_type")
    predicate_type: str = Field(alias="predicateType")
    subject: list[_Subject | None]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The name of the key that signed and the scheme in words, or why each candidate was refused.

    All fields are empty where there is no signature at all.
    """

    key: str = ""
    scheme: str = ""
    refused: tuple[str, ...] = ()


class _Refused(Exception):
    """A candidate is no valid signature; the message says why."""


def find_signature(source: Source, digest: Digest, keys: Sequence[PublicKey]) -> SearchResult:
    """Search for a signature of this manifest by one of these keys; the first valid one ends the search.

    Raises Unauthorized and RegistryUnavailable where the source fails.
    """
    refused: list[str] = []
    for place, layer in _candidates(source, digest, refused):
        is_bundle = layer.media_type in _BUNDLES
        scheme = "cosign bundle" if is_bundle else f"cosign {place} signature"
        try:
            data = _read(source, layer)
            verify = _verify_bundle if is_bundle else _verify_simple
            return SearchResult(verify(layer, data, digest, keys).name, scheme)
        except (_Refused, ContentError, NotFound) as error:
            refused.append(f"{scheme}: {error}")
    return SearchResult(refused=tuple(refused))


def _candidates(source: Source, digest: Digest, refused: list[str]) -> Iterator[tuple[str, Descriptor]]:
    """Yield the place and the layer of each signature; add manifests that cannot be used to `refused`."""

    def layers(place: str, descriptor: Descriptor) -> Iterator[tuple[str, Descriptor]]:
        try:
            entries = _document(_Manifest, source.manifest(descriptor)).layers
        except (_Refused, ContentError, NotFound) as error:
            refused.append(f"cosign {place} signature: its manifest cannot be used: {error}")
            return
        yield from (
            (place, layer.descriptor()) for layer in entries if layer.media_type in (_SIMPLE, *_BUNDLES)
        )

    descriptor = source.resolve_tag(f"{digest.algorithm}-{digest.hex}.sig")
    if descriptor is not None:
        yield from islice(layers("tag", descriptor), MAX_CANDIDATES)
    # A source may not state the type; one that it states and is not a signature's is not fetched.
    types = (None, _SIMPLE, _SIMPLE_ARTIFACT, *_UNTYPED, *_BUNDLES)
    referrers = [
        referrer for referrer in source.referrers(digest)[:MAX_CANDIDATES] if referrer.artifact_type in types
    ]
    candidates = chain.from_iterable(layers("referrer", referrer) for referrer in referrers)
    yield from islice(candidates, MAX_CANDIDATES)


def _document(model: type[_DocumentT], data: bytes) -> _DocumentT:
    try:
        return model.model_validate(read_json(data))
    except ValidationError as error:
        raise _Refused(f"it is not in the form expected ({describe_errors(error)})") from error
    except ValueError as error:
        raise _Refused(f"it is no usable JSON document ({error})") from error


def _read(source: Source, descriptor: Descriptor) -> bytes:
    """Return a whole blob, verified; one of over 1 MiB is refused before it is requested."""
    if descriptor.size > _MAX_BYTES:
        raise _Refused(f"{descriptor.digest} has {descriptor.size} bytes; 1 MiB is allowed")
    data = bytearray()
    with source.blob(descriptor) as stream:
        for chunk in stream.chunks:
            data += chunk
            if len(data) > descriptor.size:
                break
    if len(data) != descriptor.size:
        raise _Refused(f"{descriptor.digest} has not the {descriptor.size} bytes that its descriptor states")
    if Digest.of(bytes(data)) != descriptor.digest:
        raise _Refused(f"the bytes sent for {descriptor.digest} have another digest")
    return bytes(data)


def _verify_simple(layer: Descriptor, payload: bytes, digest: Digest, keys: Sequence[PublicKey]) -> PublicKey:
    """Verify a signature of cosign's first scheme, over the exact bytes of the payload."""
    key = _signer(_decode(layer.annotations.get(_SIGNATURE, "")), payload, keys)
    claim = _document(_Claim, payload).critical
    if claim.type != _CLAIM:
        raise _Refused(f"it is signed as {_shown(claim.type)}, not as {_CLAIM!r}")
    # cosign writes the name in lower case; its specification capitalises it.
    digests = [value for name, value in claim.image.items() if name.lower() == "docker-manifest-digest"]
    if not digests or any(value != str(digest) for value in digests):
        raise _Refused(f"it is for {_shown(digests[0]) if digests else 'no digest'}")
    return key


def _verify_bundle(_layer: Descriptor, data: bytes, digest: Digest, keys: Sequence[PublicKey]) -> PublicKey:
    """Verify a bundle's envelope; the hint at a key is ignored, as every key is tried."""
    bundle = _document(_Bundle, data)
    if bundle.media_type not in _BUNDLES:
        raise _Refused(f"it is a bundle of type {_shown(bundle.media_type)}")
    material, envelope = bundle.material, bundle.envelope
    if material.certificate is not None or material.certificates is not None:
        raise _Refused("it relies on a certificate, and the policy names keys")
    if material.public_key is None or envelope is None:
        raise _Refused("it is not in the form of a signature by a key")
    if envelope.payload_type != _IN_TOTO:
        raise _Refused(f"its payload is {_shown(envelope.payload_type)}")
    if len(envelope.signatures) != 1:
        raise _Refused(f"its envelope has {counted(len(envelope.signatures), 'signature')}; one is allowed")
    payload = _decode(envelope.payload, _MAX_BYTES * 2)
    encoded = b"DSSEv1 %d %b %d %b" % (len(_IN_TOTO), _IN_TOTO.encode(), len(payload), payload)
    key = _signer(_decode(envelope.signatures[0].sig), encoded, keys)
    statement = _document(_Statement, payload)
    if statement.type != _STATEMENT or statement.predicate_type != _PREDICATE:
        raise _Refused(f"it is a statement of {_shown(statement.predicate_type)}, not a signature")
    subjects = [subject.digest for subject in statement.subject if subject is not None]
    if not any((digests or {}).get(digest.algorithm) == digest.hex for digests in subjects):
        raise _Refused("it is for another digest")
    return key


def _signer(signature: bytes, data: bytes, keys: Sequence[PublicKey]) -> PublicKey:
    for key in keys:
        if key.verifies(signature, data):
            return key
    raise _Refused(f"none of {', '.join(key.name for key in keys)} made it")


def _decode(text: str, limit: int = _MAX_SIGNATURE) -> bytes:
    if not text or len(text) > limit:
        raise _Refused("its signature or payload is missing or too long")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused("its signature or payload is not in base64") from None


def _shown(text: str) -> str:
    return repr(text[:100])
