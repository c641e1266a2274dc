"""The certificate authority of one start of Kitserve, which signs one certificate: that of its workers.

Its private key is gone as soon as it has signed, so nobody signs another. The workers' key goes to them with
all else that they are told; neither is written to a file.

The dates bound nothing that the end of a start does not end before: at the next start there is another
authority. They are wide, as a certificate that ended would end every call of a start that goes on for years,
and as a node's clock may be wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.wire.worker_tls import WORKER_NAME, WorkerTls

_BEFORE = timedelta(days=7)
_AFTER = timedelta(days=5 * 365)
_AUTHORITY_NAME = "Kitserve, one start"


def new_worker_tls() -> WorkerTls:
    """Make a new authority, and the key and certificate of all workers of one start (RFC 5280)."""
    authority_key, worker_key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    authority_name, worker_name = _name(_AUTHORITY_NAME), _name(WORKER_NAME)
    issuer = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _certificate(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(issuer, critical=False)
        .sign(authority_key, SHA256())
    )
    worker = (
        _certificate(worker_name, authority_name, worker_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(WORKER_NAME)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(authority_key, SHA256())
    )
    return WorkerTls(
        authority.public_bytes(Encoding.PEM).decode(),
        worker.public_bytes(Encoding.PEM).decode(),
        worker_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """Return what both certificates have; `key` is the subject's."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _AFTER)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
