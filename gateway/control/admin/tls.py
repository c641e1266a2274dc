"""TLS of the admin API, and the names in the certificates of its clients."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from gateway.config.admin_tls import AdminTls
from gateway.errors import ControlError
from gateway.files import read_regular


def server_context(tls: AdminTls) -> ssl.SSLContext:
    """Return how a server speaks TLS 1.2 or later; a client's certificate, if any, is verified.

    Raises:
        ControlError: when one of the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    path = tls.cert_file
    try:
        for path in filter(None, (tls.client_ca_file, tls.key_file, tls.cert_file)):
            # First: OpenSSL opens whatever a path names, and a pipe may never end.
            read_regular(path)
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_refuse_passphrase)
        if tls.client_ca_file is not None:
            path = tls.client_ca_file
            context.load_verify_locations(path)
            # Who shows none may have the token, or only reads.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:
        raise ControlError(
            f"admin_tls: {path} cannot be used ({getattr(error, 'reason', None) or error}); it must be a PEM "
            "file that this user may read, and the key must belong to the certificate"
        ) from error
    return context


def name_in(certificate: Mapping[str, Any]) -> str:
    """Return the common name of a certificate's subject, as `ssl` tells of it; "" where it has none."""
    for part in certificate.get("subject", ()):
        for field, value in part:
            if field == "commonName":
                return str(value)
    return ""


def _refuse_passphrase() -> str:
    raise ValueError("it has a passphrase")
