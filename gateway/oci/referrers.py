"""The referrers of a manifest, as registries list them (OCI distribution spec, "Listing Referrers")."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.oci.content import Descriptor
from gateway.oci.documents import DescriptorDocument, read_json
from gateway.oci.reference import Digest


class _Index(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    manifests: list[Any]


class _Entry(DescriptorDocument):
    artifact_type: str | None = Field(alias="artifactType", default=None, max_length=255)


def parse_referrers(data: bytes) -> list[Descriptor] | None:
    """Return the entries of an index of referrers; None where this is no index.

    Entries that cannot be used, such as those with digests other than sha256, are left out.
    """
    try:
        items = _Index.model_validate(read_json(data)).manifests
    except ValueError:
        return None
    referrers = []
    for item in items:
        try:
            entry = _Entry.model_validate(item)
        except ValidationError:
            continue
        referrers.append(
            Descriptor(
                entry.media_type, entry.digest, entry.size, entry.annotations or {}, entry.artifact_type
            )
        )
    return referrers


def fallback_tag(digest: Digest) -> str:
    """Return the tag of the index of referrers in registries without the referrers API."""
    return f"{digest.algorithm}-{digest.hex}"
