"""Why a connection failed, in words that name the remedy. Never with a URL: those may be signed."""

import http.client
import socket
import ssl
from collections.abc import Iterator

import urllib3

_UNKNOWN = "its certificate's authority is not known here; set `ca_file` for this registry"
_OTHER_NAME = "its certificate is for another name; write the name that it has, or have one made for this one"
_PLAIN = "it does not speak TLS; if that is meant, set `plain_http: true` for this registry"
_OLD = "it does not speak TLS 1.2 or newer; have it updated"
_REFUSES = "it refuses the certificate of `client_cert_file`; have one made that it knows"

# OpenSSL's X509_V_ERR_* codes (openssl-verification-options(1), "Diagnostics").
_CERTIFICATES = {
    9: "its certificate is not valid yet; look at the clocks of both machines",
    10: "its certificate has expired; have it renewed",
    18: _UNKNOWN,
    19: _UNKNOWN,
    20: _UNKNOWN,
    21: _UNKNOWN,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
# The reasons of OpenSSL, by what is in their names.
_TLS = {
    "WRONG_VERSION_NUMBER": _PLAIN,
    "RECORD_LAYER_FAILURE": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "PROTOCOL_VERSION": _OLD,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "CERTIFICATE_REQUIRED": "it wants a client's certificate; set `client_cert_file` and `client_key_file`",
    "HANDSHAKE_FAILURE": (
        "it refuses the connection; if it wants a client's certificate, set `client_cert_file` and "
        "`client_key_file`"
    ),
    # Go's servers say this of a certificate that they do not know, and of none.
    "BAD_CERTIFICATE": (
        "it wants a client's certificate that it knows; set `client_cert_file` and `client_key_file`"
    ),
    "CERTIFICATE_UNKNOWN": _REFUSES,
    "CERTIFICATE_EXPIRED": _REFUSES,
    "UNKNOWN_CA": _REFUSES,
}


def lasting_fault(error: BaseException) -> str | None:
    """Say what is wrong with TLS and what to do; None for a fault that may pass."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CERTIFICATES.get(
                cause.verify_code, f"its certificate cannot be trusted ({cause.verify_message})"
            )
        if isinstance(cause, ssl.SSLError):
            return next((text for name, text in _TLS.items() if name in (cause.reason or "")), None)
    return None


def passing_fault(error: BaseException) -> str:
    """Say why there was no answer, or none to its end."""
    causes = list(_causes(error))
    proxied = (
        "through the proxy: " if any(isinstance(c, urllib3.exceptions.ProxyError) for c in causes) else ""
    )
    return proxied + _said(causes[-1])


def _said(cause: BaseException) -> str:
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
            return "".join(c if c.isprintable() else " " for c in str(cause))
    return type(cause).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is behind it: libraries keep that in arguments, as reason, or as cause."""
    seen: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in seen:
        seen.append(behind)
        yield behind
        held = [behind.__cause__, getattr(behind, "reason", None), *behind.args, behind.__context__]
        behind = next((other for other in held if isinstance(other, BaseException)), None)
