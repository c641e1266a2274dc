"""HTTP for registries: a bounded number of attempts, bounded reads, and a deadline for all of it.

Redirects are followed here and not by requests, so that credentials never reach another origin. Bytes are
read as they were sent, never decoded, because digests are over those.
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
from gateway.foreign_text import foreign_text
from gateway.oci.connection_errors import permanent_failure, transient_failure
from gateway.oci.connections import Limits
from gateway.oci.content import CHUNK
from gateway.wording import counted

ATTEMPTS = 6
_CONNECT_TIMEOUT = 10.0  # seconds
_FIRST_WAIT = 0.25  # seconds; doubled for each further attempt
_MAX_WAIT = 30.0  # seconds, without Retry-After
_MAX_RETRY_AFTER = 3600.0  # seconds
_MAX_PATIENCE = 60.0  # seconds of Retry-After that are waited for between two attempts
_MAX_REDIRECTS = 5
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
# What says that the whole registry answers nobody, or nothing more of us, and not this request alone.
_AWAY_STATUSES = frozenset({429, 502, 503, 504})
_RETRY_AFTER_STATUSES = frozenset({429, 503})  # RFC 6585, section 4; RFC 9110, section 10.2.3
_MAX_ERROR_BODY = 4096  # bytes that are read to be shown
_MAX_DRAINED = 4096  # bytes that are read so that the connection can be used again
_MAX_READS = 3  # of a small answer that breaks off
_CREDENTIAL_HEADERS = frozenset({"authorization", "cookie"})
# What the libraries raise for a connection that fails before or within an answer.
_CONNECTION_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)

DEFAULT_PORTS = {"http": 80, "https": 443}


class _BrokenAnswer(RegistryUnavailable):
    """An answer that broke off."""


@dataclass(frozen=True, slots=True)
class Transport:
    """Requests within `limits`; several threads may use one.

    `proxy` is a URL, "" for none, None for the one that the environment names for each host.
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
        cross_origin: bool = True,
    ) -> Iterator[requests.Response]:
        """Send a request and yield the answer, its body unread.

        The answer may have any status but a redirect's. `form` is the body of a POST, which is not sent again
        to where a redirect points; without `cross_origin` no redirect to another origin is followed. Raises
        RegistryUnavailable where no attempt got a usable answer, or for a redirect that is not followed.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            with self._attempt(method, url, headers, form) as response:
                if not response.is_redirect:
                    self._refuse_encoding(response)
                    yield response
                    return
                target = self._target(url, response.headers["Location"])
                self.drain(response)
            if not same_origin(target, url):
                if not cross_origin:
                    raise self._redirect_error(
                        url, target, "and credentials are never sent to another server"
                    )
                headers = {
                    name: value for name, value in headers.items() if name.lower() not in _CREDENTIAL_HEADERS
                }
            if form is not None:
                raise self._redirect_error(url, target, "and a form is not posted twice")
            url = target
        raise RegistryUnavailable(
            f"{self.limits.label}: {origin(url)} redirects more than {_MAX_REDIRECTS} times; "
            "tell its operator"
        )

    def read(self, response: requests.Response, limit: int) -> bytes:
        """Read a body of at most `limit` bytes; of a longer one, one byte more."""
        data = bytearray()
        for chunk in self.chunks(response, limit + 1):
            data += chunk
            if len(data) > limit:
                break
        return bytes(data[: limit + 1])

    def read_whole(
        self, send: Callable[[], AbstractContextManager[requests.Response]], limit: int
    ) -> tuple[requests.Response, bytes]:
        """Send a request and `read` the answer; again where it breaks off."""
        for _ in range(_MAX_READS - 1):
            with contextlib.suppress(_BrokenAnswer), send() as response:
                return response, self.read(response, limit)
        with send() as response:
            return response, self.read(response, limit)

    def chunks(self, response: requests.Response, size: int = CHUNK) -> Iterator[bytes]:
        """Yield a body as it arrives. Raises RegistryUnavailable when it breaks off or stalls."""
        try:
            while chunk := response.raw.read1(min(size, CHUNK), decode_content=False):
                yield chunk
        except _CONNECTION_ERRORS as error:
            raise _BrokenAnswer(
                f"{self.limits.label}: {origin(response.url)} broke off an answer "
                f"({transient_failure(error)}); try again"
            ) from error

    def drain(self, response: requests.Response) -> None:
        """Read the rest of a short body, so that the connection can be used again."""
        length = response.headers.get("Content-Length", "")
        if re.fullmatch("[0-9]{1,4}", length) and int(length) <= _MAX_DRAINED:
            with contextlib.suppress(RegistryUnavailable):
                self.read(response, _MAX_DRAINED)

    def describe_answer(self, response: requests.Response) -> str:
        """Return who answered with which status, and the beginning of an error's body."""
        body = b""
        if response.status_code >= 400:
            with contextlib.suppress(RegistryUnavailable):
                body = self.read(response, _MAX_ERROR_BODY)
        detail = foreign_text(body.decode(errors="replace"))
        return f"{origin(response.url)} answered {response.status_code}" + (f" ({detail})" if detail else "")

    @contextmanager
    def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Iterator[requests.Response]:
        label = self.limits.label
        for attempt in range(1, self.attempts + 1):
            wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            wait = min(wait, _MAX_WAIT)
            try:
                response = self._send(method, url, headers, form)
            except _CONNECTION_ERRORS as error:
                self.limits.seconds_left()
                if reason := permanent_failure(error):
                    message = f"{label}: {origin(url)} cannot be used: {reason}"
                    raise RegistryUnavailable(message, away_host=self.limits.host) from error
                failure = f"{origin(url)} cannot be reached ({transient_failure(error)})"
                is_away, retry_after = True, 0.0
            else:
                with response:
                    if response.status_code not in _TRANSIENT_STATUSES:
                        yield response
                        return
                    failure = self.describe_answer(response)
                    is_away, retry_after = response.status_code in _AWAY_STATUSES, 0.0
                    if response.status_code in _RETRY_AFTER_STATUSES:
                        retry_after = _retry_after(response)
                        wait = max(wait, min(retry_after, _MAX_PATIENCE))
            if attempt == self.attempts or wait >= self.limits.seconds_left():
                break
            time.sleep(wait)
        message = f"{label}: {failure}, {counted(attempt, 'time')}; try again later"
        away_host = self.limits.host if is_away else ""
        raise RegistryUnavailable(message, away_host=away_host, retry_after=retry_after)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> requests.Response:
        limits = self.limits
        request = requests.Request(method, url, {"Accept-Encoding": "identity", **headers}, data=form)
        # Not `session.send`, which reads the whole body of a redirect and decodes it.
        return self.session.get_adapter(url).send(
            self.session.prepare_request(request),
            stream=True,
            timeout=(
                min(_CONNECT_TIMEOUT, limits.stall_timeout, limits.seconds_left()),
                limits.stall_timeout,
            ),
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
            is_safe = parts.hostname and "@" not in parts.netloc and (parts.port or 1) > 0
        except ValueError:
            is_safe = False
        if not is_safe or parts.scheme not in ("https", urlsplit(url).scheme):
            raise self._redirect_error(
                url, target if is_safe else None, "which is not safe: it must be an https address"
            )
        return target

    def _redirect_error(self, url: str, target: str | None, reason: str) -> RegistryUnavailable:
        address = origin(target) if target else "what is no address"
        return RegistryUnavailable(
            f"{self.limits.label}: {origin(url)} redirects to {address}, {reason}; tell its operator"
        )

    def _refuse_encoding(self, response: requests.Response) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("identity", ""):
            raise RegistryUnavailable(
                f"{self.limits.label}: {origin(response.url)} sent content encoded as "
                f"{foreign_text(encoding)!r} though it was asked not to; turn compression off in it, or in "
                "the proxy in front of it"
            )


def same_origin(first: str, second: str) -> bool:
    """Tell whether two URLs have the same scheme, host and port."""
    return origin(first) == origin(second)


def origin(url: str) -> str:
    """Return scheme, host and port of a URL; path and query of a signed one are secrets."""
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
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
