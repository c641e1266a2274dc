"""References and digests: the strings that name an artifact, parsed into values that are always valid.

    HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]       in a registry; HOST has a "." in it, or a port behind it
    REPOSITORY[:TAG][@DIGEST], DIGEST           in the local storage of the kit command line
    kit:[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST] in that storage too, also what was packed for a registry
    oci-layout:PATH:NAME[:TAG][@DIGEST]         in an OCI image layout on disk, a directory or a tar file

The first two are read as kit reads them, with one difference: what begins like a digest must be one.
The default tag is "latest". A tag beside a digest is only a label: the digest decides. Behind any of them,
"[quantization=q4_0]" or "[auto]" says which entry of an index is meant (see `variant`).
"""

import hashlib
import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.errors import InvalidReference
from gateway.oci.variant import Variant

_LAYOUT = "oci-layout:"
_KIT = "kit:"
_DEFAULT_TAG = "latest"
# What kit writes for "no registry" and "no repository".
LOCAL = "localhost"
_NAMELESS = "_"

# OCI distribution spec, "Pulling manifests": <name> and <reference>.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
# RFC 3986 host and port, without userinfo.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::([0-9]{{1,5}}))?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_HEX = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)")
_ALGORITHMS = ("sha256", "sha384", "sha512")
_DIGESTS = tuple(f"{algorithm}:" for algorithm in _ALGORITHMS)
REFERENCE_PATTERN = (
    r"^(oci-layout:[^:]+:|kit:)?"
    rf"(((?:[a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?/)?(?:{_REPOSITORY.pattern})"
    rf"(:{_TAG.pattern}|(:[^@]*)?@sha256:[0-9a-f]{{64}})?|sha256:[0-9a-f]{{64}})$"
)
"""What every reference without a variant looks like, as a regular expression of ECMA-262 too, for editors;
`parse_reference` refuses more."""
# Many clients limit host and name together to 255 characters (OCI distribution spec).
_MAX_NAME = 255
_MAX_TEXT = 8192
_FORMS = "write HOST/REPOSITORY:TAG, kit:NAME:TAG or oci-layout:PATH:NAME:TAG"


@dataclass(frozen=True, slots=True)
class Digest:
    """A sha256 digest: `algorithm` is "sha256", `hex` is 64 lower-case hexadecimal digits.

    Raises InvalidReference for anything else (OCI image spec, "Digests").
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if self.algorithm != "sha256":
            raise InvalidReference(f"digest algorithm {self.algorithm[:80]!r} is not supported; use sha256")
        if not _HEX.fullmatch(self.hex):
            raise InvalidReference(
                f"{str(self)[:80]!r} is not a sha256 digest; it needs 64 lower-case hex digits"
            )

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read "sha256:HEX"; raises InvalidReference."""
        algorithm, colon, digits = text.partition(":")
        if not colon:
            raise InvalidReference(f"{text[:80]!r} is not a digest; write sha256:HEX")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes) -> "Digest":
        """Return the digest of these bytes."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hex digits: what people and URLs call a digest by."""
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
    variant: Variant | None = None
    """The entry that is meant of an index; None where its only kit is, or it is no index."""

    def __post_init__(self) -> None:
        text = str(self)
        _check_host(text, self.host)
        _check_name(text, self.repository, self.tag, self.digest)
        if len(self.host) + len(self.repository) > _MAX_NAME:
            raise InvalidReference(f"{text!r}: host and repository have more than {_MAX_NAME} characters")

    @property
    def label(self) -> str:
        """What a client calls this version: the tag, else the digest's first 12 digits."""
        return _label(self.tag, self.digest)

    def pinned(self, digest: Digest) -> "RegistryReference":
        """Return the same reference with the digest of what it names, which has no variants."""
        return replace(self, digest=digest, variant=None)

    def __str__(self) -> str:
        return f"{self.host}/{_format_name(self.repository, self.tag, self.digest, self.variant)}"


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An artifact in an OCI image layout on disk, by name and tag, by digest, or by both.

    `path` is a directory or a tar file. `name` may begin with a registry's host. A digest without a
    name has the name "_".
    """

    path: Path
    name: str
    tag: str | None
    digest: Digest | None
    variant: Variant | None = None
    """The entry that is meant of an index; None where its only kit is, or it is no index."""

    def __post_init__(self) -> None:
        text = str(self)
        path = str(self.path)
        if ":" in path or not path.isprintable():
            raise InvalidReference(
                f"{text!r}: the path of a layout has no ':' and no control characters in it"
            )
        _check_local(text, self.name, self.tag, self.digest)

    @property
    def label(self) -> str:
        """What a client calls this version: the tag, else the digest's first 12 digits."""
        return _label(self.tag, self.digest)

    def pinned(self, digest: Digest) -> "LayoutReference":
        """Return the same reference with the digest of what it names, which has no variants."""
        return replace(self, digest=digest, variant=None)

    def __str__(self) -> str:
        return f"{_LAYOUT}{self.path}:{_format_name(self.name, self.tag, self.digest, self.variant)}"

    @property
    def written(self) -> str:
        """The same as people write it: without the usual tag, as the name may have been meant as one."""
        is_usual = self.tag == _DEFAULT_TAG and self.digest is None
        tag = None if is_usual else self.tag
        return f"{_LAYOUT}{self.path}:{_format_name(self.name, tag, self.digest, self.variant)}"


@dataclass(frozen=True, slots=True)
class LocalReference:
    """An artifact in the local storage of the kit command line.

    `registry` is the host it was packed for or pulled from, as it was written then; LOCAL for none. A
    digest without a name has the repository "_".
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None
    variant: Variant | None = None
    """The entry that is meant of an index; None where its only kit is, or it is no index."""

    def __post_init__(self) -> None:
        text = str(self)
        if _split_host(self.name) != (self.registry, self.repository):
            raise InvalidReference(
                f"{text!r}: {self.registry!r} is not a registry of kit's; it has a '.' or ':', or is {LOCAL}"
            )
        _check_local(text, self.name, self.tag, self.digest)

    @property
    def name(self) -> str:
        """The name without tag and digest, as kit shows it."""
        return self.repository if self.registry == LOCAL else f"{self.registry}/{self.repository}"

    @property
    def label(self) -> str:
        """What a client calls this version: the tag, else the digest's first 12 digits."""
        return _label(self.tag, self.digest)

    def pinned(self, digest: Digest) -> "LocalReference":
        """Return the same reference with the digest of what it names, which has no variants."""
        return replace(self, digest=digest, variant=None)

    def __str__(self) -> str:
        return f"{_KIT}{_format_name(self.name, self.tag, self.digest, self.variant)}"


Reference = RegistryReference | LayoutReference | LocalReference


def parse_reference(text: str) -> Reference:
    """Read a reference; a missing tag and digest mean the tag "latest". Raises InvalidReference."""
    if not text:
        raise InvalidReference(f"a reference is empty; {_FORMS}")
    if len(text) > _MAX_TEXT:
        raise InvalidReference(f"a reference has at most {_MAX_TEXT} characters; this has {len(text)}")
    rest, bracket, variant = text.removesuffix("]").rpartition("[") if text.endswith("]") else ("", "", "")
    if bracket and rest:
        return replace(_parse_reference(rest), variant=Variant.parse(variant))
    return _parse_reference(text)


def _parse_reference(text: str) -> Reference:
    """Read a reference without a variant."""
    if text.startswith(_LAYOUT):
        path, _, name = text.removeprefix(_LAYOUT).partition(":")
        if not path or not name:
            raise InvalidReference(f"{text!r}: write oci-layout:PATH:NAME:TAG")
        return LayoutReference(Path(path), *_parse_name(name))
    if text.startswith(_KIT) and not _SCHEME.match(text):
        name, tag, digest = _parse_name(text.removeprefix(_KIT))
        return LocalReference(*_split_host(name), tag, digest)
    name, tag, digest = _parse_name(text)
    host, repository = _split_host(name)
    if host == LOCAL:
        return LocalReference(host, repository, tag, digest)
    return RegistryReference(host.lower(), repository, tag, digest)


def is_kit_reference(text: str) -> bool:
    """Tell whether kit takes a Kitfile's `model.path` for a reference rather than a file.

    It does where the path has a ":" or "@" in it and parses as a reference. `kit:` and `oci-layout:` are
    forms of Kitserve, which kit takes for paths.
    """
    if not (":" in text or "@" in text) or text.startswith((_LAYOUT, _KIT)):
        return False
    try:
        return parse_reference(text).variant is None
    except InvalidReference:
        return False


def _parse_name(text: str) -> tuple[str, str | None, Digest | None]:
    """Parse [HOST/]REPOSITORY[:TAG][@DIGEST], or a digest alone, into name, tag and digest."""
    _check_characters(text)
    if text.startswith(_DIGESTS):
        return _NAMELESS, None, Digest.parse(text)
    host, rest = _split_host(text)
    rest, separator, digest = rest.partition("@")
    name, colon, tag = rest.partition(":")
    if host != LOCAL:
        name = f"{host}/{name}"
    if separator:
        # Like kit, accept any tag before a digest; only a valid one is kept, as the label.
        return name, tag if _TAG.fullmatch(tag) else None, Digest.parse(digest)
    return name, tag if colon else _DEFAULT_TAG, None


def _split_host(name: str) -> tuple[str, str]:
    """Split a name as kit does: a first part with "." or ":" in it is a registry's host."""
    host, slash, repository = name.partition("/")
    return (host, repository) if slash and ("." in host or ":" in host) else (LOCAL, name)


def _check_characters(text: str) -> None:
    # Text before an "@" or behind a scheme may hold a password, so no message repeats it.
    if scheme := _SCHEME.match(text):
        plain = "; `plain_http: true` in a registry's options says http" if scheme[1] == "http://" else ""
        raise InvalidReference(f"a reference has no {scheme[1]!r} before it; {_FORMS}{plain}")
    after = text.rpartition("@")[2]
    if "@" in text and (not after.startswith(_DIGESTS) or ("@" in text.partition("/")[0] and "/" in text)):
        raise InvalidReference(
            f"{after[:80]!r} follows an '@' and is no sha256 digest; write REPOSITORY@sha256:HEX, and put a "
            "username and password into the options of the registry"
        )
    if "," in text:
        raise InvalidReference(f"{text!r} has several tags; write one reference for each")
    if bad := next((c for c in text if c in "#?%\\" or c.isspace() or not c.isprintable()), None):
        raise InvalidReference(f"{text!r} has {bad!r} in it, which no reference may have; {_FORMS}")


def _check_host(text: str, host: str) -> None:
    parts = _HOST.fullmatch(host)
    if parts is None or host != host.lower() or not ("." in host or ":" in host):
        raise InvalidReference(f"{text!r}: {host!r} is not a registry host; write HOST.DOMAIN or HOST:PORT")
    if f"{parts[1]}:" in (_KIT, _LAYOUT):
        raise InvalidReference(
            f"{text!r}: the registry host {host!r} reads like the form {parts[1]}:NAME; "
            "give the host another name"
        )
    if parts[2] is not None and not 0 < int(parts[2]) < 2**16:
        raise InvalidReference(f"{text!r}: {parts[2]} is not a port")
    try:
        if parts[1].startswith("["):
            ipaddress.IPv6Address(parts[1][1:-1])
        elif _NUMBER.fullmatch(parts[1].rpartition(".")[2]):
            # Resolvers take 127.1, 0x7f.1 and 2130706433 for addresses, too; people do not.
            ipaddress.IPv4Address(parts[1])
    except ValueError:
        raise InvalidReference(
            f"{text!r}: {parts[1]!r} is no IP address in its usual form, such as 127.0.0.1 or [::1]"
        ) from None


def _check_local(text: str, name: str, tag: str | None, digest: Digest | None) -> None:
    """Check a name that may begin with a host, or be missing beside a digest."""
    host, repository = _split_host(name)
    if not _HOST.fullmatch(host):
        raise InvalidReference(f"{text!r}: {host!r} is not a registry host; write HOST.DOMAIN or HOST:PORT")
    if repository in _ALGORITHMS:
        raise InvalidReference(f"{text!r}: {repository!r} begins a digest, sha256:HEX, and is no name")
    if name == _NAMELESS and tag is None and digest is not None:
        return
    _check_name(text, repository, tag, digest)


def _check_name(text: str, name: str, tag: str | None, digest: Digest | None) -> None:
    if not _REPOSITORY.fullmatch(name) or len(name) > _MAX_NAME:
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


def _format_name(name: str, tag: str | None, digest: Digest | None, variant: Variant | None) -> str:
    entry = "" if variant is None else f"[{variant}]"
    if name == _NAMELESS:
        return f"{digest}{entry}"
    return (
        name + (f":{tag}" if tag is not None else "") + (f"@{digest}" if digest is not None else "") + entry
    )
