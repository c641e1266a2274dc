"""Checks of certificates and public keys that a user gives, before HAProxy gets them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import Certificate, load_pem_x509_certificates

from gateway.errors import EdgeError

_ES_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_MIN_RSA_BITS = 2048


def certificate_pem(certificate: bytes, key: bytes) -> tuple[str, datetime]:
    """Return a certificate, those between and its key as one text, and the time at which it ends.

    Raises:
        EdgeError: when they are no PEM, or do not belong together.
    """
    first = _certificates(certificate)[0]
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"the private key cannot be read: {error}") from error
    if _public(private.public_key()) != _public(first.public_key()):
        raise EdgeError("certificate and private key do not belong together")
    return _lines(certificate) + _lines(key), first.not_valid_after_utc


def authorities_pem(certificates: bytes) -> str:
    """Return the certificates of authorities as HAProxy takes them.

    Raises:
        EdgeError: when they are no PEM.
    """
    _certificates(certificates)
    return _lines(certificates)


def token_key_pem(key: bytes, algorithm: str) -> str:
    """Return an issuer's public key as HAProxy takes it.

    Raises:
        EdgeError: when it is none, or not one for this algorithm.
    """
    try:
        public = load_pem_public_key(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"the public key cannot be read: {error}") from error
    curve = _ES_CURVES.get(algorithm)
    if curve is not None:
        fits = isinstance(public, EllipticCurvePublicKey) and public.curve.name == curve
    else:
        fits = isinstance(public, RSAPublicKey) and public.key_size >= _MIN_RSA_BITS
    if not fits:
        wanted = f"on the curve {curve}" if curve else f"RSA of at least {_MIN_RSA_BITS} bits"
        raise EdgeError(f"the public key is not for {algorithm}, which needs a key {wanted}")
    return _lines(key)


def first_end(pem: bytes) -> datetime:
    """Return when the first of some certificates ends: a server's is worth nothing without those between.

    Raises:
        EdgeError: when they are no PEM.
    """
    return min(certificate.not_valid_after_utc for certificate in _certificates(pem))


def has_ended(end: datetime) -> bool:
    """Tell whether a certificate that ends then is valid no longer."""
    return end <= datetime.now(UTC)


def _certificates(pem: bytes) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(pem)
    except ValueError as error:
        raise EdgeError(f"the certificate cannot be read: {error}") from error


def _public(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):
        raise EdgeError("the key is of no kind that signs")
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _lines(pem: bytes) -> str:
    """Return a text without empty lines, which would end it for HAProxy's socket."""
    return "".join(f"{line}\n" for line in pem.decode("utf-8", "replace").splitlines() if line.strip())
