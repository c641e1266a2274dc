from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import InvalidReference
from gateway.oci.reference import (
    Digest,
    LayoutReference,
    LocalReference,
    Reference,
    RegistryReference,
    is_kit_reference,
    parse_reference,
)

DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r.example.com/team/iris:v1", RegistryReference("r.example.com", "team/iris", "v1", None)),
        ("r.example.com/iris", RegistryReference("r.example.com", "iris", "latest", None)),
        ("localhost:5000/iris:v1", RegistryReference("localhost:5000", "iris", "v1", None)),
        ("[::1]:5000/iris:v1", RegistryReference("[::1]:5000", "iris", "v1", None)),
        ("127.0.0.1/iris", RegistryReference("127.0.0.1", "iris", "latest", None)),
        ("R.Example.com/iris:V1", RegistryReference("r.example.com", "iris", "V1", None)),
        (f"r.io/iris@{DIGEST}", RegistryReference("r.io", "iris", None, DIGEST)),
        (f"r.io/iris:v1@{DIGEST}", RegistryReference("r.io", "iris", "v1", DIGEST)),
        (f"r.io/iris:-@{DIGEST}", RegistryReference("r.io", "iris", None, DIGEST)),
        (f"r.io/iris:a:b@{DIGEST}", RegistryReference("r.io", "iris", None, DIGEST)),
        ("oci-layout:a/b:team/iris:v1", LayoutReference(Path("a/b"), "team/iris", "v1", None)),
        ("oci-layout:/a b/c#1:iris", LayoutReference(Path("/a b/c#1"), "iris", "latest", None)),
        (f"oci-layout:.:iris@{DIGEST}", LayoutReference(Path(), "iris", None, DIGEST)),
        ("oci-layout:a.tar:r.io:80/iris:v1", LayoutReference(Path("a.tar"), "r.io:80/iris", "v1", None)),
        (f"oci-layout:a.tar:{DIGEST}", LayoutReference(Path("a.tar"), "_", None, DIGEST)),
        ("iris", LocalReference("localhost", "iris", "latest", None)),
        ("org/iris:v1", LocalReference("localhost", "org/iris", "v1", None)),
        ("localhost/iris:v1", LocalReference("localhost", "localhost/iris", "v1", None)),
        ("2130706433/iris", LocalReference("localhost", "2130706433/iris", "latest", None)),
        (f"iris:v1@{DIGEST}", LocalReference("localhost", "iris", "v1", DIGEST)),
        (str(DIGEST), LocalReference("localhost", "_", None, DIGEST)),
        ("kit:iris", LocalReference("localhost", "iris", "latest", None)),
        ("kit:kit:v1", LocalReference("localhost", "kit", "v1", None)),
        ("kit:127.0.0.1:5055/iris:v1", LocalReference("127.0.0.1:5055", "iris", "v1", None)),
        ("kit:R.io/iris:v1", LocalReference("R.io", "iris", "v1", None)),
        (f"kit:{DIGEST}", LocalReference("localhost", "_", None, DIGEST)),
    ],
)
def test_what_a_reference_names(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "registry", "repository", "version"),
    [
        ("testregistry.io/test-organization/test-repository:test-tag",
         "testregistry.io", "test-organization/test-repository", "test-tag"),
        (str(DIGEST), "localhost", "_", str(DIGEST)),
        ("a/b/c/d", "localhost", "a/b/c/d", "latest"),
        ("test.io/a/b/c/d", "test.io", "a/b/c/d", "latest"),
        (f"testrepo@{DIGEST}", "localhost", "testrepo", str(DIGEST)),
        (f"testrepo:ignoredtag@{DIGEST}", "localhost", "testrepo", str(DIGEST)),
        (f"testorg/testrepo@{DIGEST}", "localhost", "testorg/testrepo", str(DIGEST)),
        (f"testorg.com/testrepo@{DIGEST}", "testorg.com", "testrepo", str(DIGEST)),
    ],
)  # fmt: skip
def test_names_are_read_as_kit_reads_them(text: str, registry: str, repository: str, version: str) -> None:
    reference = parse_reference(text)
    assert not isinstance(reference, LayoutReference)
    host = reference.host if isinstance(reference, RegistryReference) else reference.registry
    assert (host, reference.repository) == (registry, repository)
    assert str(reference.digest or reference.tag) == version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a reference is empty; write HOST"),
        ("r.io/Team/iris", "lower-case letters"),
        ("Iris:v1", "lower-case letters"),
        ("r.io/a//b", "not a repository name"),
        ("r.io/../b", "not a repository name"),
        ("../b", "not a registry host"),
        ("/iris", "not a repository name"),
        ("_", "not a repository name"),
        (".", "not a repository name"),
        ("r.io/_", "not a repository name"),
        ("r.io/iris:", "not a tag"),
        ("r.io/iris:a:b", "not a tag"),
        (f"r.io/iris:{'a' * 129}", "not a tag"),
        (f"r.io/{'a' * 256}", "not a repository name|more than 255"),
        ("r.io/iris:v1,v2", "several tags"),
        (f"iris:v1,v2@{DIGEST}", "several tags"),
        ("r.io/iris:v1 ", "has ' ' in it"),
        ("r.io/iris:v1\n", r"has '\\n' in it"),
        ("r.io/iris?x=1", r"has '\?' in it"),
        ("r.io/iris#x", "has '#' in it"),
        ("r.io/ir%2fis", "has '%' in it"),
        ("r.io\\iris:v1", "has '.*' in it"),
        ("r.io/iris\0", "in it"),
        ("r.io/iris\ud800", "in it"),
        ("https://r.io/iris:v1", "no 'https://' before it; write HOST/REPOSITORY:TAG"),
        ("http://r.io/iris:v1", "`plain_http: true`"),
        ("oci://r.io/iris", "no 'oci://' before it"),
        ("docker://r.io/iris", "no 'docker://' before it"),
        ("kit://r.io/iris", "no 'kit://' before it"),
        ("file:///etc/passwd", "no 'file://' before it"),
        ("kit:kit://iris", "no 'kit://' before it"),
        ("file:/etc/passwd", "not a registry host"),
        ("kit:5000/iris:v1@x", "no sha256 digest"),
        ("r.io:0/iris", "not a port"),
        ("r.io:65536/iris", "not a port"),
        ("r.io:/iris", "not a registry host"),
        ("-r.io/iris", "not a registry host"),
        ("r..io/iris", "not a registry host"),
        ("r.io./iris", "not a registry host"),
        ("ｒ.io/iris", "not a registry host"),
        ("2130706433:80/iris", "no IP address"),
        ("127.1/iris", "no IP address"),
        ("0x7f.0.0.1/iris", "no IP address|not a registry host"),
        ("127.0.0.0x1/iris", "no IP address"),
        ("127.0.0.01/iris", "no IP address"),
        ("[::g]/iris", "not a registry host"),
        ("[:::]:80/iris", "no IP address"),
        ("[fe80::1%eth0]:80/iris", "has '%' in it"),
        ("oci-layout:", "write oci-layout:PATH:NAME:TAG"),
        ("oci-layout:dir", "write oci-layout:PATH:NAME:TAG"),
        ("oci-layout:dir:", "write oci-layout:PATH:NAME:TAG"),
        ("oci-layout::iris:v1", "write oci-layout:PATH:NAME:TAG"),
        ("oci-layout:a\0b:iris:v1", "no control characters"),
        ("oci-layout:dir:Iris:v1", "lower-case letters"),
        ("kit:", "not a repository name"),
        ("kit:a b", "has ' ' in it"),
        ("r.io/" + "a" * 1_000_000, "at most 8192 characters"),
    ],
)  # fmt: skip
def test_what_names_nothing(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference, match=reason) as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:abc",
        "sha256:../../etc/passwd",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63 + "\0",
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "\N{ARABIC-INDIC DIGIT ONE}" * 64,
        "sha256:" + "a" * 1_000_000,
        "sha256-" + "a" * 64,
        "md5:" + "a" * 32,
        "sha512:" + "a" * 128,
        "a" * 64,
    ],
)
def test_other_digests_are_refused_in_every_form(digest: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Digest.parse(digest)
    assert len(str(caught.value)) < 300
    for form in ("r.io/iris@{}", "r.io/iris:v1@{}", "iris@{}", "kit:r.io/iris@{}", "oci-layout:d:iris@{}"):
        with pytest.raises(InvalidReference):
            parse_reference(form.format(digest))
    if digest.startswith(("sha256:", "sha512:")):
        for form in ("{}", "kit:{}", "oci-layout:d:{}"):
            with pytest.raises(InvalidReference):
                parse_reference(form.format(digest))


@pytest.mark.parametrize(
    "text",
    [
        "user:hunter2@r.io/iris:v1",
        "user:hunter2@r.io/iris@" + str(DIGEST),
        "hunter2@r.io:80/iris",
        "https://user:hunter2@r.io/iris",
        "http://user:hunter2@r.io",
        "user:hun/hunter2@r.io/iris",
        "user:hunter2#%@r.io/iris",
        "kit:user:hunter2@r.io/iris",
        "oci-layout:d:user:hunter2@r.io/iris",
    ],
)
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("registry", "repository", "tag"),
    [
        ("localhost", "r.io/iris", "v1"),
        ("registry", "iris", "v1"),
        ("r.io", "sha256", "v1"),
        ("localhost", "sha256", "a" * 64),
        ("localhost", "_", "v1"),
        ("r.io", "_", "v1"),
        ("", "iris", "v1"),
        ("localhost", "iris", None),
    ],
)
def test_what_kit_cannot_have_in_its_storage(registry: str, repository: str, tag: str | None) -> None:
    with pytest.raises(InvalidReference):
        LocalReference(registry, repository, tag, None)


@pytest.mark.parametrize("host", ["localhost", "registry", "R.io", "kit:5000", "oci-layout:80", "r.io/x", ""])
def test_a_host_that_is_written_would_be_read_as_one(host: str) -> None:
    with pytest.raises(InvalidReference):
        RegistryReference(host, "iris", "v1", None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("r.io/team/base:v1", True),
        ("127.0.0.1:5055/samples/iris", True),
        ("base:v1", True),
        ("org/base:v1", True),
        (f"org/base@{DIGEST}", True),
        (str(DIGEST), True),
        ("weights:v1.onnx", True),
        ("", False),
        ("org/base", False),
        ("r.io/base", False),
        ("model.onnx", False),
        ("./models/a:b.onnx", False),
        ("C:\\model.onnx", False),
        ("Models:v1", False),
        ("kit:base:v1", False),
        ("oci-layout:d:base:v1", False),
        ("https://r.io/base:v1", False),
    ],
)
def test_which_model_paths_are_kits(path: str, expected: bool) -> None:
    assert is_kit_reference(path) is expected


def test_labels() -> None:
    tagged = parse_reference("r.io/iris:v1")
    assert tagged.label == "v1"
    assert tagged.pinned(DIGEST).label == "v1"
    assert str(tagged.pinned(DIGEST)) == f"r.io/iris:v1@{DIGEST}"
    for text in (f"r.io/iris@{DIGEST}", f"iris@{DIGEST}", str(DIGEST), f"oci-layout:d:iris@{DIGEST}"):
        assert parse_reference(text).label == DIGEST.short == "e3b0c44298fc"
    local = parse_reference("kit:r.io/iris:v1")
    assert (local.label, str(local.pinned(DIGEST))) == ("v1", f"kit:r.io/iris:v1@{DIGEST}")
