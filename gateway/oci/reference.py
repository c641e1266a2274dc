"""References and digests: the strings that name an artifact, as values that cannot be wrong.

Two forms are understood:

    HOST[:PORT]/REPOSITORY[:TAG][@sha256:HEX]           an artifact in a registry
    oci-layout:DIR:NAME[:TAG][@sha256:HEX]              an artifact in an OCI image layout on disk
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.errors import InvalidReference

_LAYOUT = "oci-layout:"
_DEFAULT_TAG = "latest"

# OCI distribution spec, "Pulling manifests": <name> and <reference>.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
# RFC 3986 host and port, without userinfo; the kit CLI knows a registry by a "." or ":" in it.
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_HEX = re.compile(r"[0-9a-f]{64}")
# Many clients cap host and name at 255 characters together (OCI distribution spec).
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Digest:
    """A sha256 digest: `algorithm` is "sha256", `hex` is 64 lower-case hexadecimal digits.

    Raises InvalidReference for anything else (OCI image spec, "Digests").
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if self.algorithm != "sha256":
            raise InvalidReference(f"digest algorithm {self.algorithm!r} is not supported; use sha256")
        if not _HEX.fullmatch(self.hex):
            raise InvalidReference(f"{str(self)!r} is not a sha256 digest; it needs 64 lower-case hex digits")

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read "sha256:HEX"; raises InvalidReference."""
        algorithm, colon, digits = text.partition(":")
        if not colon:
            raise InvalidReference(f"{text!r} is not a digest; write sha256:HEX")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes) -> "Digest":
        """Return the digest of these bytes."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """An artifact in a registry, by tag, by digest, or by both (the digest then decides)."""

    host: str
    repository: str
    tag: str | None
    digest: Digest | None

    def __post_init__(self) -> None:
        text = str(self)
        if not _HOST.fullmatch(self.host):
            raise InvalidReference(f"{text!r}: {self.host!r} is not a registry host; write HOST or HOST:PORT")
        _check_name(text, self.repository, self.tag, self.digest)
        if len(self.host) + len(self.repository) > _MAX_NAME:
            raise InvalidReference(f"{text!r}: host and repository have more than {_MAX_NAME} characters")

    @property
    def label(self) -> str:
        """What a client calls this version: the tag, else the digest's first 12 digits."""
        return _label(self.tag, self.digest)

    def pinned(self, digest: Digest) -> "RegistryReference":
        """Return the same reference with this digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{_suffix(self.tag, self.digest)}"


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An artifact in an OCI image layout directory, by name and tag, by digest, or by both."""

    directory: Path
    name: str
    tag: str | None
    digest: Digest | None

    def __post_init__(self) -> None:
        text = str(self)
        directory = str(self.directory)
        if ":" in directory or not directory.isprintable():
            raise InvalidReference(
                f"{text!r}: the directory of a layout has no ':' and no control characters in its name"
            )
        _check_name(text, self.name, self.tag, self.digest)

    @property
    def label(self) -> str:
        """What a client calls this version: the tag, else the digest's first 12 digits."""
        return _label(self.tag, self.digest)

    def pinned(self, digest: Digest) -> "LayoutReference":
        """Return the same reference with this digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return f"{_LAYOUT}{self.directory}:{self.name}{_suffix(self.tag, self.digest)}"


Reference = RegistryReference | LayoutReference


def parse_reference(text: str) -> Reference:
    """Read a reference; a missing tag and digest mean the tag "latest". Raises InvalidReference."""
    if text.startswith(_LAYOUT):
        directory, colon, name = text.removeprefix(_LAYOUT).partition(":")
        if not directory or not colon:
            raise InvalidReference(f"{text!r}: write oci-layout:DIR:NAME:TAG")
        return LayoutReference(Path(directory), *_split(name))
    host, slash, rest = text.partition("/")
    if not slash or not ("." in host or ":" in host):
        raise InvalidReference(
            f"{text!r} names no registry; write HOST/REPOSITORY:TAG, where HOST has a '.' or a ':PORT', "
            "or oci-layout:DIR:NAME:TAG"
        )
    return RegistryReference(host.lower(), *_split(rest))


def _split(text: str) -> tuple[str, str | None, Digest | None]:
    rest, at, digest = text.partition("@")
    name, colon, tag = rest.partition(":")
    if not colon and not at:
        return name, _DEFAULT_TAG, None
    return name, tag if colon else None, Digest.parse(digest) if at else None


def _check_name(text: str, name: str, tag: str | None, digest: Digest | None) -> None:
    if not _REPOSITORY.fullmatch(name):
        raise InvalidReference(
            f"{text!r}: {name!r} is not a repository name; "
            "it has lower-case letters, digits, and '.', '_', '-' or '/' between them"
        )
    if tag is not None and not _TAG.fullmatch(tag):
        raise InvalidReference(
            f"{text!r}: {tag!r} is not a tag; it has at most 128 letters, digits, '.', '_' and '-'"
        )
    if tag is None and digest is None:
        raise InvalidReference(f"{text!r} has neither a tag nor a digest")


def _label(tag: str | None, digest: Digest | None) -> str:
    if tag is not None:
        return tag
    assert digest is not None
    return digest.short


def _suffix(tag: str | None, digest: Digest | None) -> str:
    return (f":{tag}" if tag is not None else "") + (f"@{digest}" if digest is not None else "")
