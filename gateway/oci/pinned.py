"""Pinned references: a reference whose digest is known, and the names of the version that it pins."""

from dataclasses import dataclass

from gateway.errors import InvalidReference
from gateway.oci.reference import Digest, Reference, parse_reference


@dataclass(frozen=True, slots=True)
class PinnedReference:
    """A reference with a digest: it names the same content for ever, and its tag is only a label.

    Raises InvalidReference for a reference without a digest.
    """

    reference: Reference

    def __post_init__(self) -> None:
        if self.reference.digest is None:
            raise InvalidReference(f"{self.reference} has no digest; write {self.reference}@sha256:HEX")

    @classmethod
    def parse(cls, text: str) -> "PinnedReference":
        """Parse a reference with a digest. Raises InvalidReference."""
        return cls(parse_reference(text))

    @classmethod
    def of(cls, reference: Reference, digest: Digest) -> "PinnedReference":
        """Pin a reference to the digest that it resolved to."""
        return cls(reference.pinned(digest))

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        assert self.reference.digest is not None
        return self.reference.digest

    @property
    def label(self) -> str:
        """What a client calls this version: the tag, else the digest's first 12 digits."""
        return self.reference.label

    @property
    def short(self) -> str:
        """The first 12 hex digits of the digest."""
        return self.digest.short

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of this version in a call's path: its label, its digest, and its first 12 digits."""
        return tuple(dict.fromkeys((self.label, str(self.digest), self.short)))

    def __str__(self) -> str:
        return str(self.reference)
