"""Kits are pulled from a real registry, over networks and onto disks that fail."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import (
    DigestMismatch,
    KitError,
    NotFound,
    RegistryUnavailable,
    StoreError,
    Unauthorized,
)
from gateway.kits.library import Library
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import Digest, RegistryReference, parse_reference
from gateway.oci.sources import open_source
from gateway.oci.store import Store
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar
from tests.support.ports import free_port
from tests.support.proxy import Proxy, run_proxy
from tests.support.registry import PASSWORD, USERNAME, Registry, run_registry

PLAIN = RegistryOptions(plain_http=True)
SERVABLE = [
    "iris:v1",
    "iris:v2",
    "iris:bad",
    "iris:v1-gzip",
    "iris-torchscript:v1",
    "iris-export:v1",
    "iris-pickle:v1",
    "iris-statedict:v1",
]


@pytest.fixture
def library(tmp_path: Path, registry: Registry) -> Library:
    return Library(tmp_path / "library", SourceOptions({registry.host: PLAIN}))


@pytest.mark.parametrize("name", SERVABLE)
def test_every_sample_is_pulled_by_tag_and_by_digest(
    library: Library, registry: Registry, layout: Path, name: str, tmp_path: Path
) -> None:
    reference = parse_reference(f"{registry.host}/samples/{name}")
    kit = library.open(reference)
    local = Library(tmp_path / "local").open(parse_reference(f"oci-layout:{layout}:samples/{name}"))
    assert kit.kit.digest == local.kit.digest
    assert kit.pulled_bytes == kit.kit.size
    assert _tree(kit.path) == _tree(local.path)

    other = Library(tmp_path / "other", SourceOptions({registry.host: PLAIN}))
    pinned = RegistryReference(registry.host, f"samples/{name.split(':')[0]}", None, kit.kit.digest)
    assert _tree(other.open(pinned).path) == _tree(kit.path)


def test_addresses_that_a_layer_names_are_never_asked(tmp_path: Path, registry: Registry) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        layer = builder.blob(f"{MODELKIT}.model.v1.tar", tar(("model", b"x")))
        layer["urls"] = [f"http://127.0.0.1:{elsewhere.getsockname()[1]}/model"]
        kitfile = {"model": {"path": "model", "digest": layer["digest"]}}
        config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        builder.artifact("team/foreign:v1", {"schemaVersion": 2, "config": config, "layers": [layer]})
        (name,) = registry.push_layout(builder.directory)
        library = Library(tmp_path / "library", SourceOptions({registry.host: PLAIN}))
        assert library.open(parse_reference(name)).model_path.read_bytes() == b"x"
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_parent_is_pulled_from_its_own_registry(tmp_path: Path, registry: Registry, layout: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    kitfile = {"model": {"path": f"{registry.host}/samples/iris:v1"}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    builder.artifact("team/child:v1", {"schemaVersion": 2, "config": config, "layers": None})
    with run_registry(tmp_path / "registry") as own:
        own.push_layout(builder.directory)
        library = Library(tmp_path / "library", SourceOptions({own.host: PLAIN, registry.host: PLAIN}))
        opened = library.open(parse_reference(f"{own.host}/team/child:v1"))
    assert opened.pulled_bytes == 2560
    assert [str(parent.reference) for parent in opened.kit.parents] == [
        f"{registry.host}/samples/iris:v1@{opened.kit.parents[0].digest}"
    ]
    parent = Library(tmp_path / "parent").open(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))
    assert _tree(opened.path) == _tree(parent.path)


def test_a_parent_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    parent = f"127.0.0.1:{free_port()}/samples/iris:v1"
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps({"model": {"path": parent}}).encode())
    builder.artifact("team/child:v1", {"schemaVersion": 2, "config": config, "layers": None})
    with pytest.raises(RegistryUnavailable, match=parent):
        Library(tmp_path / "library").open(parse_reference(f"oci-layout:{builder.directory}:team/child:v1"))


@pytest.mark.parametrize(
    "name", ["samples/iris:v99", "samples/nothing:v1", f"samples/iris@sha256:{'0' * 64}"]
)
def test_what_is_not_there_is_named(library: Library, registry: Registry, name: str) -> None:
    begun = time.monotonic()
    with pytest.raises(NotFound, match=name):
        library.open(parse_reference(f"{registry.host}/{name}"))
    assert time.monotonic() - begun < 2


def test_a_registry_that_is_down_is_given_up_in_seconds(tmp_path: Path, layout: Path) -> None:
    with run_registry(tmp_path / "registry") as own:
        own.push_layout(layout)
        library = Library(tmp_path / "library", SourceOptions({own.host: PLAIN}))
        reference = parse_reference(f"{own.host}/samples/iris:v1")
        kit = library.open(reference)
        own.stop()
        begun = time.monotonic()
        with pytest.raises(RegistryUnavailable, match=r"cannot be reached .*refused.*6 time"):
            library.open(reference)
        assert time.monotonic() - begun < 10
        cached = library.open(reference.pinned(kit.kit.digest))
        assert cached.from_cache
        assert cached.model_path == kit.model_path
        own.start()
        assert library.open(reference).from_cache


def test_a_registry_without_tls_is_named(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RegistryUnavailable, match="set `plain_http: true` for this registry"):
        Library(tmp_path).open(parse_reference(f"{registry.host}/samples/iris:v1"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("guarded"), htpasswd=True) as running:
        running.push_layout(layout)
        yield running


def test_the_right_password_opens(tmp_path: Path, guarded: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", PASSWORD)
    options = RegistryOptions(USERNAME, password_env="REGISTRY_PASSWORD", plain_http=True)
    library = Library(tmp_path, SourceOptions({guarded.host: options}))
    assert library.open(parse_reference(f"{guarded.host}/samples/iris:v1")).pulled_bytes == 2560


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_or_missing_password_fails_at_once(
    tmp_path: Path, guarded: Registry, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    options = PLAIN
    if password is not None:
        (tmp_path / "password").write_text(password)
        options = RegistryOptions(USERNAME, password_file=tmp_path / "password", plain_http=True)
    begun = time.monotonic()
    with pytest.raises(Unauthorized, match="samples/iris:v1") as refused:
        Library(tmp_path, SourceOptions({guarded.host: options})).open(
            parse_reference(f"{guarded.host}/samples/iris:v1")
        )
    assert time.monotonic() - begun < 2
    assert password is None or password not in str(refused.value).replace("samples", "")


def test_an_altered_blob_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    data = tar(("model/weights.bin", os.urandom(100_000)))
    builder.kit("team/kit:v1", data)
    with run_registry(tmp_path / "registry") as own:
        own.push_layout(builder.directory)
        digest = str(Digest.of(data))
        own.blob_path(digest).write_bytes(data[:50_000] + bytes([data[50_000] ^ 1]) + data[50_001:])
        library = Library(tmp_path / "library", SourceOptions({own.host: PLAIN}))
        reference = parse_reference(f"{own.host}/team/kit:v1")
        with pytest.raises(DigestMismatch) as mismatch:
            library.open(reference)
        assert digest in str(mismatch.value)
        assert str(reference) in str(mismatch.value)
        assert not list((tmp_path / "library" / "kits").iterdir())
        assert not list((tmp_path / "library" / "ingest").iterdir())
        own.blob_path(digest).write_bytes(data)
        assert library.open(reference).pulled_bytes == len(data)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> bytes:
    """A layer of 1 MB, in a kit that the registry has as team/large:v1."""
    data = tar(("model/weights.bin", os.urandom(1_000_000)))
    builder = LayoutBuilder(tmp_path_factory.mktemp("large") / "layout")
    builder.kit("team/large:v1", data)
    registry.push_layout(builder.directory)
    return data


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with run_proxy(registry.host) as running:
        yield running


def test_a_pull_goes_on_where_it_was_cut(tmp_path: Path, proxy: Proxy, large: bytes) -> None:
    proxy.cut_after = 300_000
    library = Library(tmp_path, SourceOptions({proxy.host: PLAIN}))
    assert library.open(parse_reference(f"{proxy.host}/team/large:v1")).pulled_bytes == len(large)
    assert proxy.connections >= 4
    assert proxy.passed < len(large) + 20_000


def test_a_pull_that_gets_nowhere_ends_and_can_be_continued(
    tmp_path: Path, proxy: Proxy, large: bytes
) -> None:
    library = Library(tmp_path, SourceOptions({proxy.host: PLAIN}))
    reference = parse_reference(f"{proxy.host}/team/large:v1")
    kit = library.describe(reference)
    store, source = Store(tmp_path), open_source(kit.reference, SourceOptions({proxy.host: PLAIN}))
    (layer,) = kit.needed_layers()
    partial = tmp_path / "ingest" / layer.descriptor.digest.hex

    def cut(_: int) -> None:
        proxy.cut_after = 1  # not even the head of an answer comes through from now on

    proxy.cut_after = 400_000
    begun = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="team/large:v1"):
        store.fetch(layer.descriptor, source, cut)
    assert time.monotonic() - begun < 10
    kept = partial.stat().st_size
    assert 0 < kept < len(large)

    proxy.cut_after = None
    before = proxy.passed
    assert library.open(reference).pulled_bytes == len(large) - kept
    assert proxy.passed - before < len(large) - kept + 20_000
    assert not partial.exists()


def _open(root: Path, host: str, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    kit = Library(root, SourceOptions({host: PLAIN})).open(parse_reference(f"{host}/team/large:v1"))
    results.put((str(kit.path), kit.from_cache, kit.pulled_bytes))  # type: ignore[attr-defined]


def test_two_processes_fetch_each_blob_once(tmp_path: Path, proxy: Proxy, large: bytes) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_open, args=(tmp_path, proxy.host, start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(10)
    assert sorted(answer[2] for answer in answers) == [0, len(large)]
    assert sorted(answer[1] for answer in answers) == [False, True]
    assert answers[0][0] == answers[1][0]
    assert proxy.passed < len(large) + 40_000


def test_a_container_image_is_named_as_one(tmp_path: Path, registry: Registry, library: Library) -> None:
    builder = LayoutBuilder(tmp_path / "layout")
    config = builder.blob("application/vnd.oci.image.config.v1+json", b"{}")
    builder.artifact("team/image:v1", {"schemaVersion": 2, "config": config, "layers": []})
    registry.push_layout(builder.directory)
    with pytest.raises(KitError, match="this is a container image"):
        library.open(parse_reference(f"{registry.host}/team/image:v1"))


def test_a_layout_copied_by_skopeo_is_read(tmp_path: Path, registry: Registry) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed")
    subprocess.run(
        [
            skopeo,
            "copy",
            "--src-tls-verify=false",
            f"docker://{registry.host}/samples/iris:v1",
            f"oci:{tmp_path / 'layout'}:samples/iris:v1",
        ],
        check=True,
        capture_output=True,
    )
    kit = Library(tmp_path / "library").open(
        parse_reference(f"oci-layout:{tmp_path / 'layout'}:samples/iris:v1")
    )
    assert kit.model_path.name == "iris.onnx"


def test_a_full_disk_is_reported_and_left_clean(tmp_path: Path, registry: Registry, large: bytes) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(StoreError, match=r"is full: \d+ bytes are needed and \d+ are free"):
            Library(disk, SourceOptions({registry.host: PLAIN})).open(
                parse_reference(f"{registry.host}/team/large:v1")
            )
        assert not list((disk / "ingest").iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
