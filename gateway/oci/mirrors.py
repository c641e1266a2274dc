"""A registry with mirrors before it, as one Source.

A tag means what the registry says it means, and so do referrers: a mirror could answer with what was once
true. Content by digest is the same wherever it comes from, so the mirrors are asked for it first, in order.
A mirror that does not have it, does not answer, or sends something else is passed over.

What a mirror sent for a manifest is verified here. What it sent of a blob is verified by who reads it, who
says `reject()` of the stream when it is wrong, and reads again from the beginning if that returns True.
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
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, RegistryReference
from gateway.oci.registry import RegistrySource

_log = logging.getLogger(__name__)

_ATTEMPTS = 2  # the next place is nearer than patience
_BREAKS = 2  # broken streams after which a mirror is not asked again


def open_registry(reference: RegistryReference, options: SourceOptions) -> Source:
    """Return a registry, behind its mirrors if it has some.

    Raises Unauthorized when a configured credential cannot be read, InvalidReference for a mirror that is
    none.
    """
    own = options.registry(reference.host)
    ends = time.monotonic() + own.pull_timeout
    registry = RegistrySource(reference, own, options.kitops_home, ends=ends)
    mirrors = []
    for mirror in own.mirrors:
        name = mirror_reference(mirror, reference)
        reached = replace(options.registry(name.host), pull_timeout=own.pull_timeout)
        mirrors.append(RegistrySource(name, reached, options.kitops_home, ends=ends, attempts=_ATTEMPTS))
    return MirroredSource(registry, mirrors) if mirrors else registry


def mirror_reference(mirror: str, reference: RegistryReference) -> RegistryReference:
    """Return where a mirror, written HOST[:PORT][/PREFIX], has a reference. Raises InvalidReference."""
    host, _, prefix = mirror.rstrip("/").partition("/")
    repository = f"{prefix}/{reference.repository}" if prefix else reference.repository
    return replace(reference, host=host.lower(), repository=repository)


class MirroredSource:
    """`registry` behind `mirrors`; for several threads."""

    def __init__(self, registry: Source, mirrors: Sequence[Source]) -> None:
        self.reference = registry.reference
        self._registry = registry
        self._mirrors = tuple(mirrors)
        self._lock = threading.Lock()
        self._out: set[Source] = set()
        self._breaks: Counter[Source] = Counter()
        self._without: defaultdict[Digest, set[Source]] = defaultdict(set)  # mirrors not to ask for it
        self._gave: defaultdict[Digest, set[Source]] = defaultdict(set)  # mirrors that sent bytes of it

    def resolve(self) -> Descriptor:
        """Ask the registry."""
        return self._registry.resolve()

    def tagged(self, tag: str) -> Descriptor | None:
        """Ask the registry."""
        return self._registry.tagged(tag)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Ask the registry."""
        return self._registry.referrers(digest)

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Get a manifest from the first that has it, verified."""
        for mirror in self._asked(descriptor.digest):
            try:
                return mirror.manifest(descriptor)
            except (RegistryError, ContentError) as error:
                self._pass_over(mirror, descriptor.digest, error)
        return self._registry.manifest(descriptor)

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[BlobStream]:
        """Get a blob from the first that has it; another call after a broken stream asks the next."""
        reject = partial(self._reject, descriptor.digest)
        for mirror in self._asked(descriptor.digest):
            with ExitStack() as opened:
                try:
                    stream = opened.enter_context(mirror.blob(descriptor, offset))
                except (RegistryError, ContentError) as error:
                    self._pass_over(mirror, descriptor.digest, error)
                    continue
                with self._lock:
                    self._gave[descriptor.digest].add(mirror)
                yield BlobStream(stream.start, self._watched(mirror, descriptor.digest, stream), reject)
                return
        with self._registry.blob(descriptor, offset) as stream:
            yield replace(stream, reject=reject)

    def _asked(self, digest: Digest) -> list[Source]:
        with self._lock:
            skipped = self._out | self._without[digest]
        return [mirror for mirror in self._mirrors if mirror not in skipped]

    def _watched(self, mirror: Source, digest: Digest, stream: BlobStream) -> Iterator[bytes]:
        try:
            yield from stream.chunks
        except RegistryUnavailable as error:
            with self._lock:
                self._breaks[mirror] += 1
                if self._breaks[mirror] >= _BREAKS:
                    self._out.add(mirror)
                self._without[digest].add(mirror)
            self._say("mirror broke off", mirror, digest, str(error))
            raise

    def _pass_over(self, mirror: Source, digest: Digest, error: Exception) -> None:
        with self._lock:
            if isinstance(error, NotFound | ContentError):
                self._without[digest].add(mirror)
            else:
                self._out.add(mirror)
        self._say("mirror passed over", mirror, digest, str(error))

    def _reject(self, digest: Digest) -> bool:
        with self._lock:
            wrong = self._gave.pop(digest, set())
            self._without[digest] |= wrong
        for mirror in wrong:
            self._say("mirror sent wrong bytes", mirror, digest, "the digest or size is another")
        return bool(wrong)

    def _say(self, event: str, mirror: Source, digest: Digest, reason: str) -> None:
        _log.warning(
            event,
            extra={
                "reference": str(self.reference),
                "mirror": str(mirror.reference),
                "digest": str(digest),
                "reason": reason,
            },
        )
