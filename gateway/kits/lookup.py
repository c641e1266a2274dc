"""From a reference to its kit: manifest, Kitfile and parents, without layers."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from gateway.errors import InvalidReference, NotAKit, NotFound, SizeMismatch
from gateway.kits.dialects import MAX_CONFIG, read_kitfile
from gateway.kits.indexes import choose_kit, is_index
from gateway.kits.kit import Kit
from gateway.kits.layer import Role
from gateway.kits.manifest import Format, parse_manifest
from gateway.kits.parents import attach_parents, check_chain, check_parent, local_references, with_parents
from gateway.kits.policy import Policy, judge_registry
from gateway.kits.variants import Room
from gateway.oci.content import Descriptor, Source
from gateway.oci.files import replace_file
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, Reference, RegistryReference, parse_reference
from gateway.oci.sources import open_source
from gateway.oci.store import Store

_pins = TypeAdapter(list[str])


class Lookup:
    """The lookup of one kit and its parents; each source is opened once, when it is needed.

    `pins` is a directory with the digests that the parents of a kit had when it was first looked up: a
    version must not change when the tag of a parent moves. `room` returns what decides between the kits of an
    index where its variant is `auto`. Without `notes_parents`, nothing is written there.
    """

    def __init__(
        self,
        store: Store,
        options: SourceOptions,
        pins: Path,
        room: Callable[[], Room] = Room.here,
        *,
        notes_parents: bool = True,
    ) -> None:
        self._notes_parents = notes_parents
        self._store = store
        self._room = room
        self._options = options
        self._pins = pins
        self._sources: dict[Reference, Source] = {}

    def source(self, reference: Reference) -> Source:
        """Return the source of a reference. Raises Unauthorized when its credential cannot be read."""
        if reference not in self._sources:
            self._sources[reference] = open_source(reference, self._options)
        return self._sources[reference]

    def connections(self, reference: Reference) -> int:
        """Return how many layers of a kit may be fetched at the same time."""
        host = reference.host if isinstance(reference, RegistryReference) else ""
        return self._options.registry(host).connections

    def kit(self, reference: Reference, policy: Policy, parents: Sequence[Reference] = ()) -> Kit:
        """Return the kit that a reference names, and its parents.

        No request is made where all of it is pinned and on this node. `parents` are those that another node
        has looked up for the same kit, pinned; without them, this node uses the ones it looked up before.
        Raises NotTrusted, before any request, for a registry that the policy does not allow; NotAKit,
        InvalidKitfile, KitError, and what sources raise.
        """
        kit = self._without_parents(reference, policy)
        if kit.kitfile.parent is None:
            return kit
        # Per location, too: a copy of the kit in another registry must not decide which parents it has here.
        location = str(replace(kit.reference, tag=None))
        pins = self._pins / f"{Digest.of(location.encode()).hex}.json"
        with self._store.disk_errors():
            pinned = parents or _read_pins(pins)
        if pinned:
            for parent in pinned:
                check_parent(kit.reference, parent)
            kit = attach_parents(kit, tuple(self._without_parents(parent, policy) for parent in pinned))
            check_chain(kit)
            return kit
        kit = with_parents(kit, lambda parent, child: self._parent(parent, child.reference, policy))
        if not self._notes_parents:
            return kit
        with self._store.disk_errors():
            replace_file(pins, json.dumps([str(parent.reference) for parent in kit.parents]).encode())
        return kit

    def _parent(self, parent: Reference, child: Reference, policy: Policy) -> Kit:
        for local in local_references(child, parent):
            with suppress(NotFound):
                return self._without_parents(local, policy)
        return self._without_parents(parent, policy)

    def _without_parents(self, reference: Reference, policy: Policy) -> Kit:
        judge_registry(reference, policy)
        descriptor = None
        data = self._store.read(reference.digest) if reference.digest else None
        if data is None:
            descriptor = self.source(reference).resolve()
            data = self._manifest(reference, descriptor)
        choice = None
        if is_index(data):
            self._store.put(data)
            choice = choose_kit(
                data,
                str(reference),
                lambda entry: self._manifest(reference, entry),
                descriptor.media_type if descriptor else None,
                variant=reference.variant,
                room=self._room,
            )
            descriptor = choice.descriptor
            data = self._manifest(reference, descriptor)
        elif reference.variant is not None and not reference.variant.is_auto:
            raise NotAKit(f"{reference} is no index, so it has no variants; name it without `variant`")
        manifest = parse_manifest(data, str(reference), descriptor.media_type if descriptor else None)
        pinned = reference.pinned(self._store.put(data))
        if reference in self._sources:
            self._sources.setdefault(pinned, self._sources[reference])
        config = self._config(pinned, manifest.config)
        layers = [layer.descriptor for layer in manifest.layers if layer.role is Role.SETTINGS]
        # One of each type: no manifest makes for many requests.
        last = {layer.media_type: layer for layer in layers if manifest.format is Format.OLLAMA}
        settings = {media_type: self._config(pinned, layer) for media_type, layer in last.items()}
        kitfile = read_kitfile(manifest, config, str(pinned), settings)
        kit = Kit.of(pinned, Digest.of(data), manifest, kitfile)
        return replace(kit, choice=choice)

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
    """Return the stored parents; none where there is no file, or a damaged one."""
    try:
        return [parse_reference(text) for text in _pins.validate_json(path.read_bytes())]
    except (FileNotFoundError, ValueError, InvalidReference):
        return []
