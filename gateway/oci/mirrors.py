"""A registry with mirrors, as one Source.

Tags and referrers come from the registry alone, as those of a mirror may be out of date. Content by digest is
the same wherever it comes from, so the mirrors are asked for it first, in order, and the registry last. A
mirror that lacks it, does not answer, or sends something else is skipped.

A mirror's manifest is verified here. Its blob is verified by the reader, which calls `reject()` of the stream
where the bytes are wrong, and reads again from the beginning if that returns True.
"""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from gateway.errors import ContentError, NotFound, RegistryError, RegistryUnavailable
from gateway.oci.content import BlobStream, Descriptor, Source
from gateway.oci.options import SourceOptions, mirror_reference
from gateway.oci.reference import Digest, RegistryReference
from gateway.oci.registry import RegistrySource

_log = logging.getLogger(__name__)

_ATTEMPTS = 2  # few, as the next mirror or the registry can be asked instead
_MAX_BREAKS = 2  # broken streams after which a mirror is not asked again


def open_registry(reference: RegistryReference, options: SourceOptions) -> Source:
    """Return the source for a reference in a registry: the registry itself, or with its mirrors.

    Raises Unauthorized when a configured credential cannot be read, and InvalidReference where a mirror is
    not the name of one.
    """
    registry_options = options.registry(reference.host)
    deadline = time.monotonic() + registry_options.pull_timeout
    registry = RegistrySource(reference, registry_options, options.kitops_home, deadline=deadline)
    mirrors = []
    for mirror in registry_options.mirrors:
        location = mirror_reference(mirror, reference)
        mirror_options = replace(options.registry(location.host), pull_timeout=registry_options.pull_timeout)
        mirrors.append(
            RegistrySource(
                location, mirror_options, options.kitops_home, deadline=deadline, attempts=_ATTEMPTS
            )
        )
    return MirroredSource(registry, mirrors) if mirrors else registry


class MirroredSource:
    """`registry` with `mirrors`; several threads may use one."""

    def __init__(self, registry: Source, mirrors: Sequence[Source]) -> None:
        self.reference = registry.reference
        self._registry = registry
        self._mirrors = tuple(mirrors)
        self._lock = threading.Lock()
        self._disabled: set[Source] = set()
        self._breaks: Counter[Source] = Counter()
        # By digest: the mirrors that are not to be asked for it, and those that sent bytes of it.
        self._skipped: defaultdict[Digest, set[Source]] = defaultdict(set)
        self._senders: defaultdict[Digest, set[Source]] = defaultdict(set)

    def resolve(self) -> Descriptor:
        """Ask the registry."""
        return self._registry.resolve()

    def resolve_tag(self, tag: str) -> Descriptor | None:
        """Ask the registry."""
        return self._registry.resolve_tag(tag)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Ask the registry."""
        return self._registry.referrers(digest)

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Get a manifest from the first mirror that has it, else from the registry, and verify it."""
        for mirror in self._mirrors_for(descriptor.digest):
            try:
                return mirror.manifest(descriptor)
            except (RegistryError, ContentError) as error:
                self._skip(mirror, descriptor.digest, error)
        return self._registry.manifest(descriptor)

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[BlobStream]:
        """Open a blob at the first mirror that has it; a call after a broken stream asks the next one."""
        reject = partial(self._reject, descriptor.digest)
        for mirror in self._mirrors_for(descriptor.digest):
            with ExitStack() as opened:
                try:
                    stream = opened.enter_context(mirror.blob(descriptor, offset))
                except (RegistryError, ContentError) as error:
                    self._skip(mirror, descriptor.digest, error)
                    continue
                with self._lock:
                    self._senders[descriptor.digest].add(mirror)
                yield BlobStream(stream.start, self._chunks(mirror, descriptor.digest, stream), reject)
                return
        with self._registry.blob(descriptor, offset) as stream:
            yield replace(stream, reject=reject)

    def _mirrors_for(self, digest: Digest) -> list[Source]:
        with self._lock:
            skipped = self._disabled | self._skipped[digest]
        return [mirror for mirror in self._mirrors if mirror not in skipped]

    def _chunks(self, mirror: Source, digest: Digest, stream: BlobStream) -> Iterator[bytes]:
        try:
            yield from stream.chunks
        except RegistryUnavailable as error:
            with self._lock:
                self._breaks[mirror] += 1
                if self._breaks[mirror] >= _MAX_BREAKS:
                    self._disabled.add(mirror)
                self._skipped[digest].add(mirror)
            self._warn("mirror broke off", mirror, digest, str(error))
            raise

    def _skip(self, mirror: Source, digest: Digest, error: Exception) -> None:
        with self._lock:
            if isinstance(error, NotFound | ContentError):
                self._skipped[digest].add(mirror)
            else:
                self._disabled.add(mirror)
        self._warn("mirror skipped", mirror, digest, str(error))

    def _reject(self, digest: Digest) -> bool:
        with self._lock:
            senders = self._senders.pop(digest, set())
            self._skipped[digest] |= senders
        for mirror in senders:
            self._warn("mirror sent wrong bytes", mirror, digest, "the digest or size differs")
        return bool(senders)

    def _warn(self, event: str, mirror: Source, digest: Digest, reason: str) -> None:
        _log.warning(
            event,
            extra={
                "reference": str(self.reference),
                "mirror": str(mirror.reference),
                "digest": str(digest),
                "reason": reason,
            },
        )
