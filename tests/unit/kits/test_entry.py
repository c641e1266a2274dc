"""A kit's entry is found by its Kitfile or in its code, which is unpacked only where the policy allows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import InvalidKitfile, KitError, NotTrusted, UnusableModel
from gateway.kits.entry import PythonEntry
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.model import choose_runtime
from gateway.kits.policy import ANYTHING, Policy
from gateway.oci.reference import Digest, LayoutReference
from runtimes.formats import Format
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.model_files import identity_onnx

Layer = tuple[str, str, Mapping[str, bytes | None]]

SOURCE = b"class Model:\n    def predict(self, x: float) -> float:\n        return x\n"
MODEL: Layer = ("model", "model.onnx", {"model.onnx": identity_onnx()})
MORE = {"train.py": b"print('secret')"}


class Shelf:
    """A layout and a library, and kits that are packed in the one and opened by the other."""

    def __init__(self, directory: Path) -> None:
        self.builder = LayoutBuilder(directory / "layout")
        self.library = Library(directory / "library")
        self.policy = ANYTHING

    def pack(self, *layers: Layer, packing: str = "tar", **model: object) -> None:
        digest = pack_kit(self.builder, "kit:v1", *layers, packing=packing, model=model)
        self.policy = Policy(code_digests=(Digest.parse(digest),))

    def open(self, policy: Policy | None = None) -> UnpackedKit:
        reference = LayoutReference(self.builder.directory, "kit", "v1", None)
        return self.library.open(reference, policy=self.policy if policy is None else policy)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def files(kit: UnpackedKit) -> list[str]:
    return sorted(str(path.relative_to(kit.path)) for path in kit.path.rglob("*") if path.is_file())


@pytest.mark.parametrize("packing", ["tar", "tar+gzip"])
@pytest.mark.parametrize(
    ("layer", "entry"),
    [
        (("code", "kitserve.py", {"kitserve.py": SOURCE}), "kitserve.py"),
        (("code", "src/kitserve.py", {"src/kitserve.py": SOURCE}), "src/kitserve.py"),
        (("code", ".", {"kitserve.py": SOURCE, **MORE}), "kitserve.py"),
        (("code", "src", {"src/kitserve.py": SOURCE, "src/more.py": b""}), "src/kitserve.py"),
        (("code", "./src/", {"src/kitserve.py": SOURCE}), "src/kitserve.py"),
    ],
)
def test_a_kitserve_py_at_the_root_of_a_code_layer(
    shelf: Shelf, layer: Layer, entry: str, packing: str
) -> None:
    shelf.pack(MODEL, layer, packing=packing)
    kit = shelf.open()
    assert kit.entry == PythonEntry(entry)
    assert files(kit) == sorted(["model.onnx", *layer[2]])
    choice = choose_runtime(kit, None, kit.verdict.code)
    assert (choice.runtime.name, choice.path, choice.format) == ("python", kit.path / entry, Format.PYTHON)
    kit.lease.release()
    assert shelf.open().from_cache


def test_a_kitserve_py_deeper_in_the_code_is_none(shelf: Shelf) -> None:
    shelf.pack(MODEL, ("code", ".", {"src/kitserve.py": SOURCE}))
    kit = shelf.open()
    assert kit.entry is None
    assert files(kit) == ["model.onnx"]
    assert choose_runtime(kit, None, kit.verdict.code).runtime.name == "onnx"


def test_a_kitserve_py_in_the_directory_of_the_model(shelf: Shelf) -> None:
    shelf.pack(("model", "m", {"m/model.onnx": identity_onnx(), "m/kitserve.py": SOURCE}))
    assert shelf.open().entry == PythonEntry("m/kitserve.py")
    with pytest.raises(UnusableModel, match=r"m/kitserve\.py is Python that serves the kit"):
        choose_runtime(shelf.open(ANYTHING), None, allow_code=False)


@pytest.mark.parametrize(
    ("stated", "entry"),
    [
        ("src/serve.py", PythonEntry("src/serve.py")),
        ("./src/serve.py", PythonEntry("src/serve.py")),
        ("src/serve.py:Model", PythonEntry("src/serve.py", "Model")),
    ],
)
def test_the_file_that_the_kitfile_names(shelf: Shelf, stated: str, entry: PythonEntry) -> None:
    code = {"src/serve.py": SOURCE, "src/kitserve.py": SOURCE}
    shelf.pack(MODEL, ("code", "src", code), parameters={"entry": stated})
    kit = shelf.open()
    assert kit.entry == entry
    assert choose_runtime(kit, None, kit.verdict.code).path == kit.path / "src" / "serve.py"
    assert choose_runtime(kit, "python", True, "src/serve.py").runtime.name == "python"


@pytest.mark.parametrize("value", ["main", 3, ["a.py"], {"file": "a.py"}, "a.py b"])
def test_parameters_of_another_form_are_the_kits_own(shelf: Shelf, value: object) -> None:
    shelf.pack(MODEL, parameters={"entry": value})
    assert shelf.open().entry is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("../serve.py", r"model\.parameters\.entry in its Kitfile: .* '\.\.' part"),
        ("/serve.py", r"absolute path"),
        ("serve.py:1a", r"'1a' is no name of a class; write `serve\.py:ClassName`"),
        ("serve.py:", r"'' is no name of a class"),
    ],
)
def test_an_entry_that_is_named_wrongly(shelf: Shelf, value: str, message: str) -> None:
    shelf.pack(MODEL, parameters={"entry": value})
    with pytest.raises(InvalidKitfile, match=message):
        shelf.open()


def test_an_entry_that_is_nowhere(shelf: Shelf) -> None:
    shelf.pack(MODEL, ("code", "src", {"src/a.py": b""}), parameters={"entry": "src/b.py"})
    with pytest.raises(UnusableModel, match=r"its entry should be at 'src/b\.py', and no layer has that"):
        choose_runtime(shelf.open(), None, allow_code=True)


CODE = ("code", "src", {"src/kitserve.py": SOURCE, "src/more.py": b""})


def test_without_leave_it_is_refused_though_the_model_could_be_served(shelf: Shelf) -> None:
    shelf.pack(MODEL, CODE)
    kit = shelf.open(ANYTHING)
    assert kit.entry == PythonEntry("src/kitserve.py")
    assert files(kit) == ["model.onnx"]
    with pytest.raises(UnusableModel) as caught:
        choose_runtime(kit, None, allow_code=False)
    text = str(caught.value)
    assert "src/kitserve.py is Python that serves the kit, and is run" in text
    assert "`allow_code: signed`" in text
    assert str(kit.kit.digest) in text
    assert "without its processing, write `file: model.onnx` or `runtime: onnx`" in text


def test_the_model_alone_is_served_where_the_config_says_so(shelf: Shelf) -> None:
    shelf.pack(MODEL, CODE)
    kit = shelf.open(ANYTHING)
    for hint, file in (("onnx", None), (None, "model.onnx"), ("onnx", "model.onnx")):
        assert choose_runtime(kit, hint, False, file).path == kit.path / "model.onnx"


def test_the_runtime_of_entries_needs_one(shelf: Shelf) -> None:
    shelf.pack(MODEL)
    kit = shelf.open()
    with pytest.raises(
        UnusableModel, match=r"there is no entry for the runtime 'python': put a `kitserve\.py`"
    ):
        choose_runtime(kit, "python", allow_code=True)
    with pytest.raises(UnusableModel, match=r"for the runtime 'python' beside `file: model\.onnx`"):
        choose_runtime(kit, "python", allow_code=True, file="model.onnx")


def test_the_code_comes_once_the_policy_allows_it(shelf: Shelf) -> None:
    shelf.pack(MODEL, CODE)
    refused = shelf.open(ANYTHING)
    assert files(refused) == ["model.onnx"]
    refused.lease.release()
    allowed = shelf.open()
    assert files(allowed) == ["model.onnx", "src/kitserve.py", "src/more.py"]
    assert choose_runtime(allowed, None, allowed.verdict.code).runtime.name == "python"
    allowed.lease.release()
    again = shelf.open(ANYTHING)
    with pytest.raises(UnusableModel, match=r"src/kitserve\.py is Python"):
        choose_runtime(again, None, again.verdict.code)


def test_a_kit_of_code_alone(shelf: Shelf) -> None:
    shelf.pack(CODE)
    kit = shelf.open()
    assert choose_runtime(kit, None, kit.verdict.code).path == kit.path / "src" / "kitserve.py"
    kit.lease.release()
    with pytest.raises(UnusableModel) as caught:
        choose_runtime(shelf.open(ANYTHING), None, allow_code=False)
    assert "without its processing" not in str(caught.value)


def test_a_kit_of_code_without_an_entry_has_no_model(shelf: Shelf) -> None:
    shelf.pack(("code", "src", {"src/more.py": b""}))
    for policy in (ANYTHING, shelf.policy):
        with pytest.raises(KitError, match="has no model; pack one"):
            shelf.open(policy)


def test_code_that_cannot_be_unpacked_does_not_hold_up_a_model_without_it(shelf: Shelf) -> None:
    shelf.pack(MODEL, ("code", ".", {"a/../../b": b""}))
    assert shelf.open(ANYTHING).entry is None


def test_an_inventory_of_an_earlier_release_is_completed(shelf: Shelf) -> None:
    shelf.pack(MODEL, CODE)
    kit = shelf.open(ANYTHING)
    kit.lease.release()
    seal = kit.path.with_name(f"{kit.path.name}.seal.json")
    seal.write_text(seal.read_text().replace('"entry":"src/kitserve.py"', '"entry":null'))
    assert shelf.open(ANYTHING).entry == PythonEntry("src/kitserve.py")


def test_the_license_of_the_code_counts_where_it_may_run(shelf: Shelf) -> None:
    shelf.pack(MODEL, CODE, license="MIT", parameters={"entry": "src/kitserve.py"})
    reference = LayoutReference(shelf.builder.directory, "kit", "v1", None)
    kit = shelf.library.describe(reference)
    code = tuple(entry.model_copy(update={"license": "Proprietary"}) for entry in kit.kitfile.code)
    kit = replace(kit, kitfile=kit.kitfile.model_copy(update={"code": code}))
    policy = Policy(licenses=("MIT",))
    assert shelf.library.judge(kit, policy).license == "MIT is allowed"
    with pytest.raises(NotTrusted, match="the kit states Proprietary"):
        shelf.library.judge(kit, replace(policy, code_digests=(kit.digest,)))
