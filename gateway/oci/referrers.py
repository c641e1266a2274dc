"""Lists of manifests, as registries give them (OCI distribution spec, "Listing Referrers")."""

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


def read_list(data: bytes) -> list[Descriptor] | None:
    """Return the manifests that an index lists; None for what is no index.

    Entries that cannot be used, such as those with other digests than sha256, are left out.
    """
    try:
        listed = _Index.model_validate(read_json(data)).manifests
    except ValueError:
        return None
    found = []
    for item in listed:
        try:
            entry = _Entry.model_validate(item)
        except ValidationError:
            continue
        found.append(
            Descriptor(
                entry.media_type, entry.digest, entry.size, entry.annotations or {}, entry.artifact_type
            )
        )
    return found


def fallback_tag(digest: Digest) -> str:
    """Return the tag under which registries without the referrers API have such a list."""
    return f"{digest.algorithm}-{digest.hex}"
