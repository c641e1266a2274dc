from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidReference
from gateway.oci.reference import (
    REFERENCE_PATTERN,
    Digest,
    LayoutReference,
    LocalReference,
    Reference,
    RegistryReference,
    is_kit_reference,
    parse_reference,
)
from gateway.oci.variant import AUTO, Variant

_component = st.from_regex(r"\A[a-z0-9]+(?:(?:\.|_|__|-{1,3})[a-z0-9]+){0,2}\Z").filter(
    lambda name: name not in ("sha256", "sha384", "sha512")
)
_repository = st.lists(_component, min_size=1, max_size=4).map("/".join).filter(lambda name: len(name) < 200)
_tag = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_digest = st.binary(max_size=8).map(Digest.of)
_port = st.integers(1, 65535).map(":{}".format)
_host = st.builds(
    str.__add__,
    st.from_regex(r"\A[a-z0-9]{1,8}\.[a-z][a-z0-9]{0,7}\Z") | st.sampled_from(["127.0.0.1", "[::1]"]),
    st.just("") | _port,
) | _port.map("localhost{}".format)
_local_host = _host | _host.map(str.upper)
_local_repository = _repository.filter(lambda name: "/" not in name or "." not in name.partition("/")[0])
_path = st.text(st.characters(blacklist_categories=["C", "Z"], blacklist_characters=":"), min_size=1).map(
    Path
)
_version = st.tuples(_tag, st.none()) | st.tuples(st.none(), _digest) | st.tuples(_tag, _digest)
_labels = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), min_size=1, max_size=3)
_variant = st.none() | st.just(AUTO) | _labels.map(Variant.of)
_plain: st.SearchStrategy[Reference] = (
    st.builds(
        lambda host, name, version: RegistryReference(host, name, *version), _host, _repository, _version
    )
    | st.builds(
        lambda path, name, version: LayoutReference(path, name, *version),
        _path,
        _local_repository | st.tuples(_local_host, _repository).map("/".join),
        _version,
    )
    | st.builds(
        lambda name, version: LocalReference("localhost", name, *version), _local_repository, _version
    )
    | st.builds(
        lambda host, name, version: LocalReference(host, name, *version), _local_host, _repository, _version
    )
    | _digest.map(lambda digest: LocalReference("localhost", "_", None, digest))
    | st.builds(lambda path, digest: LayoutReference(path, "_", None, digest), _path, _digest)
)
_reference = st.builds(lambda reference, variant: replace(reference, variant=variant), _plain, _variant)
_awkward = st.sampled_from(
    [
        "",
        "r.io/",
        "r.io:80/",
        "kit:",
        "kit:r.io/",
        "oci-layout:d:",
        "sha256:",
        "a@sha256:",
        "kit:sha256:",
        "//",
    ]
)
_text = st.text(max_size=80) | st.builds(
    str.__add__, _awkward, st.text("abA./:@-_%? \\#0,[]\0é\ud800", max_size=30)
)


@settings(max_examples=400, deadline=None)
@given(_reference)
def test_what_is_written_is_read_back(reference: Reference) -> None:
    parsed = parse_reference(str(reference))
    assert (type(parsed), parsed) == (type(reference), reference)


@settings(max_examples=150, deadline=None)
@given(_plain)
def test_what_can_be_written_matches_the_pattern_for_editors(reference: Reference) -> None:
    assert re.search(REFERENCE_PATTERN, str(reference))


@given(_text)
def test_any_text_that_is_read_matches_the_pattern_for_editors(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert reference.variant is not None or re.search(REFERENCE_PATTERN, text)


@given(_reference, _digest)
def test_pinning_keeps_all_but_the_digest(reference: Reference, digest: Digest) -> None:
    pinned = reference.pinned(digest)
    assert type(pinned) is type(reference)
    assert pinned.digest == digest
    assert pinned.tag == reference.tag
    assert parse_reference(str(pinned)) == pinned
    assert pinned.pinned(digest) == pinned


@settings(max_examples=1000, deadline=None)
@given(_text)
def test_any_text_is_read_stably_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        assert not is_kit_reference(text)
        return
    assert parse_reference(str(reference)) == reference
    assert not set(str(reference)) & set("?#%\\ \n") or isinstance(reference, LayoutReference)


@settings(max_examples=300, deadline=None)
@given(_host, _repository, _version)
def test_a_kit_is_called_alike_in_a_registry_and_in_kits_storage(
    host: str, name: str, version: tuple[str | None, Digest | None]
) -> None:
    registry = parse_reference(str(RegistryReference(host, name, *version)))
    local = parse_reference(f"kit:{registry}")
    assert local == LocalReference(host, name, *version)
    assert local.label == registry.label


@given(st.binary())
def test_digests_are_read_back(data: bytes) -> None:
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex.startswith(digest.short)
