"""A private certificate authority and what it signs, made anew for every run of the tests."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)
_LOOPBACK = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both in PEM files."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """What one authority signed: for servers of 127.0.0.1 and localhost, and for a client.

    `expired` ended yesterday, `elsewhere` is for another host, and `stranger` is a client's that some other
    authority signed. A registry shows `server`; `dataclasses.replace` puts another in its place.
    """

    ca_file: Path
    server: KeyPair
    client: KeyPair
    expired: KeyPair
    elsewhere: KeyPair
    stranger: KeyPair


class Authority:
    """Signs certificates, and writes them to `directory`."""

    LOOPBACK: ClassVar[list[x509.GeneralName]] = list(_LOOPBACK)
    """The names of a server on this machine."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            self._name,
            self._key,
            [
                x509.BasicConstraints(ca=True, path_length=0),
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()),
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            ],
        )
        self.ca_file = directory / f"{name}.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: list[x509.GeneralName] | None = None, ended: int = 0) -> KeyPair:
        """Sign for a server of `hosts`, or for a client without any; `ended` is in days ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        use = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions: list[x509.ExtensionType] = [
            x509.BasicConstraints(ca=False, path_length=None),
            x509.ExtendedKeyUsage([use]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            *([x509.SubjectAlternativeName(hosts)] if hosts else []),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, extensions, ended)
        pair = KeyPair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        pair.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: list[x509.ExtensionType],
        ended: int = 0,
    ) -> x509.Certificate:
        end = datetime.datetime.now(datetime.UTC) + (-ended * _DAY if ended else _DAY)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - 7 * _DAY)
            .not_valid_after(end)
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def make_certificates(directory: Path) -> Certificates:
    """Make an authority and everything it signs."""
    authority = Authority(directory, "authority")
    return Certificates(
        ca_file=authority.ca_file,
        server=authority.issue("server", _LOOPBACK),
        client=authority.issue("client"),
        expired=authority.issue("expired", _LOOPBACK, ended=1),
        elsewhere=authority.issue("elsewhere", [x509.DNSName("registry.example.com")]),
        stranger=Authority(directory, "other-authority").issue("stranger"),
    )
