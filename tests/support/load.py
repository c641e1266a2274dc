"""A steady load of calls, each with exactly one outcome in the ledger."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import urlsplit

IRIS_CALL = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}'


class Load:
    """Keep-alive clients that call one URL until the `with` block ends, with each of the bodies in turn."""

    def __init__(
        self,
        url: str,
        body: bytes | Sequence[bytes] | None = IRIS_CALL,
        clients: int = 4,
        pause: float = 0.0,
        seconds: float = 300,
    ) -> None:
        self._url = urlsplit(url)
        self._bodies = itertools.cycle([body] if body is None or isinstance(body, bytes) else body)
        self._pause = pause
        self._seconds = seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(clients)]
        self.outcomes: Counter[str] = Counter()
        self.failed_at: list[tuple[float, str]] = []
        """Every outcome but a 200, and when it came to light, by `time.monotonic`."""
        self.versions: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def failures(self) -> dict[str, int]:
        """Every outcome but a 200."""
        return {outcome: count for outcome, count in self.outcomes.items() if outcome != "200"}

    def wait_for(self, version: str, seconds: float = 30) -> None:
        """Wait until a call is answered by `version`."""
        deadline = time.monotonic() + seconds
        while not self.versions[version]:
            assert time.monotonic() < deadline, f"no answer of {version} in {seconds} s: {self.versions}"
            time.sleep(0.02)

    def forget(self) -> None:
        """Set the counts of versions to zero."""
        with self._lock:
            self.versions.clear()

    def _call(self) -> None:
        assert self._url.hostname is not None
        connection = http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=20)
        deadline = time.monotonic() + self._seconds
        while not self._stop.is_set() and time.monotonic() < deadline:
            version = ""
            body = next(self._bodies)
            try:
                method = "POST" if body else "GET"
                connection.request(method, self._url.path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                outcome = str(answer.status)
                version = answer.headers.get("ModelKit-Version", "")
                if answer.status != 200:
                    outcome += " " + text.decode(errors="replace")[:200]
            except (OSError, http.client.HTTPException) as error:
                outcome = f"{type(error).__name__}: {error}"
                connection.close()
            with self._lock:
                self.outcomes[outcome] += 1
                if outcome != "200":
                    self.failed_at.append((time.monotonic(), outcome))
                self.versions[version] += 1
            if self._pause:
                time.sleep(self._pause)
        connection.close()
