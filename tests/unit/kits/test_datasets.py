"""A dataset of a kit is found, read whole and verified."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import DigestMismatch, KitError
from gateway.kits import datasets
from gateway.kits.datasets import find_dataset, read_dataset
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Entry
from gateway.kits.layer import Archive, Layer
from gateway.kits.library import Library
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest, parse_reference


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


@pytest.fixture
def kit(library: Library, layout: Path) -> Kit:
    return library.describe(parse_reference(f"oci-layout:{layout}:samples/iris:v1"))


def tar(**files: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return written.getvalue()


def read(kit: Kit, data: bytes, **changes: object) -> datasets.Dataset:
    """Read a dataset whose layer has these bytes."""
    layer: Layer = find_dataset(kit, "iris")
    descriptor = Descriptor(layer.descriptor.media_type, Digest.of(data), len(data))
    return read_dataset(io.BytesIO(data), kit, replace(layer, descriptor=descriptor, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["iris", "data/iris.csv"])
def test_a_dataset_is_found_by_its_name_or_its_path_and_nothing_else_is_pulled(
    library: Library, kit: Kit, name: str
) -> None:
    dataset = library.dataset(kit.reference, name)
    assert dataset.path == "data/iris.csv"
    assert dataset.data.startswith(b"sepal_length,")
    assert dataset.data.count(b"\n") == 151
    assert library.cache.kits() == []


def test_a_name_that_is_none_is_told_with_those_there_are(kit: Kit) -> None:
    with pytest.raises(KitError, match="has no dataset called wine; it has iris"):
        find_dataset(kit, "wine")


def test_a_layer_may_be_the_file_itself(kit: Kit) -> None:
    assert read(kit, b"{}\n", archive=Archive.RAW, path="a.jsonl").data == b"{}\n"


def test_other_files_beside_it_are_passed_over(kit: Kit) -> None:
    assert read(kit, tar(README_md=b"words", a_csv=b"x\n1\n")).data == b"x\n1\n"


@pytest.mark.parametrize("data", [tar(a_csv=b"1", b_jsonl=b"2"), tar(README_md=b"words"), tar()])
def test_it_must_be_one_file(kit: Kit, data: bytes) -> None:
    with pytest.raises(KitError, match="must be one CSV or JSONL file"):
        read(kit, data)


def test_a_large_one_is_refused(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_BYTES", 100)
    with pytest.raises(KitError, match="larger than 100 bytes"):
        read(kit, tar(a_csv=b"1" * 101))


def test_a_damaged_one_is_refused(kit: Kit) -> None:
    layer = find_dataset(kit, "iris")
    with pytest.raises(DigestMismatch):
        read_dataset(io.BytesIO(tar(a_csv=b"x\n1\n")), kit, layer)


def test_one_that_is_not_packed_is_told_as_such(kit: Kit) -> None:
    remote = Entry(name="rows", path="data/rows.csv", remotePath="s3://bucket/rows.csv")
    kit = replace(kit, kitfile=kit.kitfile.model_copy(update={"datasets": (remote,)}))
    for name in ("rows", "data/rows.csv"):
        with pytest.raises(KitError, match=r"not packed but at s3://bucket/rows\.csv, which is not fetched"):
            find_dataset(kit, name)
