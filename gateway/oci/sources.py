"""From a reference to the place that has it."""

from collections.abc import Mapping

from gateway.oci.content import Source
from gateway.oci.credentials import RegistryOptions
from gateway.oci.layout import LayoutSource
from gateway.oci.reference import Reference, RegistryReference
from gateway.oci.registry import RegistrySource


def open_source(reference: Reference, registries: Mapping[str, RegistryOptions]) -> Source:
    """Return the source for a reference; `registries` maps a host, as it is written, to its options.

    Makes no request. Raises Unauthorized when a configured credential cannot be read.
    """
    if isinstance(reference, RegistryReference):
        return RegistrySource(reference, registries.get(reference.host, RegistryOptions()))
    return LayoutSource(reference)
