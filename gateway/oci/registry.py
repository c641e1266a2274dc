"""One repository of one registry as a Source, over oras-py.

Of oras-py this uses the client (its session and cookie policy), the container's URLs, and the function that
writes a Basic header. It does not use `do_request`, `get_blob`, `download_blob`, `get_manifest`, `pull` or
the auth backends: they have no timeouts, retry a wrong password for two minutes, never renew a token,
follow redirects with credentials, decode the body, and verify nothing. One client serves one repository, so
credentials never reach another registry.

The rules are from the OCI distribution spec and the Docker token authentication spec.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urljoin

import oras.container
import requests

from gateway.errors import (
    DigestMismatch,
    InvalidReference,
    NotFound,
    RegistryUnavailable,
    SizeMismatch,
    Unauthorized,
)
from gateway.oci.connections import Limits
from gateway.oci.content import (
    MAX_MANIFEST,
    MAX_REFERRERS,
    OCI_INDEX,
    OCI_MANIFEST,
    BlobStream,
    Descriptor,
)
from gateway.oci.credentials import configured_credential, stored_credential
from gateway.oci.options import RegistryOptions
from gateway.oci.reference import Digest, RegistryReference
from gateway.oci.referrers import fallback_tag, parse_referrers
from gateway.oci.sessions import open_sessions
from gateway.oci.tokens import Authorizer
from gateway.oci.transport import ATTEMPTS, Transport, same_origin

_ACCEPT = ", ".join(
    (
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
# Docker Hub's API has another host than its references.
_API_HOSTS = {"docker.io": "registry-1.docker.io"}
# What Ollama's registry sends manifests as.
_PLAIN_TYPES = frozenset({"text/plain", "application/json", "application/octet-stream"})
_SUCCESS = frozenset({200, 206})
# The statuses of registries without the referrers API; the spec says 404.
_NO_REFERRERS_API = frozenset({400, 404, 405, 406, 501})
_MAX_SENDS = 3  # of one request: with what there is, with a new token, with one of wider scope
_MAX_PAGES = 100


class RegistrySource:
    """A reference's repository in its registry; several threads may use one, `connections` at a time.

    No request is made before the first is needed. All of them end at `deadline`, on the monotonic clock:
    `pull_timeout` from now by default. Raises Unauthorized when the configured credential cannot be read.
    """

    def __init__(
        self,
        reference: RegistryReference,
        options: RegistryOptions,
        kitops_home: Path | None = None,
        *,
        deadline: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.reference = reference
        host = _API_HOSTS.get(reference.host, reference.host)
        self._base_url = f"{'http' if options.plain_http else 'https'}://{host}"
        self._container = oras.container.Container(f"{host}/{reference.repository}")
        deadline = time.monotonic() + options.pull_timeout if deadline is None else deadline
        limits = Limits(str(reference), options.stall_timeout, options.pull_timeout, deadline, reference.host)
        session, token_session = open_sessions(self._base_url, options, limits)
        self._transport = Transport(session, limits, options.proxy, attempts)
        self._permits = threading.BoundedSemaphore(options.connections)
        self._authorizer = Authorizer(
            reference.host,
            reference.repository,
            self._base_url,
            Transport(token_session, limits, options.proxy, attempts),
            configured_credential(reference.host, options),
            lambda: stored_credential(reference.host, kitops_home),
            options.token_hosts,
        )

    def resolve(self) -> Descriptor:
        """Ask for the manifest's descriptor by HEAD, or by GET where that answer lacks a part of it."""
        digest = self.reference.digest
        try:
            descriptor = self._describe(str(digest or self.reference.tag))
        except NotFound:
            data = self._manifest_blob(digest) if digest is not None else None
            if digest is None or data is None:
                raise
            return Descriptor("", digest, len(data))
        if digest is not None and descriptor.digest != digest:
            raise DigestMismatch(
                f"{self.reference}: the registry has {descriptor.digest} under this digest; tell its operator"
            )
        return descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Get a manifest by digest and verify it."""
        if descriptor.size > MAX_MANIFEST:
            raise SizeMismatch(f"{self.reference}: a manifest of {descriptor.size} bytes; 4 MiB are allowed")
        url = self._url(self._container.manifest_url(str(descriptor.digest)))
        send = partial(self._request, "GET", url, {"Accept": _ACCEPT})
        try:
            _, data = self._transport.read_whole(send, descriptor.size)
        except NotFound:
            blob = self._manifest_blob(descriptor.digest)
            if blob is None:
                raise
            data = blob
        if len(data) != descriptor.size:
            raise SizeMismatch(
                f"{self.reference}: manifest {descriptor.digest} should have {descriptor.size} bytes "
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
        """Open a blob at an offset; at 0 where the registry does not support ranges."""
        url = self._url(self._container.get_blob_url(str(descriptor.digest)))
        if offset:
            headers = {"Range": f"bytes={offset}-"}
            with self._request("GET", url, headers, _SUCCESS | {416}) as response:
                if response.status_code == 200 or self._is_range(response, descriptor, offset):
                    start = 0 if response.status_code == 200 else offset
                    yield BlobStream(start, self._transport.chunks(response))
                    return
        with self._request("GET", url, {}, frozenset({200})) as response:
            yield BlobStream(0, self._transport.chunks(response))

    def resolve_tag(self, tag: str) -> Descriptor | None:
        """Return the manifest that another tag of the same repository points to."""
        try:
            return self._describe(tag)
        except NotFound:
            return None

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests whose subject is this one, over all pages of the registry's list."""
        referrers = self._list(f"{self._base_url}/v2/{self.reference.repository}/referrers/{digest}")
        if referrers is None:
            url = self._url(self._container.manifest_url(fallback_tag(digest)))
            referrers, _ = self._get_page(url, _SUCCESS | {404})
        return tuple((referrers or [])[:MAX_REFERRERS])

    def _list(self, url: str) -> list[Descriptor] | None:
        referrers, next_link = self._get_page(url, _SUCCESS | _NO_REFERRERS_API)
        if referrers is None:
            return None
        for _ in range(_MAX_PAGES - 1):
            if not next_link or len(referrers) >= MAX_REFERRERS:
                break
            url = self._next_url(url, next_link)
            page, next_link = self._get_page(url, _SUCCESS)
            referrers += page or []
        return referrers

    def _get_page(self, url: str, expected: frozenset[int]) -> tuple[list[Descriptor] | None, str | None]:
        """Return a page of a list of referrers, or None where it is none, and the link to the next page."""
        send = partial(self._request, "GET", url, {"Accept": OCI_INDEX}, expected)
        response, data = self._transport.read_whole(send, MAX_MANIFEST)
        is_usable = response.status_code in _SUCCESS and len(data) <= MAX_MANIFEST
        return parse_referrers(data) if is_usable else None, response.links.get("next", {}).get("url")

    def _next_url(self, url: str, link: str) -> str:
        try:
            target = urljoin(url, link)
            is_other_origin = not same_origin(target, self._base_url)
        except ValueError:
            is_other_origin = True
        if is_other_origin:
            raise RegistryUnavailable(
                f"{self.reference}: the next page of the registry's list of referrers is at another address, "
                "which is not safe; tell its operator"
            )
        return target

    def _describe(self, name: str) -> Descriptor:
        url = self._url(self._container.manifest_url(name))
        with self._request("HEAD", url, {"Accept": _ACCEPT}, _SUCCESS | {405}) as response:
            descriptor = _descriptor_of(response) if response.status_code in _SUCCESS else None
        if descriptor is not None:
            return descriptor
        send = partial(self._request, "GET", url, {"Accept": _ACCEPT})
        response, data = self._transport.read_whole(send, MAX_MANIFEST)
        if len(data) > MAX_MANIFEST:
            raise SizeMismatch(f"{self.reference}: a manifest of more than the 4 MiB that are allowed")
        return Descriptor(_media_type(response), Digest.of(data), len(data))

    def _manifest_blob(self, digest: Digest) -> bytes | None:
        """Return a manifest from among the blobs; by digest, Ollama's registry has it only there."""
        url = self._url(self._container.get_blob_url(str(digest)))
        send = partial(self._request, "GET", url, {})
        try:
            _, data = self._transport.read_whole(send, MAX_MANIFEST)
        except NotFound:
            return None
        return data if Digest.of(data) == digest else None

    def _url(self, path: str) -> str:
        return f"{self._base_url.partition('://')[0]}://{path}"

    @contextmanager
    def _request(
        self, method: str, url: str, headers: Mapping[str, str], expected: frozenset[int] = _SUCCESS
    ) -> Iterator[requests.Response]:
        """Send with the authorization at hand, and again with the one that the registry asks for."""
        for sends in range(1, _MAX_SENDS + 1):
            authorization = self._authorizer.header()
            sent_headers = {**headers, **({"Authorization": authorization} if authorization else {})}
            with self._permit(), self._transport.open(method, url, sent_headers) as response:
                if response.status_code in expected:
                    yield response
                    return
                error = self._error(response)
                challenge = self._challenge(response)
            if challenge is None or sends == _MAX_SENDS:
                break
            if not self._authorizer.answer(challenge, authorization, is_retry=sends > 1):
                break
        raise error

    @contextmanager
    def _permit(self) -> Iterator[None]:
        while not self._permits.acquire(timeout=self._transport.limits.seconds_left()):
            pass
        try:
            yield
        finally:
            self._permits.release()

    def _challenge(self, response: requests.Response) -> str | None:
        """Return the challenge of the registry itself; those of other servers are never answered."""
        challenge: str = response.headers.get("WWW-Authenticate", "")
        is_challenge = response.status_code == 401 or (
            response.status_code == 403 and "insufficient_scope" in challenge
        )
        return challenge if is_challenge and same_origin(response.url, self._base_url) else None

    def _error(self, response: requests.Response) -> Exception:
        answer = f"{self.reference}: {self._transport.describe_answer(response)}"
        if response.status_code in (401, 403) and same_origin(response.url, self._base_url):
            remedy = (
                f"check the credentials for {self.reference.host}, and that they may pull this"
                if self._authorizer.has_credential
                else f"set username and password_env for {self.reference.host}, or check the name"
            )
            return Unauthorized(f"{answer}; {remedy}")
        if response.status_code == 404:
            return NotFound(f"{answer}; check repository and tag, or push the kit")
        return RegistryUnavailable(f"{answer}, which no registry should; check its address, and the proxy")

    def _is_range(self, response: requests.Response, descriptor: Descriptor, offset: int) -> bool:
        content_range = response.headers.get("Content-Range", "")
        expected = rf"bytes {offset}-{descriptor.size - 1}/(?:{descriptor.size}|\*)"
        return response.status_code == 206 and re.fullmatch(expected, content_range) is not None


def _descriptor_of(response: requests.Response) -> Descriptor | None:
    try:
        digest = Digest.parse(response.headers["Docker-Content-Digest"])
        size = int(response.headers["Content-Length"])
    except (KeyError, ValueError, InvalidReference):
        return None
    return Descriptor(_media_type(response), digest, size) if size >= 0 else None


def _media_type(response: requests.Response) -> str:
    """Return the type that a manifest was sent with; "" for one that says nothing."""
    media_type = response.headers.get("Content-Type", OCI_MANIFEST).partition(";")[0].strip()
    return "" if media_type in _PLAIN_TYPES else media_type
