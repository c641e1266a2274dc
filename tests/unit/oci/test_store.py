from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from gateway.errors import DigestMismatch, NotFound, RegistryUnavailable, SizeMismatch, StoreError
from gateway.oci.content import MAX_MANIFEST, BlobStream, Descriptor, Source
from gateway.oci.files import replace_file
from gateway.oci.leases import Lease, lock_holder
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import Digest, LayoutReference
from gateway.oci.sources import open_source
from gateway.oci.store import LOCK_WAIT, Store
from gateway.oci.transfer import OnReceived
from tests.support.artifacts import LayoutBuilder

DATA = os.urandom(3_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    builder = LayoutBuilder(tmp_path / "layout")
    builder.blob("x/y", DATA)
    return open_source(LayoutReference(builder.directory, "x", "v1", None), SourceOptions({}))


def _descriptor(data: bytes = DATA, size: int | None = None) -> Descriptor:
    return Descriptor("x/y", Digest.of(data), len(data) if size is None else size)


def _fetched(
    store: Store, descriptor: Descriptor, source: Source, on_received: OnReceived = lambda _: None
) -> bytes:
    """Fetch a blob. Return its bytes."""
    blob, _ = store.fetch(descriptor, source, on_received)
    with blob:
        return blob.read()


def _ingest(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "ingest").iterdir())


def test_a_blob_is_fetched_once(store: Store, source: Source) -> None:
    pieces: list[int] = []
    blob, fresh = store.fetch(_descriptor(), source, pieces.append)
    with blob:
        assert blob.read() == DATA
    assert fresh
    path = store.path(Digest.of(DATA))
    assert path.stat().st_mode & 0o777 == 0o444
    assert sum(pieces) == len(DATA)
    blob, fresh = store.fetch(_descriptor(), source, pieces.append)
    blob.close()
    assert not fresh
    assert sum(pieces) == len(DATA)
    assert _ingest(store) == []


@pytest.mark.parametrize("kept", [0, 1, 1_500_000, len(DATA)])
def test_a_partial_blob_is_continued(store: Store, source: Source, kept: int) -> None:
    (store.root / "ingest" / Digest.of(DATA).hex).write_bytes(DATA[:kept])
    pieces: list[int] = []
    assert _fetched(store, _descriptor(), source, pieces.append) == DATA
    assert sum(pieces) == len(DATA) - kept


def test_a_partial_blob_that_is_too_long_is_begun_again(store: Store, source: Source) -> None:
    (store.root / "ingest" / Digest.of(DATA).hex).write_bytes(DATA + b"x")
    assert _fetched(store, _descriptor(), source) == DATA


def test_a_partial_blob_that_is_wrong_is_had_again(store: Store, source: Source) -> None:
    (store.root / "ingest" / Digest.of(DATA).hex).write_bytes(b"x" * 1000)
    assert _fetched(store, _descriptor(), source) == DATA


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, 0])
def test_wrong_sizes_are_refused(store: Store, source: Source, size: int) -> None:
    with pytest.raises((SizeMismatch, DigestMismatch), match=r"oci-layout:.*x:v1"):
        store.fetch(_descriptor(size=size), source)
    assert _ingest(store) == []
    assert not store.has(Digest.of(DATA))


def test_a_blob_that_the_source_lacks(store: Store, source: Source) -> None:
    with pytest.raises(NotFound):
        store.fetch(_descriptor(b"other"), source)


def test_a_blob_larger_than_the_disk_is_refused_before_its_first_byte(store: Store, source: Source) -> None:
    with pytest.raises(StoreError, match=rf"is full: {1 << 60} bytes are needed and \d+ are free"):
        store.fetch(_descriptor(size=1 << 60), source)
    assert _ingest(store) == []


class _Breaking:
    """A source whose streams each break off after `length` bytes. Without `ranges`, it cannot skip."""

    def __init__(self, length: int, *, ranges: bool = True) -> None:
        self.reference = LayoutReference(Path(), "breaking", "v1", None)
        self.length = length
        self.ranges = ranges
        self.opened: list[int] = []

    def resolve(self) -> Descriptor:
        return _descriptor()

    def manifest(self, descriptor: Descriptor) -> bytes:
        return DATA

    def resolve_tag(self, tag: str) -> Descriptor | None:
        return None

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        return ()

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[BlobStream]:
        start = offset if self.ranges else 0
        self.opened.append(start)

        def chunks() -> Iterator[bytes]:
            yield from (
                DATA[offset : offset + 1000]
                for offset in range(start, min(start + self.length, len(DATA)), 1000)
            )
            if start + self.length < len(DATA):
                raise RegistryUnavailable("broken off")

        yield BlobStream(start, chunks())


def test_streams_that_break_are_followed_while_they_bring_something(store: Store) -> None:
    source = _Breaking(1_000_000)
    assert _fetched(store, _descriptor(), source) == DATA
    assert source.opened == [0, 1_000_000, 2_000_000]


@pytest.mark.parametrize("source", [_Breaking(0), _Breaking(1_000_000, ranges=False)])
def test_streams_that_bring_nothing_are_given_up(store: Store, source: _Breaking) -> None:
    with pytest.raises(RegistryUnavailable, match=rf"breaking:v1: blob {Digest.of(DATA)}.*broke off 3 times"):
        store.fetch(_descriptor(), source)
    assert len(source.opened) in (3, 4)
    assert _ingest(store) == [Digest.of(DATA).hex]


def test_a_source_that_cannot_skip_begins_again(store: Store) -> None:
    (store.root / "ingest" / Digest.of(DATA).hex).write_bytes(DATA[:5000])
    assert _fetched(store, _descriptor(), _Breaking(len(DATA), ranges=False)) == DATA


def test_threads_fetch_a_blob_once(store: Store) -> None:
    source = _Breaking(len(DATA))
    threads = [threading.Thread(target=_fetched, args=(store, _descriptor(), source)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert source.opened == [0]


def test_damage_is_found_and_removed(store: Store, source: Source) -> None:
    digest = store.put(b"manifest")
    assert store.read(digest) == b"manifest"
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"manifesT")
    assert store.read(digest) is None
    assert not store.has(digest)

    assert _fetched(store, _descriptor(), source) == DATA
    path = store.path(_descriptor().digest)
    assert store.verify(_descriptor().digest)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert not store.verify(_descriptor().digest)
    assert not store.has(_descriptor().digest)
    assert not store.verify(_descriptor().digest)
    path.write_bytes(DATA[:-1])
    assert _fetched(store, _descriptor(), source) == DATA


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file" / "store")


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_descriptor_that_lies_costs_no_other_kit_its_blob(store: Store, source: Source, size: int) -> None:
    assert _fetched(store, _descriptor(), source) == DATA
    with pytest.raises(SizeMismatch, match=rf"should have {size} bytes and has {len(DATA)}"):
        store.fetch(_descriptor(size=size), source)
    assert store.has(Digest.of(DATA))


def test_a_large_blob_is_not_read_for_a_document(store: Store, source: Source) -> None:
    large = Digest("sha256", "a" * 64)
    with store.path(large).open("wb") as file:
        file.truncate(MAX_MANIFEST + 1)
    assert store.read(large) is None
    assert store.has(large)


def test_what_goes_or_does_not_belong_is_passed_over_in_lists(store: Store) -> None:
    """Another process may remove a blob between its name and its size."""
    digest = store.put(b"here")
    for directory in ("blobs/sha256", "ingest"):
        (store.root / directory / ("0" * 64)).symlink_to("gone")
        (store.root / directory / ".nfs0001").write_bytes(b"")
    assert store.blobs() == {digest: 4}
    assert store.partials() == {}


def test_a_blob_that_is_removed_as_it_arrives_is_still_given(
    store: Store, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store._commit

    def lose(file: BinaryIO, digest: Digest) -> None:
        commit(file, digest)
        store.discard(digest)

    monkeypatch.setattr(store, "_commit", lose)
    assert _fetched(store, _descriptor(), source) == DATA
    assert not store.has(Digest.of(DATA))


def test_what_a_process_left_that_died_at_the_end_is_continued(source: Source) -> None:
    """It died between making the blob read-only and naming it. root would not be stopped by the mode."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "store")
        for data in (DATA, b"manifest"):
            partial = store.root / "ingest" / Digest.of(data).hex
            partial.write_bytes(data)
            partial.chmod(0o444)
        child = os.fork()
        if not child:
            try:
                if os.getuid() == 0:
                    for path in (Path(directory), *Path(directory).rglob("*")):
                        os.chown(path, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                assert _fetched(store, _descriptor(), _Breaking(len(DATA))) == DATA
                assert store.has(store.put(b"manifest"))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_who_waits_for_a_pull_waits_as_long_as_it_may_take() -> None:
    assert RegistryOptions().pull_timeout < LOCK_WAIT


def test_faults_of_the_disk_are_store_errors(store: Store) -> None:
    digest = Digest("sha256", "b" * 64)
    store.path(digest).mkdir()
    for use in (store.read, store.verify):
        with pytest.raises(StoreError, match="cannot be used"):
            use(digest)


def test_a_small_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        replace_file(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_who_waits_for_a_lock_says_for_which_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.oci.store._SILENT_WAIT", 0.1)
    caplog.set_level("INFO")
    waits: list[str] = []
    store = Store(tmp_path / "store", waits.append)
    with store.lock("free"):
        pass
    assert waits == []
    lock = store.locks / "kit-1.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    threading.Timer(0.5, holder.kill).start()
    with store.lock("kit-1"):
        assert holder.wait() != 0
    holder.stdout.close()
    (told,) = waits
    assert told in (
        f"waits for process {holder.pid}, which holds {lock}",
        # Where the file system hides which file is locked, as overlayfs does.
        f"waits for another process, which holds {lock}",
    )
    assert [record.message for record in caplog.records] == ["store.waiting"]


def test_the_holder_of_a_lock_is_found_and_nobody_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    assert lock_holder(tmp_path / "lock") is None
    assert lock_holder(tmp_path / "missing") is None
    lease = Lease(tmp_path / "lock")
    assert lock_holder(tmp_path / "lock") in (os.getpid(), None)
    lease.release()
    assert lock_holder(tmp_path / "lock") is None
