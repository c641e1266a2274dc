"""Kits are pulled by processes that die, onto disks that fill up, and by many at the same time."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.kits.library import Library
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import RegistryReference
from tests.support.artifacts import MODELKIT, LayoutBuilder, sha256, tar
from tests.support.checks import check_clean, tree
from tests.support.fault_injection import Answer, Fault, FaultProxy, run_faults
from tests.support.registry import Registry, run_registry

WEIGHTS = random.Random(8).randbytes(600_000)
LAYER = tar(("model/weights.bin", WEIGHTS))
TREE = {"model/weights.bin": WEIGHTS}
LAYER_PATH = f"/blobs/{sha256(LAYER)}"
EVER = float("inf")
PLAIN = RegistryOptions(plain_http=True, pull_timeout=30)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that has one layer in the kits team/kit0:v1 to team/kit4:v1."""
    directory = tmp_path_factory.mktemp("kits")
    builder = LayoutBuilder(directory / "layout")
    layer = builder.blob(f"{MODELKIT}.model.v1.tar", LAYER)
    for number in range(5):
        kitfile = {"package": {"name": f"kit{number}"}, "model": {"path": "model", "digest": layer["digest"]}}
        config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        manifest = {"schemaVersion": 2, "config": config, "layers": [layer]}
        builder.artifact(f"team/kit{number}:v1", manifest)
    with run_registry(directory / "registry") as running:
        running.push_layout(builder.directory)
        yield running


@pytest.fixture
def proxy(kits: Registry) -> Iterator[FaultProxy]:
    with run_faults(kits.host) as running:
        yield running


def get(root: Path, host: str, name: str = "team/kit0") -> dict[str, bytes]:
    library = Library(root, SourceOptions({host: PLAIN}))
    return tree(library.open(RegistryReference(host, name, "v1", None)).path)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """A context that starts processes quickly, from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    warm = context.Process(target=time.monotonic)
    warm.start()
    warm.join(30)
    return context


def begin(processes: ForkServerContext, *arguments: object) -> ForkServerProcess:
    process = processes.Process(target=get, args=arguments, daemon=True)
    process.start()
    return process


def await_partial(root: Path, size: int) -> None:
    """Wait until `size` bytes of the layer have arrived."""
    deadline = time.monotonic() + 10
    partial = root / "ingest" / sha256(LAYER).removeprefix("sha256:")
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if partial.stat().st_size >= size:
                return
        time.sleep(0.005)
    raise AssertionError("nothing arrives")


def killed_at(processes: ForkServerContext, root: Path, proxy: FaultProxy, seconds: float) -> None:
    """Kill a process `seconds` after it began to pull the kit; another one pulls it from what is left.

    A whole pull takes about half a second.
    """
    proxy.exchanges.clear()
    proxy.calm()
    proxy.on(Fault(rate=1_500_000), LAYER_PATH, times=EVER)
    process = begin(processes, root, proxy.host)
    process.join(seconds)
    process.kill()
    process.join(10)
    partial = root / "ingest" / sha256(LAYER).removeprefix("sha256:")
    kept = partial.stat().st_size if partial.exists() else None
    proxy.calm()
    assert get(root, proxy.host) == TREE
    # A small file that was being written is not continued, but removed once it is old.
    for unfinished in root.rglob(".*.tmp"):
        os.utime(unfinished, (0, 0))
    Library(root).cache.prune(keep=10 * len(LAYER))
    check_clean(root)
    assert len(list((root / "kits").iterdir())) == 2
    if kept is not None:
        (resumed,) = proxy.exchanges_for(LAYER_PATH)[-1:]
        assert resumed.headers.get("Range", "bytes=0-") == f"bytes={kept}-"
        assert resumed.sent == len(LAYER) - kept


def test_a_process_killed_at_any_moment(
    processes: ForkServerContext, proxy: FaultProxy, tmp_path: Path
) -> None:
    moments = random.Random(24)
    for number in range(12):
        killed_at(processes, tmp_path / str(number), proxy, moments.uniform(0.02, 0.7))


def test_what_is_left_of_small_files_is_removed_once_it_is_old(proxy: FaultProxy, tmp_path: Path) -> None:
    assert get(tmp_path, proxy.host) == TREE
    leftovers = [tmp_path / ".index.json.77.tmp", tmp_path / "kits" / f".{'0' * 64}.seal.json.77.tmp"]
    for path in leftovers:
        path.write_bytes(b"{")
    library = Library(tmp_path)
    library.cache.prune(keep=10 * len(LAYER))
    assert all(path.exists() for path in leftovers)
    for path in leftovers:
        os.utime(path, (0, 0))
    library.cache.prune(keep=10 * len(LAYER))
    check_clean(tmp_path)


@pytest.mark.soak
def test_a_process_killed_at_200_moments(
    processes: ForkServerContext, proxy: FaultProxy, tmp_path: Path
) -> None:
    moments = random.Random()
    for number in range(200):
        killed_at(processes, tmp_path / str(number), proxy, moments.uniform(0.0, 0.8))


def test_a_process_that_waits_takes_over_from_one_that_dies(
    processes: ForkServerContext, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.on(Fault(rate=600_000), LAYER_PATH)
    first = begin(processes, tmp_path, proxy.host)
    await_partial(tmp_path, len(LAYER) // 3)
    second = begin(processes, tmp_path, proxy.host)
    await_partial(tmp_path, len(LAYER) // 2)
    first.kill()
    second.join(15)
    assert second.exitcode == 0
    check_clean(tmp_path)
    assert [exchange.status for exchange in proxy.exchanges_for(LAYER_PATH)] == [200, 206]
    assert proxy.sent(LAYER_PATH) < 1.2 * len(LAYER)


def test_many_that_want_one_kit_fetch_it_once(
    processes: ForkServerContext, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.on(Fault(rate=2_000_000), LAYER_PATH, times=EVER)
    others = [begin(processes, tmp_path, proxy.host) for _ in range(3)]
    with ThreadPoolExecutor(24) as pool:
        trees = list(pool.map(lambda _: get(tmp_path, proxy.host), range(24)))
    for other in others:
        other.join(20)
    assert [other.exitcode for other in others] == [0] * 3
    assert trees == [TREE] * 24
    check_clean(tmp_path)
    assert proxy.sent(LAYER_PATH) == len(LAYER)


def test_a_layer_of_many_kits_is_fetched_once(proxy: FaultProxy, tmp_path: Path) -> None:
    with ThreadPoolExecutor(5) as pool:
        trees = list(pool.map(lambda n: get(tmp_path, proxy.host, f"team/kit{n}"), range(5)))
    assert trees == [TREE] * 5
    check_clean(tmp_path)
    assert proxy.sent(LAYER_PATH) == len(LAYER)


def test_a_stalled_pull_holds_up_no_other(proxy: FaultProxy, kits: Registry, tmp_path: Path) -> None:
    proxy.on(Fault(stall=100_000), LAYER_PATH)
    options = RegistryOptions(plain_http=True, stall_timeout=0.8, pull_timeout=10)
    library = Library(tmp_path, SourceOptions({proxy.host: options, kits.host: PLAIN}))
    builder = LayoutBuilder(tmp_path / "layout")
    builder.kit("team/other:v1", tar(("model/weights.bin", b"other")))
    kits.push_layout(builder.directory)
    stalled = threading.Thread(
        target=library.open, args=(RegistryReference(proxy.host, "team/kit0", "v1", None),)
    )
    stalled.start()
    await_partial(tmp_path, 100_000)
    begun = time.monotonic()
    other = library.open(RegistryReference(kits.host, "team/other", "v1", None))
    assert time.monotonic() - begun < 1
    assert tree(other.path) == {"model/weights.bin": b"other"}
    stalled.join(10)
    assert get(tmp_path, proxy.host) == TREE
    assert proxy.sent(LAYER_PATH) == len(LAYER)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield path
    finally:
        # Lazily: a kit that is in use keeps a file open.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def check_full_then_not(disk: Path, host: str, ballast: Path) -> None:
    """Check that a pull reports the full disk, leaves nothing half-made, and goes on once there is room."""
    with pytest.raises(StoreError, match=r"(is full: | needs )\d+ bytes .*and \d+ are free.*; make room"):
        get(disk / "node", host)
    check_clean(disk / "node")
    ballast.unlink()
    assert get(disk / "node", host) == TREE
    check_clean(disk / "node")


def test_a_disk_that_is_full_before_a_layer(disk: Path, proxy: FaultProxy) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1_600_000))
    check_full_then_not(disk, proxy.host, ballast)
    assert proxy.sent(LAYER_PATH) == len(LAYER)


def test_a_disk_that_fills_up_within_a_layer(disk: Path, proxy: FaultProxy) -> None:
    ballast = disk / "ballast"

    def fill(answer: Answer) -> Answer:
        ballast.write_bytes(bytes(1_600_000))
        return answer

    proxy.on(Fault(fill), LAYER_PATH)
    check_full_then_not(disk, proxy.host, ballast)


def test_a_disk_that_has_room_for_the_layer_but_not_for_its_files(disk: Path, proxy: FaultProxy) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    check_full_then_not(disk, proxy.host, ballast)


def test_a_disk_that_is_full_from_the_first_byte(disk: Path, proxy: FaultProxy) -> None:
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(StoreError, match="is full"):
        get(disk / "node", proxy.host)
    ballast.unlink()
    assert get(disk / "node", proxy.host) == TREE
    check_clean(disk / "node")
