"""HTTP for registries: bounded attempts, bounded reads, and an end to everything.

Redirects are followed by hand, so that credentials stay with the origin they were meant for, and bytes
are read as they were sent, never decoded, because a digest is over those.
"""

import contextlib
import http.client
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import requests
import requests.utils
import urllib3

from gateway.errors import RegistryUnavailable
from gateway.oci.connection_errors import lasting_fault, passing_fault
from gateway.oci.connections import Limits
from gateway.oci.content import CHUNK

ATTEMPTS = 6
_CONNECT = 10.0  # seconds
_FIRST_WAIT = 0.25  # seconds; doubled for each further attempt
_LONGEST_WAIT = 30.0  # seconds, by our own count
_LONGEST_ASKED = 60.0  # seconds, whatever Retry-After says
_REDIRECTS = 5
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_ASKING = frozenset({429, 503})  # statuses whose Retry-After counts (RFC 9110 and RFC 6585)
_MAX_FAULT = 512  # bytes of an error's body that are shown
_MAX_REST = 4096  # bytes that are read rather than a connection given up
_READINGS = 3  # of a small answer that breaks off
_KEPT_HOME = frozenset({"authorization", "cookie"})
# What the libraries raise for a connection that fails before or within an answer.
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)

DEFAULT_PORTS = {"http": 80, "https": 443}


class _BrokenOff(RegistryUnavailable):
    """An answer that began and did not come to its end."""


@dataclass(frozen=True, slots=True)
class Transport:
    """Requests within `limits`; for several threads.

    `proxy` is a URL, "" for none, None for what the environment says about each host.
    """

    session: requests.Session
    limits: Limits
    proxy: str | None = ""
    attempts: int = ATTEMPTS

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        form: Mapping[str, str] | None = None,
        abroad: bool = True,
    ) -> Iterator[requests.Response]:
        """Send a request, and give the answer with its body unread.

        Any status may come back but a redirect. `form` is sent as a body, and nowhere else; without
        `abroad` no other origin is asked. Raises RegistryUnavailable when no attempt got a usable answer,
        or for a redirect that must not be followed.
        """
        for _ in range(_REDIRECTS + 1):
            with self._attempt(method, url, headers, form) as response:
                if not response.is_redirect:
                    self._refuse_encoding(response)
                    yield response
                    return
                target = self._target(url, response.headers["Location"])
                self.finish(response)
            if not same_origin(target, url):
                if not abroad:
                    raise self._refused(url, target, "credentials are not taken to another server")
                headers = {name: value for name, value in headers.items() if name.lower() not in _KEPT_HOME}
            if form is not None:
                raise self._refused(url, target, "what is posted is not sent twice")
            url = target
        raise RegistryUnavailable(
            f"{self.limits.label}: {origin(url)} redirects more than {_REDIRECTS} times; tell its operator"
        )

    def read(self, response: requests.Response, limit: int) -> bytes:
        """Read a body of at most `limit` bytes, and one more where there are more."""
        data = bytearray()
        for chunk in self.chunks(response, limit + 1):
            data += chunk
            if len(data) > limit:
                break
        return bytes(data[: limit + 1])

    def whole(
        self, ask: Callable[[], AbstractContextManager[requests.Response]], limit: int
    ) -> tuple[requests.Response, bytes]:
        """Ask, and read the answer as `read` does; again where it breaks off."""
        for _ in range(_READINGS - 1):
            with contextlib.suppress(_BrokenOff), ask() as response:
                return response, self.read(response, limit)
        with ask() as response:
            return response, self.read(response, limit)

    def chunks(self, response: requests.Response, size: int = CHUNK) -> Iterator[bytes]:
        """Yield a body as it arrives; raises RegistryUnavailable when it breaks off or stalls."""
        try:
            while chunk := response.raw.read1(min(size, CHUNK), decode_content=False):
                yield chunk
        except _BROKEN as error:
            raise _BrokenOff(
                f"{self.limits.label}: {origin(response.url)} broke off an answer ({passing_fault(error)}); "
                "try again"
            ) from error

    def finish(self, response: requests.Response) -> None:
        """Read what little there may be of an answer, so that its connection can be used again."""
        length = response.headers.get("Content-Length", "")
        if re.fullmatch("[0-9]{1,4}", length) and int(length) <= _MAX_REST:
            with contextlib.suppress(RegistryUnavailable):
                self.read(response, _MAX_REST)

    def refusal(self, response: requests.Response) -> str:
        """Say which answer it was, with the beginning of what the server says about it."""
        body = b""
        if response.status_code >= 400:
            with contextlib.suppress(RegistryUnavailable):
                body = self.read(response, _MAX_FAULT)
        text = "".join(c if c.isprintable() else " " for c in body.decode(errors="replace"))
        said = re.sub(r"\s+", " ", text).strip()
        return f"{origin(response.url)} answered {response.status_code}" + (f" ({said})" if said else "")

    @contextmanager
    def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Iterator[requests.Response]:
        label = self.limits.label
        for attempt in range(1, self.attempts + 1):
            wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            wait = min(wait, _LONGEST_WAIT)
            try:
                response = self._send(method, url, headers, form)
            except _BROKEN as error:
                self.limits.left()
                if lasting := lasting_fault(error):
                    raise RegistryUnavailable(f"{label}: {origin(url)} cannot be used: {lasting}") from error
                fault = f"{origin(url)} cannot be reached ({passing_fault(error)})"
            else:
                with response:
                    if response.status_code not in _PASSING:
                        yield response
                        return
                    fault = self.refusal(response)
                    if response.status_code in _ASKING:
                        wait = max(wait, _retry_after(response))
            if attempt == self.attempts or wait >= self.limits.left():
                break
            time.sleep(wait)
        raise RegistryUnavailable(f"{label}: {fault}, {attempt} time(s); try again when it is up")

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> requests.Response:
        limits = self.limits
        asked = requests.Request(method, url, {"Accept-Encoding": "identity", **headers}, data=form)
        # Not by the session: that reads the whole body of a redirect, and decodes it.
        return self.session.get_adapter(url).send(
            self.session.prepare_request(asked),
            stream=True,
            timeout=(min(_CONNECT, limits.stall_timeout, limits.left()), limits.stall_timeout),
            proxies=self._proxies(url),
        )

    def _proxies(self, url: str) -> dict[str, str]:
        if self.proxy is None:
            return requests.utils.get_environ_proxies(url)
        return {"all": self.proxy} if self.proxy else {}

    def _target(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            safe = parts.hostname and "@" not in parts.netloc and (parts.port or 1) > 0
        except ValueError:
            safe = False
        if not safe or parts.scheme not in ("https", urlsplit(url).scheme):
            raise self._refused(
                url, target if safe else None, "which is not safe: it must be an https address"
            )
        return target

    def _refused(self, url: str, target: str | None, why: str) -> RegistryUnavailable:
        where = origin(target) if target else "what is no address"
        return RegistryUnavailable(
            f"{self.limits.label}: {origin(url)} redirects to {where}, {why}; tell its operator"
        )

    def _refuse_encoding(self, response: requests.Response) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("identity", ""):
            raise RegistryUnavailable(
                f"{self.limits.label}: {origin(response.url)} sent content encoded as {encoding!r} though it "
                "was asked not to; turn compression off in it, or in the proxy before it"
            )


def same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs have one scheme, host and port."""
    return origin(one) == origin(other)


def origin(url: str) -> str:
    """Return scheme, host and port of a URL; without path and query, as those of a signed one are secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or DEFAULT_PORTS.get(parts.scheme)}"


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "0")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_ASKED)
