"""JSON Web Tokens as an issuer signs them, or as somebody who is none."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


class Issuer:
    """Signs with RS256, or with ES256."""

    def __init__(self, directory: Path, name: str, algorithm: str = "RS256") -> None:
        self.algorithm = algorithm
        self._key = (
            rsa.generate_private_key(65537, 2048)
            if algorithm == "RS256"
            else ec.generate_private_key(ec.SECP256R1())
        )
        self.public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_file = directory / f"{name}.pem"
        self.key_file.write_bytes(self.public)

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a token that is right, but for what is given; a claim that is None is left out."""
        whole = {
            "iss": "https://id.example.com",
            "aud": "kitserve",
            "sub": "ada",
            "exp": int(time.time()) + 60,
        }
        payload = {name: value for name, value in (whole | claims).items() if value is not None}
        text = self.text(header or {"alg": self.algorithm, "typ": "JWT"}, payload)
        return f"{text}.{encoded(self.sign(text.encode()))}"

    @staticmethod
    def text(header: dict[str, Any], payload: dict[str, Any]) -> str:
        """Return what is signed."""
        return ".".join(encoded(json.dumps(part).encode()) for part in (header, payload))

    def sign(self, text: bytes) -> bytes:
        """Return the signature."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        numbers = decode_dss_signature(self._key.sign(text, ec.ECDSA(hashes.SHA256())))
        return b"".join(number.to_bytes(32, "big") for number in numbers)


def encoded(raw: bytes) -> str:
    """Return bytes in the base64 of URLs, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def with_secret(text: str, secret: bytes) -> str:
    """Return a token signed with HS256."""
    code = hmac.HMAC(secret, hashes.SHA256())
    code.update(text.encode())
    return f"{text}.{encoded(code.finalize())}"
