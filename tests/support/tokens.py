"""A real token server on loopback: the Docker token authentication spec, as docker-registry checks it.

A user gets every scope that is requested; anyone else may pull what is public. Tokens are JWTs signed with
ES256, whose `x5c` header carries the certificate that a registry finds in its `rootcertbundle`.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.certificates import Authority

USERNAME, PASSWORD = "ci", "open sesame"
# docker-registry takes tokens for this many seconds after they ended.
_LEEWAY = 60


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request: its user (None for anyone), the scopes it wanted, and the status it got."""

    method: str
    username: str | None
    scopes: tuple[str, ...]
    status: int


class TokenServer:
    """Issues tokens at `realm`; `host` is "127.0.0.1:PORT".

    What may be changed while it runs: `public` (prefixes of repositories that anyone may pull; "" is all),
    `expires_in` (seconds), `posting` (without it, POST gets 404), `changes` (to the documents that it
    answers with; None takes a member out), and `refusals` (statuses for the requests to come, in order).
    `refresh_token` is what a user with an identity token has.
    """

    issuer = "tests-issuer"
    service = "tests-service"

    def __init__(self, directory: Path, *, public: tuple[str, ...] = (), expires_in: int = 300) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.tokens = self  # type: ignore[attr-defined]
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.realm = f"http://{self.host}/token"
        authority = Authority(directory, "token-authority")
        pair = authority.issue("token-signer")
        self.root_cert_bundle = authority.ca_file
        certificate = x509.load_pem_x509_certificate(pair.cert_file.read_bytes())
        key = serialization.load_pem_private_key(pair.key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._certificate = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        self.refresh_token = secrets.token_urlsafe(24)
        self.public = public
        self.expires_in = expires_in
        self.posting = True
        self.changes: dict[str, Any] = {}
        self.refusals: deque[int] = deque()
        self.requests: list[TokenRequest] = []

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def issue(self, scopes: tuple[str, ...], username: str | None = USERNAME) -> str:
        """Sign a token for the scopes (each `repository:NAME:ACTION,…`) that this user may have."""
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self._certificate]}
        claims = {
            "iss": self.issuer,
            "sub": username or "",
            "aud": self.service,
            "nbf": now - 2 * _LEEWAY,
            "iat": now,
            "exp": math.ceil(time.time()) + self.expires_in - _LEEWAY,
            "jti": secrets.token_hex(8),
            "access": [access for scope in scopes if (access := self._access(scope, username))],
        }
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64(r.to_bytes(32) + s.to_bytes(32))}"

    def _access(self, scope: str, username: str | None) -> dict[str, Any] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if username is not None:
            return {"type": kind, "name": name, "actions": actions.split(",")}
        if any(name.startswith(prefix) for prefix in self.public):
            return {"type": kind, "name": name, "actions": ["pull"]}
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parameters = parse_qs(urlsplit(self.path).query)
        kind, _, encoded = self.headers.get("Authorization", "").partition(" ")
        is_known = kind.lower() == "basic" and _basic(encoded) == (USERNAME, PASSWORD)
        self._grant(parameters, USERNAME if is_known else None, allowed=is_known or not kind)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        parameters = parse_qs(body)
        if not self._tokens.posting:
            self._say(404, {}, None, ())
            return
        grant = parameters.get("grant_type", [""])[0]
        is_known = (
            parameters.get("refresh_token") == [self._tokens.refresh_token]
            if grant == "refresh_token"
            else (parameters.get("username"), parameters.get("password")) == ([USERNAME], [PASSWORD])
        )
        self._grant(parameters, USERNAME if is_known else None, allowed=is_known)

    @property
    def _tokens(self) -> TokenServer:
        tokens: TokenServer = self.server.tokens  # type: ignore[attr-defined]
        return tokens

    def _grant(self, parameters: dict[str, list[str]], username: str | None, *, allowed: bool) -> None:
        tokens = self._tokens
        scopes = tuple(scope for text in parameters.get("scope", []) for scope in text.split())
        if tokens.refusals:
            self._say(tokens.refusals.popleft(), {}, username, scopes)
        elif not allowed or parameters.get("service") != [tokens.service]:
            self._say(401, {}, username, scopes)
        else:
            token = tokens.issue(scopes, username)
            document: dict[str, Any] = {
                "access_token": token,
                "expires_in": tokens.expires_in,
                "issued_at": datetime.now(UTC).isoformat(),
                **({"token": token} if self.command == "GET" else {"refresh_token": tokens.refresh_token}),
                **tokens.changes,
            }
            members = {name: value for name, value in document.items() if value is not None}
            self._say(200, members, username, scopes)

    def _say(self, status: int, document: object, username: str | None, scopes: tuple[str, ...]) -> None:
        self._tokens.requests.append(TokenRequest(self.command, username, scopes, status))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def run_token_server(
    directory: Path, *, public: tuple[str, ...] = (), expires_in: int = 300
) -> Iterator[TokenServer]:
    """Run a token server; its certificates are written to `directory`."""
    tokens = TokenServer(directory, public=public, expires_in=expires_in)
    tokens.start()
    try:
        yield tokens
    finally:
        tokens.stop()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _basic(encoded: str) -> tuple[str, str]:
    username, _, password = base64.b64decode(encoded).decode().partition(":")
    return username, password
