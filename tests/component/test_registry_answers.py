"""Answers that registries give and Debian's does not: faults, redirects, ranges, and what never ends."""

from __future__ import annotations

import pickle
import resource
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from gateway.errors import (
    DigestMismatch,
    NotFound,
    RegistryError,
    RegistryUnavailable,
    SizeMismatch,
    Unauthorized,
)
from gateway.oci import transport
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest
from gateway.oci.store import Store
from tests.support.answers import BLOB, DATA, Answers, Handler, read


def _after(answers: Answers, faults: int, status: int, headers: dict[str, str] | None = None) -> None:
    """Answer the first requests with a status, then with the blob."""
    answers.answer = lambda handler: (
        handler.say(status, b"", **(headers or {})) if len(answers.seen) <= faults else handler.say(200, DATA)
    )


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_faults_are_tried_again(
    server: Answers, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    _after(server, 5, status)
    assert read(server.source()) == (0, DATA)
    assert len(server.seen) == 6


def test_waits_grow(server: Answers) -> None:
    _after(server, 3, 502)
    assert read(server.source()) == (0, DATA)
    timestamps = [seen.timestamp for seen in server.seen]
    for wait, before, after in zip((0.25, 0.5, 1.0), timestamps, timestamps[1:], strict=False):
        assert 0.8 * wait <= after - before < 1.2 * wait + 0.2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "when",
    ["1", format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)],
    ids=["in a second", "tomorrow"],
)
def test_a_server_says_when_to_come_back(
    server: Answers, monkeypatch: pytest.MonkeyPatch, status: int, when: str
) -> None:
    monkeypatch.setattr(transport, "_MAX_RETRY_AFTER", 1.0)
    _after(server, 1, status, {"Retry_After": when})
    assert read(server.source()) == (0, DATA)
    assert 1 <= server.seen[1].timestamp - server.seen[0].timestamp < 2


@pytest.mark.parametrize(
    ("status", "when"), [(429, "soon"), (429, "-5"), (503, "Thu, 01 Jan 1970 00:00:00 GMT"), (502, "60")]
)
def test_a_wish_that_does_not_count(server: Answers, status: int, when: str) -> None:
    _after(server, 1, status, {"Retry_After": when})
    assert read(server.source()) == (0, DATA)
    assert server.seen[1].timestamp - server.seen[0].timestamp < 0.5


def test_nobody_waits_past_the_end(server: Answers) -> None:
    server.answer = lambda handler: handler.say(429, Retry_After="1000000000")
    with pytest.raises(RegistryUnavailable, match=r"team/kit:v1: .* answered 429, 1 time"):
        read(server.source(pull_timeout=30.0))
    assert len(server.seen) == 1


def test_attempts_end(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    server.answer = lambda handler: handler.say(500)
    with pytest.raises(RegistryUnavailable, match="answered 500, 6 time"):
        read(server.source())
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    ("status", "is_away"), [(429, True), (502, True), (503, True), (504, True), (500, False), (408, False)]
)
def test_an_error_says_whether_the_registry_answers_anybody_and_when_to_come_back(
    server: Answers, monkeypatch: pytest.MonkeyPatch, status: int, is_away: bool
) -> None:
    monkeypatch.setattr(transport, "_MAX_PATIENCE", 0.001)
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    server.answer = lambda handler: handler.say(status, Retry_After="120")
    with pytest.raises(RegistryUnavailable) as caught:
        read(server.source())
    assert caught.value.away_host == (server.host if is_away else "")
    assert caught.value.retry_after == (120.0 if status in (429, 503) else 0.0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.away_host == caught.value.away_host


def test_a_registry_that_cannot_be_reached_is_away(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    source = server.source()
    server.shutdown()
    server.server_close()
    with pytest.raises(RegistryUnavailable, match="cannot be reached") as caught:
        read(source)
    assert caught.value.away_host == server.host


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, RegistryUnavailable), (403, Unauthorized), (404, NotFound), (405, RegistryUnavailable)]
    + [(status, RegistryUnavailable) for status in (410, 418, 204, 304)],
)
def test_permanent_failures_are_not_retried(server: Answers, status: int, error: type[RegistryError]) -> None:
    server.answer = lambda handler: handler.say(status, b'{"errors":[{"code":"DENIED\x1b[31m"}]}')
    with pytest.raises(error, match=rf"team/kit:v1: .*{status}") as caught:
        read(server.source())
    assert ("DENIED\N{REPLACEMENT CHARACTER}[31m" in str(caught.value)) == (status >= 400)
    assert len(server.seen) == 1


def test_head_may_be_unknown_or_say_too_little(server: Answers) -> None:
    server.answer = lambda handler: handler.say(405 if handler.command == "HEAD" else 200, DATA)
    assert server.source().resolve().digest == BLOB.digest
    server.answer = lambda handler: handler.say(200, DATA, Docker_Content_Digest="sha512:abc")
    assert server.source().resolve().digest == BLOB.digest
    assert [seen.method for seen in server.seen] == ["HEAD", "GET"] * 2


def test_a_redirect_leaves_the_password_behind(
    server: Answers, elsewhere: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: Handler) -> None:
        if handler.headers.get("Authorization") is None:
            handler.say(401, WWW_Authenticate='Basic realm="r"', Set_Cookie="a=b")
        elif handler.path != "/again":
            handler.say(307, Location="/again")
        else:
            handler.say(307, Location=f"{elsewhere.url}/signed?secret=1")

    server.answer = answer
    monkeypatch.setenv("PASSWORD", "secret")
    source = server.source(username="ci", password_env="PASSWORD")
    assert read(source) == (0, DATA)
    assert [seen.authorization is not None for seen in server.seen] == [False, True, True]
    assert not any("Cookie" in seen.headers for seen in server.seen)
    assert [(seen.path, seen.authorization) for seen in elsewhere.seen] == [("/signed?secret=1", None)]
    elsewhere.answer = lambda handler: handler.say(403)
    with pytest.raises(RegistryUnavailable, match=rf"{elsewhere.host} answered 403") as caught:
        read(source)
    assert "secret" not in str(caught.value)


def test_what_another_server_asks_for_is_not_answered(
    server: Answers, elsewhere: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda handler: handler.say(307, Location=f"{elsewhere.url}/blob")
    elsewhere.answer = lambda handler: handler.say(401, WWW_Authenticate='Basic realm="r"')
    monkeypatch.setenv("PASSWORD", "secret")
    with pytest.raises(RegistryUnavailable, match="answered 401"):
        read(server.source(username="ci", password_env="PASSWORD"))
    assert [seen.authorization for seen in elsewhere.seen] == [None]


def test_redirects_end(server: Answers) -> None:
    server.answer = lambda handler: handler.say(302, Location=handler.path)
    with pytest.raises(RegistryUnavailable, match="redirects more than 5 times"):
        read(server.source())
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://[::1/x", "http://x:99999/", "http://a:b@127.0.0.1/"],
)
def test_a_redirect_that_is_not_safe_is_refused(server: Answers, location: str) -> None:
    server.answer = lambda handler: handler.say(302, Location=location)
    with pytest.raises(RegistryUnavailable, match="which is not safe"):
        read(server.source())


def test_ranges(server: Answers) -> None:
    end = f"{len(DATA) - 1}/{len(DATA)}"
    server.answer = lambda handler: handler.say(206, DATA[1000:], Content_Range=f"bytes 1000-{end}")
    assert read(server.source(), 1000) == (1000, DATA[1000:])
    assert server.seen[0].headers["Range"] == "bytes=1000-"
    server.answer = lambda handler: handler.say(206, DATA[9:], Content_Range=f"bytes 9-{len(DATA) - 1}/*")
    assert read(server.source(), 9) == (9, DATA[9:])
    server.answer = lambda handler: handler.say(200, DATA)
    assert read(server.source(), 1000) == (0, DATA)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (416, {}),
        (206, {"Content_Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}),
        (206, {"Content_Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA) + 1}"}),
        (206, {"Content_Type": "multipart/byteranges; boundary=x"}),
    ],
)
def test_a_range_that_is_not_the_one_asked_for(server: Answers, status: int, headers: dict[str, str]) -> None:
    server.answer = lambda handler: (
        handler.say(status, b"x", **headers) if "Range" in handler.headers else handler.say(200, DATA)
    )
    assert read(server.source(), 1000) == (0, DATA)


@pytest.mark.parametrize("status", [200, 206])
def test_bytes_are_taken_as_they_are(server: Answers, status: int) -> None:
    server.answer = lambda handler: handler.say(status, DATA, Content_Encoding="gzip")
    with pytest.raises(RegistryUnavailable, match="encoded as 'gzip'"):
        read(server.source(), 5)
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x"])
def test_a_blob_of_another_size(server: Answers, tmp_path: Path, sent: bytes) -> None:
    server.answer = lambda handler: handler.say(200, sent)
    with pytest.raises(SizeMismatch, match=f"team/kit:v1: blob {BLOB.digest}"):
        Store(tmp_path / "store").fetch(BLOB, server.source())
    assert not list((tmp_path / "store" / "ingest").iterdir())


def test_a_manifest_that_is_not_what_was_promised(server: Answers) -> None:
    manifest = b"x" * 4_000_000
    server.answer = lambda handler: handler.say(200, manifest)
    promised = Descriptor("x/y", Digest.of(manifest), len(manifest))
    assert server.source().manifest(promised) == manifest
    with pytest.raises(DigestMismatch, match="has the digest"):
        server.source().manifest(Descriptor("x/y", BLOB.digest, len(manifest)))
    with pytest.raises(SizeMismatch, match="more"):
        server.source().manifest(BLOB)
    with pytest.raises(SizeMismatch, match="4 MiB are allowed"):
        server.source().manifest(Descriptor("x/y", BLOB.digest, 1 << 40))


def _endless(handler: Handler) -> None:
    handler.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not handler.server.stopping.is_set():
        handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def _long_head(handler: Handler) -> None:
    handler.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(160):
        handler.wfile.write(b"X-%d: %s\r\n" % (number, b"x" * 60_000))
    handler.wfile.write(b"\r\n")


def _continued(handler: Handler) -> None:
    handler.close_connection = True
    while not handler.server.stopping.is_set():
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def _long_fault(handler: Handler) -> None:
    handler.say(403, b"x" * 50_000_000)


def _long_redirect(handler: Handler) -> None:
    handler.send(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not handler.server.stopping.is_set():
        handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")


@pytest.mark.parametrize("answer", [_endless, _long_head, _continued, _long_fault, _long_redirect])
def test_what_never_ends_is_cut(server: Answers, answer: object) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server.answer = answer  # type: ignore[assignment]
    begun = time.monotonic()
    with pytest.raises((RegistryError, SizeMismatch)):
        server.source().resolve()
    assert time.monotonic() - begun < 5
    # The server is in this process; its 50 MB are not the client's.
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000 + (50_000 if answer is _long_fault else 0)
