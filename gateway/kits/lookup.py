"""What references mean: each followed to its kit, with the kit's parents, and no layer yet."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from gateway.errors import InvalidReference, NotFound, SizeMismatch
from gateway.kits.indexes import choose_kit, is_index
from gateway.kits.kit import Kit
from gateway.kits.kitfile import MAX_CONFIG, read_kitfile
from gateway.kits.manifest import parse_manifest
from gateway.kits.parents import adopt, beside, with_parents
from gateway.kits.trust import Policy, judge_registry
from gateway.oci.content import Descriptor, Source
from gateway.oci.files import replace_file
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, Reference, RegistryReference, parse_reference
from gateway.oci.sources import open_source
from gateway.oci.store import Store

_pinned = TypeAdapter(list[str])


class Lookup:
    """One use of the library: every source that it needs is opened once, when it is needed.

    `pins` is a directory that remembers which kits the parents of a kit were when it was first looked up:
    a version is a digest, and must not change with a tag that someone else moves.
    """

    def __init__(self, store: Store, options: SourceOptions, pins: Path) -> None:
        self._store = store
        self._options = options
        self._pins = pins
        self._sources: dict[Reference, Source] = {}

    def source(self, reference: Reference) -> Source:
        """Return the source of a reference. Raises Unauthorized when its credential cannot be read."""
        if reference not in self._sources:
            self._sources[reference] = open_source(reference, self._options)
        return self._sources[reference]

    def connections(self, reference: Reference) -> int:
        """Return how many transfers may run at the same time for a kit."""
        host = reference.host if isinstance(reference, RegistryReference) else ""
        return self._options.registry(host).connections

    def kit(self, reference: Reference, policy: Policy, parents: Sequence[Reference] = ()) -> Kit:
        """Return what a reference names, and its parents; asks nobody where all is pinned and known.

        `parents` are those that another node found for the same kit, pinned; without them, those that this
        one found before hold.
        Raises NotTrusted before anyone is asked for what the policy does not allow, NotAKit,
        InvalidKitfile, KitError, and what sources raise.
        """
        kit = self._alone(reference, policy)
        if kit.kitfile.parent is None:
            return kit
        # By place, too: whoever has a copy of a kit elsewhere is not to say which parents it has here.
        place = str(replace(kit.reference, tag=None))
        pins = self._pins / f"{Digest.of(place.encode()).hex}.json"
        with self._store.disk_errors():
            known = parents or _read_pins(pins)
        if known:
            return adopt(kit, tuple(self._alone(parent, policy) for parent in known))
        kit = with_parents(kit, lambda parent, child: self._parent(parent, child.reference, policy))
        with self._store.disk_errors():
            replace_file(pins, json.dumps([str(parent.reference) for parent in kit.parents]).encode())
        return kit

    def _parent(self, parent: Reference, child: Reference, policy: Policy) -> Kit:
        for near in beside(child, parent):
            with suppress(NotFound):
                return self._alone(near, policy)
        return self._alone(parent, policy)

    def _alone(self, reference: Reference, policy: Policy) -> Kit:
        judge_registry(reference, policy)
        descriptor = None
        data = self._store.read(reference.digest) if reference.digest else None
        if data is None:
            descriptor = self.source(reference).resolve()
            data = self._manifest(reference, descriptor)
        if is_index(data):
            self._store.put(data)
            descriptor = choose_kit(
                data,
                str(reference),
                lambda entry: self._manifest(reference, entry),
                descriptor.media_type if descriptor else None,
            )
            data = self._manifest(reference, descriptor)
        manifest = parse_manifest(data, str(reference), descriptor.media_type if descriptor else None)
        pinned = reference.pinned(self._store.put(data))
        if reference in self._sources:
            self._sources.setdefault(pinned, self._sources[reference])
        config = self._config(pinned, manifest.config)
        return Kit.of(pinned, Digest.of(data), manifest, read_kitfile(manifest, config, str(pinned)))

    def _manifest(self, reference: Reference, descriptor: Descriptor) -> bytes:
        return self._store.read(descriptor.digest) or self.source(reference).manifest(descriptor)

    def _config(self, pinned: Reference, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_CONFIG:
            raise SizeMismatch(f"{pinned}: its Kitfile has {descriptor.size} bytes; 4 MiB are allowed")
        data = self._store.read(descriptor.digest)
        if data is None:
            file, _ = self._store.fetch(descriptor, self.source(pinned))
            with file:
                data = file.read()
        return data


def _read_pins(path: Path) -> list[Reference]:
    """Return the parents that were noted; none where there is no note, or a damaged one."""
    try:
        return [parse_reference(text) for text in _pinned.validate_json(path.read_bytes())]
    except (FileNotFoundError, ValueError, InvalidReference):
        return []
