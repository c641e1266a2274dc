"""One repository of one registry as a Source, over oras-py.

Of oras-py this uses the client (its session, URL prefix and TLS setting), the container's URLs, and the
helpers that read a challenge and write a Basic header. It does not use `do_request`, `get_blob`,
`download_blob`, `get_manifest`, `pull` or the auth backends: they have no time-outs, retry a wrong
password for two minutes, never renew a token, follow redirects with credentials, decode what they read,
and verify nothing. One client serves one repository, so credentials never reach another registry.

Rules are from the OCI distribution spec and the Docker token authentication spec.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import oras.auth.utils
import oras.container
import oras.provider
import requests

from gateway.errors import (
    DigestMismatch,
    InvalidReference,
    NotFound,
    RegistryUnavailable,
    SizeMismatch,
    Unauthorized,
)
from gateway.oci.content import MAX_MANIFEST, OCI_MANIFEST, BlobStream, Descriptor
from gateway.oci.credentials import Credential, find_credential
from gateway.oci.documents import read_json
from gateway.oci.options import RegistryOptions
from gateway.oci.reference import Digest, RegistryReference
from gateway.oci.transport import Transport, same_origin

_ACCEPT = ", ".join(
    (
        OCI_MANIFEST,
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_MAX_TOKEN = 128 * 1024  # bytes of a token server's answer
# Docker Hub's API is not at the name that people write.
_API_HOSTS = {"docker.io": "registry-1.docker.io"}


class RegistrySource:
    """A reference's repository in its registry; no request is made before the first is needed.

    Raises Unauthorized when the configured credential cannot be read.
    """

    def __init__(self, reference: RegistryReference, options: RegistryOptions) -> None:
        host = _API_HOSTS.get(reference.host, reference.host)
        client = oras.provider.Registry(
            host, insecure=options.plain_http, tls_verify=str(options.ca_file) if options.ca_file else True
        )
        client.session.verify = client._tls_verify
        # Neither proxies nor ~/.netrc from the environment: only what is configured for this registry.
        client.session.trust_env = False
        self._container = oras.container.Container(f"{host}/{reference.repository}")
        self._prefix: str = client.prefix
        self.reference = reference
        self._credential: Credential | None = find_credential(reference.host, options)
        self._transport = Transport(client.session, str(reference))
        self._authorization: str | None = None

    def resolve(self) -> Descriptor:
        """Ask for the manifest's descriptor by HEAD, or by GET where the answer does not say it all."""
        url = self._url(self._container.manifest_url(self._name))
        with self._request("HEAD", url, {"Accept": _ACCEPT}) as response:
            descriptor = _described(response)
        if descriptor is None:
            with self._request("GET", url, {"Accept": _ACCEPT}) as response:
                data = self._transport.read(response, MAX_MANIFEST)
                descriptor = Descriptor(_media_type(response), Digest.of(data), len(data))
        wanted = self.reference.digest
        if wanted is not None and descriptor.digest != wanted:
            raise DigestMismatch(
                f"{self.reference}: the registry has {descriptor.digest} under this digest; tell its operator"
            )
        return descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Get a manifest by digest, and verify it."""
        if descriptor.size > MAX_MANIFEST:
            raise SizeMismatch(f"{self.reference}: a manifest of {descriptor.size} bytes; 4 MiB are allowed")
        url = self._url(self._container.manifest_url(str(descriptor.digest)))
        with self._request("GET", url, {"Accept": _ACCEPT}) as response:
            data = self._transport.read(response, descriptor.size)
        if len(data) != descriptor.size:
            raise SizeMismatch(
                f"{self.reference}: manifest {descriptor.digest} was to have {descriptor.size} bytes "
                f"and has {'more' if len(data) > descriptor.size else len(data)}; push the kit again"
            )
        if Digest.of(data) != descriptor.digest:
            raise DigestMismatch(
                f"{self.reference}: the manifest sent for {descriptor.digest} has the digest "
                f"{Digest.of(data)}; push the kit again"
            )
        return data

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[BlobStream]:
        """Get a blob from an offset on; from 0 where the registry does not do ranges."""
        url = self._url(self._container.get_blob_url(str(descriptor.digest)))
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._request("GET", url, headers, unranged=bool(offset)) as response:
            if response.status_code == 206:
                self._check_range(response, descriptor, offset)
            start = offset if response.status_code == 206 else 0
            yield BlobStream(start, self._transport.chunks(response))

    def tagged(self, tag: str) -> Descriptor | None:
        """Return what another tag of the same repository names."""
        raise NotImplementedError

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests that have this one as their subject."""
        raise NotImplementedError

    @property
    def _name(self) -> str:
        return str(self.reference.digest or self.reference.tag)

    def _url(self, path: str) -> str:
        return f"{self._prefix}://{path}"

    @contextmanager
    def _request(
        self, method: str, url: str, headers: Mapping[str, str], *, unranged: bool = False
    ) -> Iterator[requests.Response]:
        """Send with what authorization there is; once more with a new one, or without a refused range."""
        for final in (False, True):
            sent = {**headers, **({"Authorization": self._authorization} if self._authorization else {})}
            with self._transport.open(method, url, sent) as response:
                if response.status_code in (200, 206):
                    yield response
                    return
                if response.status_code == 401 and not final:
                    challenge = response.headers.get("WWW-Authenticate", "")
                elif response.status_code == 416 and unranged and not final:
                    headers, challenge = {}, None
                else:
                    raise self._fault(response)
            if challenge is not None:
                self._authorization = self._authorize(challenge)

    def _fault(self, response: requests.Response) -> Exception:
        said = f"{self.reference}: {self._transport.refusal(response)}"
        if response.status_code in (401, 403):
            remedy = (
                f"check the username and password for {self.reference.host}, and that they may pull this"
                if self._credential
                else f"set username and password_env for {self.reference.host}, or check the name"
            )
            return Unauthorized(f"{said}; {remedy}")
        if response.status_code == 404:
            return NotFound(f"{said}; check repository and tag, or push the kit")
        return RegistryUnavailable(f"{said}; this is no answer that a registry should give")

    def _authorize(self, challenge: str) -> str:
        scheme = challenge.partition(" ")[0].lower()
        if scheme == "bearer":
            return f"Bearer {self._token(challenge)}"
        if scheme == "basic" and self._credential is not None:
            return _basic(self._credential)
        raise Unauthorized(
            f"{self.reference}: the registry wants credentials ({scheme or 'no scheme named'}); "
            f"set username and password_env for the registry {self.reference.host}"
        )

    def _token(self, challenge: str) -> str:
        wanted = oras.auth.utils.parse_auth_header(challenge)
        realm = self._checked_realm(wanted.realm or "")
        scope = wanted.scope or f"repository:{self.reference.repository}:pull"
        query = urlencode({"scope": scope, **({"service": wanted.service} if wanted.service else {})})
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}"
        headers = {"Authorization": _basic(self._credential)} if self._credential else {}
        with self._transport.open("GET", url, headers) as response:
            if response.status_code != 200:
                raise Unauthorized(
                    f"{self.reference}: no token: {self._transport.refusal(response)}; "
                    f"check the username and password for {self.reference.host}"
                )
            data = self._transport.read(response, _MAX_TOKEN)
        try:
            answer = read_json(data)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unauthorized(
                f"{self.reference}: the token server at {urlsplit(realm).netloc} gave no token"
            )
        return token

    def _checked_realm(self, realm: str) -> str:
        """Refuse a token server that would get the password in the clear, or that is inside our network."""
        parts = urlsplit(realm)
        home = self._url(self._container.registry)
        if same_origin(realm, home):
            return realm
        try:
            outside = ipaddress.ip_address(parts.hostname or "").is_global
        except ValueError:
            outside = bool(parts.hostname)
        if parts.scheme not in ("https", self._prefix) or not outside:
            raise Unauthorized(
                f"{self.reference}: the registry names {realm!r} as its token server, which is not safe; "
                "it must be https, and no private address"
            )
        return realm

    def _check_range(self, response: requests.Response, descriptor: Descriptor, offset: int) -> None:
        given = response.headers.get("Content-Range", "")
        wanted = rf"bytes {offset}-{descriptor.size - 1}/(?:{descriptor.size}|\*)"
        if not re.fullmatch(wanted, given):
            raise RegistryUnavailable(
                f"{self.reference}: asked for {descriptor.digest} from byte {offset} of {descriptor.size}, "
                f"the registry sent {given!r}; remove the partial file or try again"
            )


def _described(response: requests.Response) -> Descriptor | None:
    try:
        digest = Digest.parse(response.headers["Docker-Content-Digest"])
        return Descriptor(_media_type(response), digest, int(response.headers["Content-Length"]))
    except (KeyError, ValueError, InvalidReference):
        return None


def _basic(credential: Credential) -> str:
    return f"Basic {oras.auth.utils.get_basic_auth(credential.username, credential.password)}"


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", OCI_MANIFEST).partition(";")[0].strip()
