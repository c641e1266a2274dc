"""Which public keys are taken, and by which schemes each verifies what cosign signed."""

from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import load_pem_public_key

_MAX_PEM = 64 * 1024
_MIN_RSA = 2048  # bits

# Until version 3 cosign hashed with SHA-256 for every curve; since then by the curve.
_HASHES = {SECP256R1: (SHA256(),), SECP384R1: (SHA384(), SHA256()), SECP521R1: (SHA512(), SHA256())}


def verifies(pem: str, signature: bytes, data: bytes) -> bool:
    """Tell whether a key's private key signed exactly these bytes, in a way that cosign signs."""
    key, schemes = load_key(pem)
    for scheme in schemes:
        try:
            key.verify(signature, data, *scheme)
        except InvalidSignature:
            continue
        return True
    return False


@lru_cache(maxsize=64)
def load_key(pem: str) -> tuple[Any, tuple[tuple[Any, ...], ...]]:
    """Return the key, and the further arguments of its `verify` for each scheme that it may sign by.

    Raises ValueError, which says what the text is instead of a key.
    """
    if len(pem) > _MAX_PEM or pem.count("-----BEGIN ") > 1:
        raise ValueError("it is more than one key")
    if "PRIVATE KEY-----" in pem:
        raise ValueError("it is a private key, which does not belong here")
    if "-----BEGIN CERTIFICATE-----" in pem:
        raise ValueError("it is a certificate")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not in PEM, or is damaged") from None
    if isinstance(key, Ed25519PublicKey):
        return key, ((),)
    if isinstance(key, EllipticCurvePublicKey) and type(key.curve) in _HASHES:
        return key, tuple((ECDSA(hash_),) for hash_ in _HASHES[type(key.curve)])
    if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA:
        return key, tuple((padding, SHA256()) for padding in (PKCS1v15(), PSS(MGF1(SHA256()), PSS.AUTO)))
    raise ValueError("it is not ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of at least 2048 bits")
