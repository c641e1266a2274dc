"""Other tags, and lists of referrers in all the forms that registries give them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import NotFound, RegistryUnavailable, Unauthorized
from gateway.oci.content import MAX_REFERRERS, OCI_INDEX, OCI_MANIFEST, Descriptor
from gateway.oci.reference import Digest
from tests.support.answers import BLOB, DATA, Answers, Handler

_API = f"/v2/team/kit/referrers/{BLOB.digest}"
_TAG = f"/v2/team/kit/manifests/sha256-{BLOB.digest.hex}"


def _entry(number: int, **members: Any) -> dict[str, Any]:
    return {
        "mediaType": OCI_MANIFEST,
        "digest": str(Digest.of(b"%d" % number)),
        "size": number,
        "artifactType": "application/x.signature",
        **members,
    }


def _descriptor(number: int) -> Descriptor:
    return Descriptor(OCI_MANIFEST, Digest.of(b"%d" % number), number, {}, "application/x.signature")


def _index(*entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}).encode()


def _serve(server: Answers, **answers: tuple[int, bytes]) -> None:
    """Answer for `api` and `tag`; 404 for what is not said."""
    paths = {_API: answers.get("api", (404, b"")), _TAG: answers.get("tag", (404, b""))}
    server.answer = lambda handler: handler.say(*paths[handler.path], Content_Type=OCI_INDEX)


def test_the_api_is_asked(server: Answers) -> None:
    _serve(server, api=(200, _index(_entry(1), _entry(2, annotations={"a": "b"}))))
    first, second = server.source().referrers(BLOB.digest)
    assert first == _descriptor(1)
    assert second.annotations == {"a": "b"}
    assert server.paths() == [_API]


def test_none_is_an_answer(server: Answers) -> None:
    _serve(server, api=(200, _index()), tag=(200, _index(_entry(1))))
    assert server.source().referrers(BLOB.digest) == ()


@pytest.mark.parametrize("status", [404, 400, 405, 406, 501])
def test_the_tag_stands_in_for_the_api(server: Answers, status: int) -> None:
    _serve(server, api=(status, b"?"), tag=(200, _index(_entry(1))))
    assert server.source().referrers(BLOB.digest) == (_descriptor(1),)
    assert server.paths() == [_API, _TAG]


def test_a_page_of_something_else_is_no_list(server: Answers) -> None:
    _serve(server, api=(200, b"<html>"), tag=(200, _index(_entry(1))))
    assert server.source().referrers(BLOB.digest) == (_descriptor(1),)


@pytest.mark.parametrize("tag", [(404, b""), (200, b"<html>"), (200, b'{"manifests": null}'), (200, b"[]")])
def test_nobody_knows_of_any(server: Answers, tag: tuple[int, bytes]) -> None:
    _serve(server, tag=tag)
    assert server.source().referrers(BLOB.digest) == ()


def test_faults_are_not_taken_for_none(server: Answers) -> None:
    _serve(server, api=(403, b""))
    with pytest.raises(Unauthorized):
        server.source().referrers(BLOB.digest)
    _serve(server, tag=(401, b""))
    with pytest.raises(Unauthorized):
        server.source().referrers(BLOB.digest)
    _serve(server, api=(500, b""))
    with pytest.raises(RegistryUnavailable):
        server.source(pull_timeout=0.1).referrers(BLOB.digest)


def test_entries_that_cannot_be_used_are_left_out(server: Answers) -> None:
    broken = [_entry(1, digest="sha512:" + "0" * 128), _entry(2, size=-1), "x", None, _entry(3)]
    _serve(server, api=(200, _index(*broken)))
    assert server.source().referrers(BLOB.digest) == (_descriptor(3),)


def _paged(server: Answers, link: str, *, last: int = 10**9) -> None:
    def answer(handler: Handler) -> None:
        page = len(server.seen)
        headers = {"Link": link.replace("PAGE", str(page + 1))} if page < last else {}
        handler.say(200, _index(_entry(page)) if page % 2 else _index(), **headers)

    server.answer = answer


@pytest.mark.parametrize("link", [f'<{_API}?page=PAGE>; rel="next"', "<?page=PAGE>; rel=next"])
def test_pages_are_followed(server: Answers, link: str) -> None:
    _paged(server, link, last=5)
    assert server.source().referrers(BLOB.digest) == tuple(map(_descriptor, (1, 3, 5)))
    assert server.paths()[1:] == [f"{_API}?page={page}" for page in range(2, 6)]


def test_pages_end(server: Answers) -> None:
    _paged(server, '<?page=PAGE>; rel="next"')
    assert len(server.source().referrers(BLOB.digest)) == 50
    assert len(server.seen) == 100


def test_there_may_be_too_many(server: Answers) -> None:
    _serve(server, api=(200, _index(*map(_entry, range(1000)))))
    assert server.source().referrers(BLOB.digest) == tuple(map(_descriptor, range(MAX_REFERRERS)))


@pytest.mark.parametrize("link", ["https://HOST/x", "http://HOST:1/x", "//example.com/x", "http://[::1/x"])
def test_pages_of_another_server_are_refused(server: Answers, link: str) -> None:
    _paged(server, f'<{link.replace("HOST", "127.0.0.1")}>; rel="next"')
    with pytest.raises(RegistryUnavailable, match="list of referrers is at another address"):
        server.source().referrers(BLOB.digest)


def test_a_list_that_breaks_off_is_asked_for_again(server: Answers) -> None:
    whole = _index(_entry(1))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
    server.answer = lambda handler: handler.send(head + whole[: 20 if len(server.seen) == 1 else None])
    assert server.source().referrers(BLOB.digest) == (_descriptor(1),)
    assert len(server.seen) == 2


def test_a_list_that_is_too_long_is_none(server: Answers) -> None:
    _serve(server, api=(200, _index(_entry(1)) + b" " * (4 << 20)), tag=(200, _index(_entry(2))))
    assert server.source().referrers(BLOB.digest) == (_descriptor(2),)


def test_other_tags(server: Answers) -> None:
    def answer(handler: Handler) -> None:
        is_known = handler.path.endswith("/known.sig")
        handler.say(
            200 if is_known else 404, DATA, Docker_Content_Digest=str(BLOB.digest), Content_Type="x/y; a=b"
        )

    server.answer = answer
    source = server.source()
    assert source.resolve_tag("known.sig") == BLOB
    assert source.resolve_tag("unknown.sig") is None
    with pytest.raises(NotFound):
        source.resolve()
    server.answer = lambda handler: handler.say(403)
    with pytest.raises(Unauthorized):
        source.resolve_tag("known.sig")
