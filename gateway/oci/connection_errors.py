"""Why a connection failed and what to do about it, without URLs, as those may be signed."""

import http.client
import socket
import ssl
from collections.abc import Iterator

import urllib3

from gateway.foreign_text import foreign_text

_UNKNOWN_AUTHORITY = (
    "the authority of its certificate is not known on this machine; set `ca_file` for this registry"
)
_OTHER_NAME = "its certificate is for another name; use that name, or have a certificate made for this one"
_NO_TLS = "it does not speak TLS; if that is meant, set `plain_http: true` for this registry"
_OLD_TLS = "it does not speak TLS 1.2 or newer; have it updated"
_CLIENT_REFUSED = "it refuses the certificate of `client_cert_file`; use one that it accepts"

# OpenSSL's X509_V_ERR_* codes (openssl-verification-options(1), "Diagnostics").
_CERTIFICATES = {
    9: "its certificate is not valid yet; check the clocks of both machines",
    10: "its certificate has expired; have it renewed",
    18: _UNKNOWN_AUTHORITY,
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
# OpenSSL's reasons, by a part of their names.
_TLS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "PROTOCOL_VERSION": _OLD_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "CERTIFICATE_REQUIRED": "it requires a client certificate; set `client_cert_file` and `client_key_file`",
    "HANDSHAKE_FAILURE": (
        "it refuses the connection; if it requires a client certificate, set `client_cert_file` and "
        "`client_key_file`"
    ),
    # Servers written in Go send this for an unknown certificate, and for none.
    "BAD_CERTIFICATE": (
        "it requires a client certificate that it accepts; set `client_cert_file` and `client_key_file`"
    ),
    "CERTIFICATE_UNKNOWN": _CLIENT_REFUSED,
    "CERTIFICATE_EXPIRED": _CLIENT_REFUSED,
    "UNKNOWN_CA": _CLIENT_REFUSED,
}


def permanent_failure(error: BaseException) -> str | None:
    """Describe a failure of TLS and its remedy; None for a failure that may be transient."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CERTIFICATES.get(
                cause.verify_code, f"its certificate cannot be trusted ({foreign_text(cause.verify_message)})"
            )
        if isinstance(cause, ssl.SSLError):
            return next((text for name, text in _TLS.items() if name in (cause.reason or "")), None)
    return None


def transient_failure(error: BaseException) -> str:
    """Describe why there was no answer, or why it broke off."""
    causes = list(_causes(error))
    is_proxied = any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes)
    return ("through the proxy: " if is_proxied else "") + _describe(causes[-1])


def _describe(cause: BaseException) -> str:
    match cause:
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            return "it is too slow"
        case socket.gaierror():
            return "its name is not known"
        case http.client.RemoteDisconnected() | http.client.IncompleteRead() | ssl.SSLEOFError():
            return "it closed the connection"
        case OSError() if cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror
        case OSError() if str(cause).startswith("Tunnel connection failed: "):
            return foreign_text(cause)
    return type(cause).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; libraries keep those in `__cause__`, `reason`, `args`, `__context__`."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        linked = [current.__cause__, getattr(current, "reason", None), *current.args, current.__context__]
        current = next((cause for cause in linked if isinstance(cause, BaseException)), None)
