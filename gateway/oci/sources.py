"""The source for a reference: a registry, a layout, or the storage of the kit command line."""

from gateway.oci.content import Source
from gateway.oci.kit_storage import KitStorageSource
from gateway.oci.layout import LayoutSource
from gateway.oci.options import SourceOptions
from gateway.oci.reference import LocalReference, Reference, RegistryReference


def open_source(reference: Reference, options: SourceOptions) -> Source:
    """Return the source for a reference.

    Makes no request. Raises Unauthorized when a configured credential cannot be read.
    """
    if isinstance(reference, RegistryReference):
        # Imported here: it takes 0.2 s, and kits on disk need none of it.
        from gateway.oci.mirrors import open_registry

        return open_registry(reference, options)
    if isinstance(reference, LocalReference):
        return KitStorageSource(reference, options.kitops_home)
    return LayoutSource(reference)
