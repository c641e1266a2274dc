from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidReference
from gateway.oci.reference import Digest, LayoutReference, Reference, RegistryReference, parse_reference

_component = st.from_regex(r"\A[a-z0-9]+(?:(?:\.|_|__|-{1,3})[a-z0-9]+){0,2}\Z")
_repository = st.lists(_component, min_size=1, max_size=4).map("/".join).filter(lambda name: len(name) < 200)
_tag = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_digest = st.binary(max_size=8).map(Digest.of)
_host = st.from_regex(r"\A[a-z0-9]{1,8}\.[a-z0-9]{1,8}(?::[0-9]{1,5})?\Z") | st.just("localhost:5000")
_directory = st.text(
    st.characters(blacklist_categories=["C", "Z"], blacklist_characters=":"), min_size=1
).map(Path)
_version = st.tuples(_tag, st.none()) | st.tuples(st.none(), _digest) | st.tuples(_tag, _digest)
_reference: st.SearchStrategy[Reference] = st.builds(
    lambda host, name, version: RegistryReference(host, name, *version), _host, _repository, _version
) | st.builds(
    lambda directory, name, version: LayoutReference(directory, name, *version),
    _directory,
    _repository,
    _version,
)


@settings(max_examples=300, deadline=None)
@given(_reference)
def test_what_is_written_is_read_back(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@settings(max_examples=100, deadline=None)
@given(_reference, _digest)
def test_pinning_keeps_all_but_the_digest(reference: Reference, digest: Digest) -> None:
    pinned = reference.pinned(digest)
    assert type(pinned) is type(reference)
    assert pinned.digest == digest
    assert pinned.tag == reference.tag
    assert parse_reference(str(pinned)) == pinned
    assert pinned.pinned(digest) == pinned


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=80) | st.text("ab./:@-_%? \\#0", max_size=30).map("r.io/".__add__))
def test_any_text_is_read_stably_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert parse_reference(str(reference)) == reference
    assert not set(str(reference)) & set("?#%\\ \n") or isinstance(reference, LayoutReference)


@given(st.binary())
def test_digests_are_read_back(data: bytes) -> None:
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex.startswith(digest.short)
