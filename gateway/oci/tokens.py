"""What a registry is shown so that it answers: nothing, a password, or a token that is had for it.

A registry that wants more answers 401 with challenges (RFC 9110, section 11.6.1). A Bearer challenge names
a token server and what to ask it for (Docker token authentication and OAuth2 specs). It is the registry
that says where that server is, so its address is checked before anything is sent there.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import oras.auth.utils

from gateway.errors import Unauthorized
from gateway.oci.challenges import parse_challenges
from gateway.oci.connections import address_of
from gateway.oci.credentials import Basic, BearerToken, Credential, IdentityToken
from gateway.oci.documents import read_json
from gateway.oci.transport import DEFAULT_PORTS, Transport, origin, same_origin

_MAX_ANSWER = 128 * 1024  # bytes of a token server's answer
_SHORTEST = 60.0  # seconds that a token lasts at least (Docker token authentication spec, `expires_in`)
_LONGEST = 1e9  # seconds; longer than this process
_RENEWED_AT = 0.8  # of a token's life
_CLIENT = "kitserve"


@dataclass(frozen=True, slots=True)
class _Grant:
    """A token, and when (on the monotonic clock) the next is had."""

    authorization: str = field(repr=False)
    renew_at: float


class Access:
    """The Authorization header for one repository; for several threads, which share one renewal.

    `home` is the registry's own URL. `find` returns the credential that is kept for it, and is asked once,
    when the registry first wants one; `configured` is shown without being asked if it is a bearer token.
    """

    def __init__(
        self,
        host: str,
        repository: str,
        home: str,
        transport: Transport,
        configured: Credential | None,
        find: Callable[[], Credential | None],
        token_hosts: tuple[str, ...] = (),
    ) -> None:
        self._host = host
        self._home = home
        self._scope = f"repository:{repository}:pull"
        self._transport = transport
        self._label = transport.limits.label
        self._token_hosts = token_hosts
        self._credential = configured
        self._find: Callable[[], Credential | None] | None = find if configured is None else None
        self._lock = threading.Lock()
        self._grants: dict[tuple[str, str, str], _Grant] = {}
        self._asked: tuple[str, str, str] | None = None
        self._fixed = f"Bearer {configured.token}" if isinstance(configured, BearerToken) else None

    @property
    def named(self) -> bool:
        """Whether there is a credential."""
        return self._credential is not None

    def header(self) -> str | None:
        """Return what to send, with a new token where the last is about to end.

        Raises Unauthorized, RegistryUnavailable.
        """
        with self._lock:
            return self._header()

    def renew(self, challenge: str, used: str | None, *, again: bool) -> bool:
        """Answer a challenge to a request that was sent with `used`; tell whether to send it once more.

        `again`: this request has been sent once more already, so only another scope may help. Raises
        Unauthorized where there is no way in, RegistryUnavailable.
        """
        with self._lock:
            current = self._header()
            if current is not None and current != used:
                return not again
            challenges = {c.scheme: c.parameters for c in reversed(parse_challenges(challenge))}
            bearer = challenges.get("bearer")
            wider = bearer is not None and bearer.get("error") == "insufficient_scope"
            if used is not None and not self._may_help(bearer, wider=wider, again=again):
                return False
            if self._find is not None:
                self._credential, self._find = self._find(), None
            self._answer(challenges, bearer)
            return True

    def _header(self) -> str | None:
        if self._asked is None:
            return self._fixed
        if time.monotonic() >= self._grants[self._asked].renew_at:
            self._grants[self._asked] = self._ask(*self._asked)
        return self._grants[self._asked].authorization

    def _may_help(self, bearer: Mapping[str, str] | None, *, wider: bool, again: bool) -> bool:
        """Tell whether to answer a challenge, though something was sent already."""
        if bearer is None or self._fixed is not None:
            return False
        if wider:
            return self._wanted(bearer) != self._asked
        return not again

    def _answer(self, challenges: Mapping[str, Mapping[str, str]], bearer: Mapping[str, str] | None) -> None:
        credential = self._credential
        if bearer is not None and isinstance(credential, BearerToken):
            self._fixed = f"Bearer {credential.token}"
        elif bearer is not None:
            wanted = self._wanted(bearer)
            self._grants[wanted] = self._ask(*wanted)
            self._asked = wanted
        elif "basic" in challenges and isinstance(credential, Basic):
            self._fixed = _basic(credential.username, credential.password)
        else:
            offered = ", ".join(challenges) or "no scheme named"
            raise Unauthorized(
                f"{self._label}: the registry wants credentials ({offered}); "
                f"set username and password_env for the registry {self._host}, or log in to it"
            )

    def _wanted(self, bearer: Mapping[str, str]) -> tuple[str, str, str]:
        scopes = bearer.get("scope", "").split() or [self._scope]
        if bearer.get("error") == "insufficient_scope" and self._asked is not None:
            scopes += self._asked[2].split()
        realm = bearer.get("realm", "")
        self._check_realm(realm)
        return realm, bearer.get("service", ""), " ".join(sorted(set(scopes)))

    def _check_realm(self, realm: str) -> None:
        """Refuse a token server that would get the password in the clear, or that is inside our network."""
        try:
            parts = urlsplit(realm)
            host, where = parts.hostname or "", origin(realm)
        except ValueError:
            host, where = "", "what is no address"
        safe = bool(host) and "@" not in parts.netloc
        if safe and same_origin(realm, self._home):
            return
        schemes = ("https", "http") if self._home.startswith("http:") else ("https",)
        if not safe or parts.scheme not in schemes:
            raise Unauthorized(
                f"{self._label}: the registry names a token server at {where}, which is not safe; "
                "it must be https, and no private address"
            )
        try:
            address_of(host)
        except ValueError:
            return  # a name, whose address is checked once it is known
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        check_token_server(self._label, self._token_hosts, host, port, host)

    def _ask(self, realm: str, service: str, scope: str) -> _Grant:
        asked = {"service": service} if service else {}
        credential = self._credential
        if isinstance(credential, IdentityToken):
            form = {
                **asked,
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "scope": scope,
                "refresh_token": credential.token,
            }
            grant = self._request("POST", realm, {}, form)
            if grant is not None:
                return grant
        query = urlencode([*(("scope", one) for one in scope.split()), *asked.items()])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}"
        grant = self._request("GET", url, _login(credential), None)
        if grant is None:
            raise Unauthorized(
                f"{self._label}: there is no token server at {origin(realm)}; tell its operator"
            )
        return grant

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> _Grant | None:
        """Have a token; None where the server does not know this way of asking."""
        begun = time.monotonic()
        with self._transport.open(method, url, headers, form=form, abroad=False) as response:
            if response.status_code in (404, 405):
                self._transport.finish(response)
                return None
            if response.status_code != 200:
                raise Unauthorized(
                    f"{self._label}: no token: {self._transport.refusal(response)}; "
                    f"check the credentials for {self._host}"
                )
            data = self._transport.read(response, _MAX_ANSWER)
        token, lasts = _read_token(data)
        if token is None:
            raise Unauthorized(f"{self._label}: the token server at {origin(url)} gave no token")
        # Counted from the asking, by our own clock: the server's may be wrong.
        return _Grant(f"Bearer {token}", begun + _RENEWED_AT * lasts)


def check_token_server(
    label: str, listed: tuple[str, ...], host: str, port: int | None, address: str
) -> None:
    """Raise Unauthorized for a token server in a private network, unless it is listed as HOST[:PORT]."""
    bare = host.strip("[]")
    name = f"[{bare}]" if ":" in bare else bare
    if not address_of(address).is_global and not {name, f"{name}:{port}"} & set(listed):
        raise Unauthorized(
            f"{label}: the registry names a token server at {host}, which is not safe: it is in a private "
            "network; if that is meant, list it in `token_hosts` of this registry"
        )


def _read_token(data: bytes) -> tuple[str | None, float]:
    try:
        answer = read_json(data) if len(data) <= _MAX_ANSWER else {}
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        return None, 0.0
    token = answer.get("token") or answer.get("access_token")
    lasts = answer.get("expires_in")
    usable = isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token)
    seconds = min(lasts, _LONGEST) if isinstance(lasts, int | float) else _SHORTEST
    return (token if usable else None), max(seconds, _SHORTEST)


def _login(credential: Credential | None) -> dict[str, str]:
    match credential:
        case Basic(username, password):
            return {"Authorization": _basic(username, password)}
        case IdentityToken(username, token):
            return {"Authorization": _basic(username, token)}
    return {}


def _basic(username: str, password: str) -> str:
    return f"Basic {oras.auth.utils.get_basic_auth(username, password)}"
