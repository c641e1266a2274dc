"""HTTP for registries: every request has time-outs, bounded attempts and bounded reads.

Redirects are followed by hand, so that credentials stay with the origin they were meant for, and bytes
are read as they were sent, never decoded, because a digest is over those.
"""

import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from gateway.errors import RegistryUnavailable
from gateway.oci.content import CHUNK

_TIMEOUTS = (10.0, 30.0)  # seconds to connect, and between two reads
_ATTEMPTS = 5
_FIRST_WAIT = 0.2  # seconds; doubled for each further attempt
_LONGEST_WAIT = 60.0  # seconds, whatever Retry-After says
_PATIENCE = 120.0  # seconds after which no further attempt begins
_REDIRECTS = 5
_PASSING = frozenset({429, 502, 503, 504})
_MAX_FAULT = 512  # bytes of an error's body that are shown

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Transport:
    """Requests about one reference; `label` names it in errors. For one thread at a time."""

    session: requests.Session
    label: str

    @contextmanager
    def open(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """Send a request, and give the answer with its body unread.

        Any status may come back but a redirect. Raises RegistryUnavailable when five attempts got no
        usable answer, or for a redirect that must not be followed.
        """
        for _ in range(_REDIRECTS + 1):
            with self._attempt(method, url, headers) as response:
                if not response.is_redirect:
                    self._refuse_encoding(response)
                    yield response
                    return
                target = urljoin(url, response.headers["Location"])
            if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
                raise RegistryUnavailable(
                    f"{self.label}: {_origin(url)} redirects to {_origin(target)}, which is not safe; "
                    "that address must begin with https"
                )
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            url = target
        raise RegistryUnavailable(f"{self.label}: {_origin(url)} redirects more than {_REDIRECTS} times")

    def read(self, response: requests.Response, limit: int) -> bytes:
        """Read a body of at most `limit` bytes, and one more where there are more."""
        data = bytearray()
        for chunk in self.chunks(response, limit + 1):
            data += chunk
            if len(data) > limit:
                break
        return bytes(data[: limit + 1])

    def chunks(self, response: requests.Response, size: int = CHUNK) -> Iterator[bytes]:
        """Yield a body as it arrives; raises RegistryUnavailable when it breaks off or stalls."""
        try:
            while chunk := response.raw.read1(min(size, CHUNK), decode_content=False):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RegistryUnavailable(
                f"{self.label}: {_origin(response.url)} broke off an answer ({_reason(error)}); try again"
            ) from error

    def refusal(self, response: requests.Response) -> str:
        """Say which answer it was, with the beginning of what the server says about it."""
        body = self.read(response, _MAX_FAULT).decode(errors="replace")
        said = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in body)).strip()
        return f"{_origin(response.url)} answered {response.status_code}" + (f" ({said})" if said else "")

    @contextmanager
    def _attempt(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        deadline = time.monotonic() + _PATIENCE
        for attempt in range(1, _ATTEMPTS + 1):
            wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            try:
                response = self._send(method, url, headers)
            except requests.RequestException as error:
                fault = f"{_origin(url)} cannot be reached ({_reason(error)})"
            else:
                with response:
                    if response.status_code not in _PASSING:
                        yield response
                        return
                    fault = self.refusal(response)
                    wait = max(wait, _retry_after(response))
            if attempt == _ATTEMPTS or time.monotonic() + wait > deadline:
                break
            time.sleep(wait)
        raise RegistryUnavailable(f"{self.label}: {fault}, {attempt} time(s); try again when it is up")

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        try:
            return self.session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                stream=True,
                timeout=_TIMEOUTS,
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            hint = (
                "its certificate is not trusted; set `ca_file` for this registry"
                if "CERTIFICATE_VERIFY_FAILED" in str(error)
                else "it does not speak TLS; if that is meant, set `plain_http: true` for this registry"
            )
            raise RegistryUnavailable(f"{self.label}: {_origin(url)} cannot be reached: {hint}") from error

    def _refuse_encoding(self, response: requests.Response) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RegistryUnavailable(
                f"{self.label}: {_origin(response.url)} sent content encoded as {encoding!r} though it was "
                "asked not to; turn compression off in it, or in the proxy before it"
            )


def same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs have one scheme, host and port."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> str:
    # Without path and query: those of a signed URL are secrets.
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _reason(error: BaseException) -> str:
    while isinstance(error.args[0] if error.args else None, BaseException):
        error = error.args[0]
    inner = getattr(error, "reason", None)
    return f"{type(inner or error).__name__}: {inner or error}"


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "0")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)
