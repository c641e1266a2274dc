"""The authorization of requests to a registry: none, a password, or a token from its token server.

A registry that requires credentials answers 401 with challenges (RFC 9110, section 11.6.1). A Bearer
challenge names a token server, a service and a scope (Docker token authentication and OAuth2 specs). As the
registry chooses that server, its address is checked before anything is sent there; and a password or an
identity token goes to the registry's own host alone, to those that are known to be its, and to those that are
listed.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import oras.auth.utils

from gateway.errors import Unauthorized
from gateway.foreign_text import foreign_text
from gateway.oci.addresses import is_address, is_metadata, is_public
from gateway.oci.challenges import parse_challenges
from gateway.oci.credentials import Basic, BearerToken, Credential, IdentityToken
from gateway.oci.documents import read_json
from gateway.oci.transport import DEFAULT_PORTS, Transport, origin, same_origin

_MAX_ANSWER = 128 * 1024  # bytes of a token server's answer
_MIN_LIFETIME = 60.0  # seconds that a token lasts at least (Docker token authentication spec, `expires_in`)
_MAX_LIFETIME = 1e9  # seconds; longer than this process
_RENEWAL_SHARE = 0.8  # of a token's lifetime, after which it is renewed
_CLIENT_ID = "kitserve"
# Registries whose tokens are issued by another host of theirs.
_TOKEN_HOSTS = {
    "docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
    "nvcr.io": ("authn.nvidia.com",),
}


class _TokenRequest(NamedTuple):
    """What a token is requested for: a token server's URL, a service, and scopes with spaces between them."""

    realm: str
    service: str
    scope: str


@dataclass(frozen=True, slots=True)
class _Grant:
    """The header with a token, and when (on the monotonic clock) it is to be renewed."""

    authorization: str = field(repr=False)
    renew_at: float


class Authorizer:
    """The Authorization header for one repository; several threads may use one, and share each renewal.

    `base_url` is the registry's. `find_credential` returns the stored credential; it is called once, when
    the registry first asks for one, and only where none is `configured`. A configured bearer token is sent
    without a challenge.
    """

    def __init__(
        self,
        host: str,
        repository: str,
        base_url: str,
        transport: Transport,
        configured: Credential | None,
        find_credential: Callable[[], Credential | None],
        token_hosts: tuple[str, ...] = (),
    ) -> None:
        self._host = host
        self._base_url = base_url
        self._scope = f"repository:{repository}:pull"
        self._transport = transport
        self._label = transport.limits.label
        self._token_hosts = token_hosts
        self._credential = configured
        self._find_credential = find_credential if configured is None else None
        self._lock = threading.Lock()
        self._grants: dict[_TokenRequest, _Grant] = {}
        self._current: _TokenRequest | None = None
        self._fixed = f"Bearer {configured.token}" if isinstance(configured, BearerToken) else None

    @property
    def has_credential(self) -> bool:
        """Whether a credential was configured or found."""
        return self._credential is not None

    def header(self) -> str | None:
        """Return the header to send, with a new token where the last one is about to expire.

        Raises Unauthorized, RegistryUnavailable.
        """
        with self._lock:
            return self._header()

    def answer(self, challenge: str, sent: str | None, *, is_retry: bool) -> bool:
        """Answer the challenge to a request with the header `sent`; tell whether to send the request again.

        `is_retry` says that it was sent again already, so that only a wider scope can help. Raises
        Unauthorized where no challenge can be answered, and RegistryUnavailable.
        """
        with self._lock:
            current = self._header()
            if current is not None and current != sent:
                return not is_retry
            challenges = {c.scheme: c.parameters for c in reversed(parse_challenges(challenge))}
            bearer = challenges.get("bearer")
            if sent is not None and not self._may_help(bearer, is_retry=is_retry):
                return False
            if self._find_credential is not None:
                self._credential, self._find_credential = self._find_credential(), None
            self._authorize(challenges, bearer)
            return True

    def _header(self) -> str | None:
        if self._current is None:
            return self._fixed
        if time.monotonic() >= self._grants[self._current].renew_at:
            self._grants[self._current] = self._fetch_token(self._current)
        return self._grants[self._current].authorization

    def _may_help(self, bearer: Mapping[str, str] | None, *, is_retry: bool) -> bool:
        """Tell whether a new token may help, though the request had an authorization."""
        if bearer is None or self._fixed is not None:
            return False
        if bearer.get("error") == "insufficient_scope":
            return self._token_request(bearer) != self._current
        return not is_retry

    def _authorize(
        self, challenges: Mapping[str, Mapping[str, str]], bearer: Mapping[str, str] | None
    ) -> None:
        credential = self._credential
        if bearer is not None and isinstance(credential, BearerToken):
            self._fixed = f"Bearer {credential.token}"
        elif bearer is not None:
            request = self._token_request(bearer)
            self._grants[request] = self._fetch_token(request)
            self._current = request
        elif "basic" in challenges and isinstance(credential, Basic):
            self._fixed = _basic(credential.username, credential.password)
        else:
            offered = foreign_text(", ".join(challenges)) or "no scheme named"
            raise Unauthorized(
                f"{self._label}: the registry asks for credentials ({offered}); "
                f"set username and password_env for the registry {self._host}, or log in to it"
            )

    def _token_request(self, bearer: Mapping[str, str]) -> _TokenRequest:
        scopes = bearer.get("scope", "").split() or [self._scope]
        if bearer.get("error") == "insufficient_scope" and self._current is not None:
            scopes += self._current.scope.split()
        realm = bearer.get("realm", "")
        self._check_realm(realm)
        return _TokenRequest(realm, bearer.get("service", ""), " ".join(sorted(set(scopes))))

    def _check_realm(self, realm: str) -> None:
        """Refuse a token server without TLS, or in a private network. Raises Unauthorized."""
        try:
            parts = urlsplit(realm)
            host, address = parts.hostname or "", origin(realm)
        except ValueError:
            host, address = "", "what is no address"
        is_safe = bool(host) and "@" not in parts.netloc
        if is_safe and same_origin(realm, self._base_url):
            return
        schemes = ("https", "http") if self._base_url.startswith("http:") else ("https",)
        if not is_safe or parts.scheme not in schemes:
            raise Unauthorized(
                f"{self._label}: the registry names a token server at {address}, which is not safe; "
                "it must be https, and no private address"
            )
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        # Of a name, the connection's address is checked.
        if is_address(host):
            check_token_server(self._label, self._token_hosts, host, port, host)
        if isinstance(self._credential, Basic | IdentityToken):
            self._check_recipient(host, port)

    def _check_recipient(self, host: str, port: int) -> None:
        """Refuse to send the credential to a host that the registry alone names. Raises Unauthorized."""
        own_hosts = (urlsplit(self._base_url).hostname, *_TOKEN_HOSTS.get(self._host, ()))
        if host not in own_hosts and not is_listed(self._token_hosts, host, port):
            raise Unauthorized(
                f"{self._label}: the registry names a token server at {host}, which is not safe: no "
                "password is sent to a server that the registry alone names; if that is meant, list it in "
                f"`token_hosts` of the registry {self._host}"
            )

    def _fetch_token(self, request: _TokenRequest) -> _Grant:
        realm, service, scope = request
        parameters = {"service": service} if service else {}
        credential = self._credential
        if isinstance(credential, IdentityToken):
            form = {
                **parameters,
                "grant_type": "refresh_token",
                "client_id": _CLIENT_ID,
                "scope": scope,
                "refresh_token": credential.token,
            }
            grant = self._send("POST", realm, {}, form)
            if grant is not None:
                return grant
        query = urlencode([*(("scope", part) for part in scope.split()), *parameters.items()])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}"
        grant = self._send("GET", url, _basic_header(credential), None)
        if grant is None:
            raise Unauthorized(
                f"{self._label}: there is no token server at {origin(realm)}; tell its operator"
            )
        return grant

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> _Grant | None:
        """Request a token; None where the server does not support the method."""
        start = time.monotonic()
        with self._transport.open(method, url, headers, form=form, cross_origin=False) as response:
            if response.status_code in (404, 405):
                self._transport.drain(response)
                return None
            if response.status_code != 200:
                raise Unauthorized(
                    f"{self._label}: no token: {self._transport.describe_answer(response)}; "
                    f"check the credentials for {self._host}"
                )
            data = self._transport.read(response, _MAX_ANSWER)
        token, lifetime = _read_token(data)
        if token is None:
            raise Unauthorized(
                f"{self._label}: the token server at {origin(url)} sent no token; tell its operator"
            )
        # Counted from the request, on this machine's clock, as the server's may be wrong.
        return _Grant(f"Bearer {token}", start + _RENEWAL_SHARE * lifetime)


def check_token_server(
    label: str, token_hosts: tuple[str, ...], host: str, port: int | None, address: str
) -> None:
    """Raise Unauthorized for a token server in a private network, unless it is listed as HOST[:PORT]."""
    if is_metadata(address) or not (is_public(address) or is_listed(token_hosts, host, port)):
        raise Unauthorized(
            f"{label}: the registry names a token server at {host}, which is not safe: it is in a private "
            "network; if that is meant, list it in `token_hosts` of this registry"
        )


def is_listed(hosts: tuple[str, ...], host: str, port: int | None) -> bool:
    """Tell whether a list of HOST[:PORT] has a host, with this port or any."""
    bare = host.strip("[]").lower()
    name = f"[{bare}]" if ":" in bare else bare
    return bool({name, f"{name}:{port}"} & {listed.lower() for listed in hosts})


def _read_token(data: bytes) -> tuple[str | None, float]:
    """Return the token in a token server's answer, None where there is none, and its lifetime in seconds."""
    try:
        answer = read_json(data) if len(data) <= _MAX_ANSWER else {}
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        return None, 0.0
    token = answer.get("token") or answer.get("access_token")
    expires_in = answer.get("expires_in")
    is_usable = isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token)
    seconds = min(expires_in, _MAX_LIFETIME) if isinstance(expires_in, int | float) else _MIN_LIFETIME
    return (token if is_usable else None), max(seconds, _MIN_LIFETIME)


def _basic_header(credential: Credential | None) -> dict[str, str]:
    match credential:
        case Basic(username, password):
            return {"Authorization": _basic(username, password)}
        case IdentityToken(username, token):
            return {"Authorization": _basic(username, token)}
    return {}


def _basic(username: str, password: str) -> str:
    return f"Basic {oras.auth.utils.get_basic_auth(username, password)}"
