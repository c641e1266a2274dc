"""One repository of one registry as a Source, over oras-py.

Of oras-py this uses the client (its session and cookie policy), the container's URLs, and the helper that
writes a Basic header. It does not use `do_request`, `get_blob`, `download_blob`, `get_manifest`, `pull` or
the auth backends: they have no time-outs, retry a wrong password for two minutes, never renew a token,
follow redirects with credentials, decode what they read, and verify nothing. One client serves one
repository, so credentials never reach another registry.

Rules are from the OCI distribution spec and the Docker token authentication spec.
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
from gateway.oci.referrers import fallback_tag, read_list
from gateway.oci.sessions import open_sessions
from gateway.oci.tokens import Access
from gateway.oci.transport import ATTEMPTS, Transport, same_origin

_ACCEPT = ", ".join(
    (
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
# Docker Hub's API is not at the name that people write.
_API_HOSTS = {"docker.io": "registry-1.docker.io"}
_GOOD = frozenset({200, 206})
# What registries say that have never heard of referrers; the spec says 404.
_UNKNOWN = frozenset({400, 404, 405, 406, 501})
_SENDINGS = 3  # of one request: with what there is, with a new token, with one for more
_MAX_PAGES = 100


class RegistrySource:
    """A reference's repository in its registry, for several threads; `connections` of them at a time.

    No request is made before the first is needed. `ends` is when everything must be done, on the
    monotonic clock; `pull_timeout` from now by default. Raises Unauthorized when the configured
    credential cannot be read.
    """

    def __init__(
        self,
        reference: RegistryReference,
        options: RegistryOptions,
        kitops_home: Path | None = None,
        *,
        ends: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.reference = reference
        host = _API_HOSTS.get(reference.host, reference.host)
        self._home = f"{'http' if options.plain_http else 'https'}://{host}"
        self._container = oras.container.Container(f"{host}/{reference.repository}")
        ends = time.monotonic() + options.pull_timeout if ends is None else ends
        limits = Limits(str(reference), options.stall_timeout, options.pull_timeout, ends)
        session, token_session = open_sessions(self._home, options, limits)
        self._transport = Transport(session, limits, options.proxy, attempts)
        self._permits = threading.BoundedSemaphore(options.connections)
        self._access = Access(
            reference.host,
            reference.repository,
            self._home,
            Transport(token_session, limits, options.proxy, attempts),
            configured_credential(reference.host, options),
            lambda: stored_credential(reference.host, kitops_home),
            options.token_hosts,
        )

    def resolve(self) -> Descriptor:
        """Ask for the manifest's descriptor by HEAD, or by GET where the answer does not say it all."""
        wanted = self.reference.digest
        descriptor = self._describe(str(wanted or self.reference.tag))
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
        asked = partial(self._request, "GET", url, {"Accept": _ACCEPT})
        _, data = self._transport.whole(asked, descriptor.size)
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
        if offset:
            headers = {"Range": f"bytes={offset}-"}
            with self._request("GET", url, headers, _GOOD | {416}) as response:
                if response.status_code == 200 or self._is_range(response, descriptor, offset):
                    start = 0 if response.status_code == 200 else offset
                    yield BlobStream(start, self._transport.chunks(response))
                    return
        with self._request("GET", url, {}, frozenset({200})) as response:
            yield BlobStream(0, self._transport.chunks(response))

    def tagged(self, tag: str) -> Descriptor | None:
        """Return what another tag of the same repository names."""
        try:
            return self._describe(tag)
        except NotFound:
            return None

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests that have this one as their subject, over all pages of the registry's list."""
        listed = self._list(f"{self._home}/v2/{self.reference.repository}/referrers/{digest}")
        if listed is None:
            url = self._url(self._container.manifest_url(fallback_tag(digest)))
            listed, _ = self._page(url, _GOOD | {404})
        return tuple((listed or [])[:MAX_REFERRERS])

    def _list(self, url: str) -> list[Descriptor] | None:
        found, following = self._page(url, _GOOD | _UNKNOWN)
        if found is None:
            return None
        for _ in range(_MAX_PAGES - 1):
            if not following or len(found) >= MAX_REFERRERS:
                break
            url = self._next_page(url, following)
            more, following = self._page(url, _GOOD)
            found += more or []
        return found

    def _page(self, url: str, expected: frozenset[int]) -> tuple[list[Descriptor] | None, str | None]:
        """Return a page of a list of manifests, None for what is none, and where the list goes on."""
        asked = partial(self._request, "GET", url, {"Accept": OCI_INDEX}, expected)
        response, data = self._transport.whole(asked, MAX_MANIFEST)
        usable = response.status_code in _GOOD and len(data) <= MAX_MANIFEST
        return read_list(data) if usable else None, response.links.get("next", {}).get("url")

    def _next_page(self, url: str, following: str) -> str:
        try:
            target = urljoin(url, following)
            foreign = not same_origin(target, self._home)
        except ValueError:
            foreign = True
        if foreign:
            raise RegistryUnavailable(
                f"{self.reference}: the registry's list of referrers goes on at another address, "
                "which is not safe; tell its operator"
            )
        return target

    def _describe(self, name: str) -> Descriptor:
        url = self._url(self._container.manifest_url(name))
        with self._request("HEAD", url, {"Accept": _ACCEPT}, _GOOD | {405}) as response:
            descriptor = _described(response) if response.status_code in _GOOD else None
        if descriptor is not None:
            return descriptor
        asked = partial(self._request, "GET", url, {"Accept": _ACCEPT})
        response, data = self._transport.whole(asked, MAX_MANIFEST)
        if len(data) > MAX_MANIFEST:
            raise SizeMismatch(f"{self.reference}: a manifest of more than the 4 MiB that are allowed")
        return Descriptor(_media_type(response), Digest.of(data), len(data))

    def _url(self, path: str) -> str:
        return f"{self._home.partition('://')[0]}://{path}"

    @contextmanager
    def _request(
        self, method: str, url: str, headers: Mapping[str, str], expected: frozenset[int] = _GOOD
    ) -> Iterator[requests.Response]:
        """Send with what authorization there is, and again with what the registry wants."""
        for sending in range(1, _SENDINGS + 1):
            used = self._access.header()
            sent = {**headers, **({"Authorization": used} if used else {})}
            with self._permit(), self._transport.open(method, url, sent) as response:
                if response.status_code in expected:
                    yield response
                    return
                fault = self._fault(response)
                challenge = self._challenge(response)
            if challenge is None or sending == _SENDINGS:
                break
            if not self._access.renew(challenge, used, again=sending > 1):
                break
        raise fault

    @contextmanager
    def _permit(self) -> Iterator[None]:
        while not self._permits.acquire(timeout=self._transport.limits.left()):
            pass
        try:
            yield
        finally:
            self._permits.release()

    def _challenge(self, response: requests.Response) -> str | None:
        """Return what the registry itself wants; what other servers want is not for them to have."""
        challenge: str = response.headers.get("WWW-Authenticate", "")
        asks = response.status_code == 401 or (
            response.status_code == 403 and "insufficient_scope" in challenge
        )
        return challenge if asks and same_origin(response.url, self._home) else None

    def _fault(self, response: requests.Response) -> Exception:
        said = f"{self.reference}: {self._transport.refusal(response)}"
        if response.status_code in (401, 403) and same_origin(response.url, self._home):
            remedy = (
                f"check the credentials for {self.reference.host}, and that they may pull this"
                if self._access.named
                else f"set username and password_env for {self.reference.host}, or check the name"
            )
            return Unauthorized(f"{said}; {remedy}")
        if response.status_code == 404:
            return NotFound(f"{said}; check repository and tag, or push the kit")
        return RegistryUnavailable(f"{said}; this is no answer that a registry should give")

    def _is_range(self, response: requests.Response, descriptor: Descriptor, offset: int) -> bool:
        given = response.headers.get("Content-Range", "")
        wanted = rf"bytes {offset}-{descriptor.size - 1}/(?:{descriptor.size}|\*)"
        return response.status_code == 206 and re.fullmatch(wanted, given) is not None


def _described(response: requests.Response) -> Descriptor | None:
    try:
        digest = Digest.parse(response.headers["Docker-Content-Digest"])
        size = int(response.headers["Content-Length"])
    except (KeyError, ValueError, InvalidReference):
        return None
    return Descriptor(_media_type(response), digest, size) if size >= 0 else None


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", OCI_MANIFEST).partition(";")[0].strip()
