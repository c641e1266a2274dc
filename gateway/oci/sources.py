"""From a reference to the place that has it."""

from gateway.oci.content import Source
from gateway.oci.layout import LayoutSource
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Reference, RegistryReference
from gateway.oci.registry import RegistrySource


def open_source(reference: Reference, options: SourceOptions) -> Source:
    """Return the source for a reference.

    Makes no request. Raises Unauthorized when a configured credential cannot be read.
    """
    if isinstance(reference, RegistryReference):
        return RegistrySource(reference, options.registry(reference.host))
    return LayoutSource(reference)
