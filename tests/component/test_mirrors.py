"""A registry behind mirrors that work, and behind mirrors that do not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.errors import InvalidReference, RegistryUnavailable
from gateway.oci.content import Descriptor, Source
from gateway.oci.options import RegistryOptions
from gateway.oci.reference import Digest
from tests.support.answers import BLOB, DATA, Answers, Handler, read, run_answers

_WRONG = bytes(reversed(DATA))


@pytest.fixture
def nearer() -> Iterator[Answers]:
    """A mirror that is asked before `elsewhere`."""
    with run_answers() as running:
        yield running


def _behind(server: Answers, *mirrors: str, **options: Any) -> Source:
    plain: dict[str, Any] = {"plain_http": True, "stall_timeout": 0.3, "pull_timeout": 20.0}
    registries = {mirror.partition("/")[0]: RegistryOptions(**{**plain, **options}) for mirror in mirrors}
    return server.with_options({**registries, server.host: RegistryOptions(**plain, mirrors=mirrors)})


def _half(handler: Handler) -> None:
    handler.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:5000])


def test_mirrors_are_asked_for_content_and_the_registry_for_names(
    server: Answers, elsewhere: Answers
) -> None:
    source = _behind(server, f"{elsewhere.host}/proxy/hub")
    assert source.manifest(BLOB) == DATA
    assert read(source) == (0, DATA)
    blob = f"/v2/proxy/hub/team/kit/blobs/{BLOB.digest}"
    assert elsewhere.paths() == [f"/v2/proxy/hub/team/kit/manifests/{BLOB.digest}", blob]
    assert not server.seen
    source.resolve()
    source.resolve_tag("other")
    server.answer = lambda handler: handler.say(404)
    source.referrers(BLOB.digest)
    assert len(elsewhere.seen) == 2
    assert str(source.reference) == f"{server.host}/team/kit:v1"


def test_mirrors_are_asked_in_order(server: Answers, nearer: Answers, elsewhere: Answers) -> None:
    nearer.answer = lambda handler: handler.say(404)
    source = _behind(server, nearer.host, elsewhere.host)
    assert read(source) == (0, DATA)
    assert read(source) == (0, DATA)
    assert (len(nearer.seen), len(elsewhere.seen), len(server.seen)) == (1, 2, 0)
    other = Descriptor("x/y", Digest.of(b""), 0)
    nearer.answer = lambda handler: handler.say(200)
    assert read(source, blob=other) == (0, b"")
    assert (len(nearer.seen), len(elsewhere.seen), len(server.seen)) == (2, 2, 0)


def _standing_still(handler: Handler) -> None:
    handler.close_connection = True
    handler.wait(5)


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.say(500),
        lambda handler: handler.say(403),
        lambda handler: handler.say(429, Retry_After="60"),
        lambda handler: handler.say(200, DATA, Content_Encoding="gzip"),
        lambda handler: handler.say(307, Location="file:///etc/passwd"),
        lambda handler: handler.send(b""),
        _standing_still,
    ],
)
def test_a_mirror_that_does_not_work_is_asked_once(
    server: Answers, elsewhere: Answers, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    elsewhere.answer = answer
    source = _behind(server, elsewhere.host)
    with caplog.at_level(logging.WARNING, "gateway.oci.mirrors"):
        assert source.manifest(BLOB) == DATA
        assert read(source) == (0, DATA)
    assert len(server.seen) == 2
    assert len(elsewhere.seen) <= 2
    (record,) = caplog.records
    assert record.getMessage() == "mirror skipped"
    fields = vars(record)
    assert fields["mirror"] == f"{elsewhere.host}/team/kit:v1"
    assert fields["reference"] == f"{server.host}/team/kit:v1"
    assert fields["digest"] == str(BLOB.digest)
    assert fields["reason"]


def test_a_mirror_that_is_down(server: Answers, elsewhere: Answers) -> None:
    elsewhere.shutdown()
    elsewhere.server_close()
    assert read(_behind(server, elsewhere.host)) == (0, DATA)


def test_a_mirror_with_another_manifest(server: Answers, elsewhere: Answers) -> None:
    for wrong in (_WRONG, DATA[:-1], DATA + b"x"):
        elsewhere.answer = lambda handler, wrong=wrong: handler.say(200, wrong)  # type: ignore[misc]
        assert _behind(server, elsewhere.host).manifest(BLOB) == DATA


def test_a_mirror_that_breaks_off_is_followed_by_the_next(
    server: Answers, nearer: Answers, elsewhere: Answers
) -> None:
    nearer.answer = _half
    elsewhere.answer = lambda handler: handler.say(
        206, DATA[5000:], Content_Range=f"bytes 5000-{len(DATA) - 1}/{len(DATA)}"
    )
    source = _behind(server, nearer.host, elsewhere.host)
    data: list[bytes] = []
    with source.blob(BLOB) as stream, pytest.raises(RegistryUnavailable, match="broke off"):
        data.extend(stream.chunks)
    start, rest = read(source, 5000)
    assert start == 5000
    assert b"".join(data) + rest == DATA
    assert not server.seen


def test_a_mirror_that_breaks_off_again_and_again_is_left(server: Answers, elsewhere: Answers) -> None:
    elsewhere.answer = _half
    source = _behind(server, elsewhere.host)
    for number in range(4):
        blob = Descriptor("x/y", Digest.of(b"%d" % number), len(DATA))
        with source.blob(blob) as stream:
            try:
                list(stream.chunks)
            except RegistryUnavailable:
                assert number < 2
    assert len(elsewhere.seen) == 2
    assert len(server.seen) == 2


def test_a_mirror_that_sent_wrong_bytes_is_asked_for_them_no_more(
    server: Answers, nearer: Answers, elsewhere: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    nearer.answer = lambda handler: handler.say(200, _WRONG)
    source = _behind(server, nearer.host, elsewhere.host)
    with source.blob(BLOB) as stream:
        assert b"".join(stream.chunks) == _WRONG
    assert stream.reject()
    with source.blob(BLOB) as stream:
        assert b"".join(stream.chunks) == DATA
    assert len(nearer.seen) == 1
    assert stream.reject()
    with source.blob(BLOB) as stream:
        assert b"".join(stream.chunks) == DATA
    assert len(server.seen) == 1
    assert not stream.reject()
    assert [record.getMessage() for record in caplog.records] == ["mirror sent wrong bytes"] * 2


def test_without_mirrors_there_is_nowhere_else(server: Answers) -> None:
    with server.source().blob(BLOB) as stream:
        assert not stream.reject()


def test_credentials_are_a_mirrors_own(
    server: Answers, elsewhere: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: Handler) -> None:
        if handler.headers.get("Authorization"):
            handler.say(200, DATA)
        else:
            handler.say(401, WWW_Authenticate='Basic realm="r"')

    server.answer = elsewhere.answer = answer
    monkeypatch.setenv("PASSWORD", "secret")
    source = _behind(server, elsewhere.host, username="ci", password_env="PASSWORD")
    assert read(source) == (0, DATA)
    assert not server.seen


@pytest.mark.parametrize("mirror", ["https://mirror.example.com", "", "mirror.example.com/UPPER"])
def test_a_mirror_must_be_a_host(server: Answers, mirror: str) -> None:
    with pytest.raises(InvalidReference):
        _behind(server, mirror)
