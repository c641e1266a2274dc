"""Which file of a kit is served, and by which runtime."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import pytest
import torch

from runtimes import errors
from runtimes.base import Array, Datatype, LoadedModel, Resources, Signature, TensorSpec
from runtimes.errors import InputError, LoadError, ModelError, NoRuntime, SeveralModels, UnsafeFormat
from runtimes.formats import Format
from runtimes.input_check import InputCheck, check_inputs
from runtimes.select import check, choose, installed, names
from tests.support import gguf_files
from tests.support.model_files import Double, identity_onnx, save_script


def put(directory: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


ONNX = identity_onnx()
PICKLE = pickle.dumps(PurePosixPath("a class that is not on the list"))
KNOWN = pickle.dumps({"a": 1})


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_script(Double(), tmp_path_factory.mktemp("script") / "model.pt").read_bytes()


def test_the_built_in_runtimes_are_installed() -> None:
    assert list(installed())[:3] == ["onnx", "torchscript", "torch-export"]
    assert names() == list(installed())


def test_a_file(tmp_path: Path) -> None:
    choice = choose(put(tmp_path, model=ONNX) / "model")
    assert (choice.runtime.name, choice.path, choice.format) == ("onnx", tmp_path / "model", Format.ONNX)


def test_a_directory_with_companions(tmp_path: Path) -> None:
    put(tmp_path, deep__model=ONNX, config=b"{}", README=b"# hello", labels=b"a\nb\n", weights=bytes(99))
    assert choose(tmp_path).path == tmp_path / "deep" / "model"


def test_a_pickle_beside_the_model_is_left_alone(tmp_path: Path) -> None:
    assert choose(put(tmp_path, model=ONNX, scaler=PICKLE)).path == tmp_path / "model"


def test_several_models_are_listed(tmp_path: Path) -> None:
    with pytest.raises(NoRuntime, match=r"a/x, b.*model\.path"):
        choose(put(tmp_path, a__x=ONNX, b=ONNX))


def test_a_hint_binds(tmp_path: Path, script: bytes) -> None:
    put(tmp_path, one=ONNX, two=script)
    assert choose(tmp_path, "torchscript").path == tmp_path / "two"
    with pytest.raises(NoRuntime, match="no runtime 'mxnet'; installed are onnx, torchscript, torch-export"):
        choose(tmp_path, "mxnet")
    with pytest.raises(NoRuntime, match=r"'torchscript' does not read .*one: it is ONNX, for 'onnx'"):
        choose(tmp_path / "one", "torchscript")


@pytest.mark.parametrize(
    ("framework", "name"), [("ONNX", "one"), ("Torch-Script", "two"), ("TorchScript", "two")]
)
def test_a_framework_breaks_a_tie(tmp_path: Path, script: bytes, framework: str, name: str) -> None:
    assert choose(put(tmp_path, one=ONNX, two=script), framework=framework).path == tmp_path / name


def test_a_framework_never_overrides_content(tmp_path: Path) -> None:
    assert choose(put(tmp_path, model=ONNX), framework="torchscript").runtime.name == "onnx"
    with pytest.raises(NoRuntime, match="several models"):
        choose(put(tmp_path, other=ONNX), framework="sklearn")


@pytest.mark.parametrize("hint", [None, "onnx"])
def test_code_is_refused_by_name_with_advice(tmp_path: Path, hint: str | None) -> None:
    put(tmp_path, README=b"# hello", **{"model.onnx": PICKLE})
    with pytest.raises(UnsafeFormat, match=r"model\.onnx is a pickle.*export the model to ONNX"):
        choose(tmp_path, hint)


def test_weights_without_a_program_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(UnsafeFormat, match=r"weights\.pt is a PyTorch checkpoint.*weights but no program"):
        choose(tmp_path)


@pytest.mark.parametrize(
    ("files", "titles"),
    [({}, "no file"), ({"a": b"\x1c\0\0\0TFL3"}, "TensorFlow Lite"), ({"a": b"{}", "b": b"x"}, "JSON, text")],
)
def test_nothing_fits(tmp_path: Path, files: dict[str, bytes], titles: str) -> None:
    with pytest.raises(NoRuntime, match=rf"found {titles}; supported are ONNX \(onnx\), TorchScript"):
        choose(put(tmp_path, **files))


NO_MODELS = [
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
        "is a Git LFS pointer.*: run git lfs pull before kit pack$",
    ),
    (b"<!doctype html><html>", "is an HTML page and no model.*: download the model again"),
    (
        gzip.compress(ONNX, mtime=0),
        "is an archive or a compressed file and no model: unpack it before kit pack",
    ),
    (b"", "is empty"),
    (ONNX[:-3], "is an ONNX file that is cut short: copy or export it again"),
    (
        b"\x89HDF\r\n\x1a\n" + bytes(90),
        r"is an HDF5 file, as Keras writes to \.h5, which this release does not serve: save .* as \.keras",
    ),
    (
        b"binf\0\0\0?",
        r"is a model of XGBoost in its old binary format.*: load it with XGBoost 2\.1, and save_model",
    ),
    (b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model, which this release does not serve: export it to ONNX"),
    (b'{"name":"tree","version":"v4"', r"is a dump of LightGBM's .*: pack what save_model"),
    (b'[{"nodeid":0', r"is a dump of XGBoost's .*: pack what save_model"),
]


@pytest.mark.parametrize(("data", "text"), NO_MODELS)
@pytest.mark.parametrize("hint", [None, "onnx"])
def test_what_is_no_model_is_named_with_what_to_do(
    tmp_path: Path, data: bytes, text: str, hint: str | None
) -> None:
    put(tmp_path, **{"model.onnx": data, "config.json": b"{}", "README": b"# hello"})
    with pytest.raises(NoRuntime, match=rf"^{tmp_path}/model\.onnx {text}"):
        choose(tmp_path, hint)


@pytest.mark.parametrize("beside", [PICKLE, KNOWN])
def test_a_pointer_is_told_before_the_pickle_beside_it(tmp_path: Path, beside: bytes) -> None:
    put(tmp_path, scaler=beside, **{"model.onnx": NO_MODELS[0][0]})
    with pytest.raises(NoRuntime, match="Git LFS pointer"):
        choose(tmp_path)


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="nowhere does not exist"):
        choose(tmp_path / "nowhere")


def test_links_are_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "outside", model=ONNX)
    inside = put(tmp_path / "inside", README=b"x")
    (inside / "model").symlink_to(tmp_path / "outside" / "model")
    (inside / "more").symlink_to(tmp_path / "outside")
    with pytest.raises(NoRuntime, match="found text"):
        choose(inside)


def test_a_crowd_of_files_is_refused(tmp_path: Path) -> None:
    put(tmp_path, **{f"f{number}": b"x" for number in range(1_001)})
    with pytest.raises(NoRuntime, match="over 1000 files"):
        choose(tmp_path)


PLUGIN = """
class {name}:
    name = "{runtime}"
    formats = ({format},)
    def load(self, path, resources): raise NotImplementedError
    def signature(self, path): return None
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Put a distribution on the path, with one module and one entry point."""
    site = tmp_path / "site"
    modules = []

    def install(entry: str, module: str, source: str) -> None:
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[kitserve.runtimes]\n{entry}\n")
        (site / f"{module}.py").write_text("from runtimes.formats import Format\n" + source)
        modules.append(module)

    monkeypatch.syspath_prepend(site)
    yield install
    for module in modules:
        sys.modules.pop(module, None)


def test_a_third_partys_runtime_is_chosen(tmp_path: Path, install: Callable[[str, str, str], None]) -> None:
    install(
        "tflite = ks_lite:Lite",
        "ks_lite",
        PLUGIN.format(name="Lite", runtime="tflite", format="Format.TFLITE"),
    )
    put(tmp_path / "kit", model=b"\x1c\0\0\0TFL3")
    assert choose(tmp_path / "kit").runtime.name == "tflite"
    assert choose(tmp_path / "kit", "tflite").path == tmp_path / "kit" / "model"


def test_built_in_runtimes_come_before_a_third_partys(
    tmp_path: Path, install: Callable[[str, str, str], None]
) -> None:
    install(
        "fast = ks_fast:Fast", "ks_fast", PLUGIN.format(name="Fast", runtime="fast", format="Format.ONNX")
    )
    put(tmp_path / "kit", model=ONNX)
    assert choose(tmp_path / "kit").runtime.name == "onnx"
    assert choose(tmp_path / "kit", "fast").runtime.name == "fast"
    assert choose(tmp_path / "kit", framework="fast").runtime.name == "fast"


@pytest.mark.parametrize(
    ("entry", "source", "message"),
    [
        (
            "onnx = ks_bad:Mine",
            PLUGIN.format(name="Mine", runtime="onnx", format=""),
            "two runtimes.*'onnx'.*ks_bad:Mine",
        ),
        ("bad = ks_bad:Mine", "raise OSError('no library')\n", "'bad' .*ks_bad:Mine.* is broken.*no library"),
        ("bad = ks_bad:Missing", "", "'bad' .*ks_bad:Missing.* is broken"),
        ("bad = ks_bad:Mine", "class Mine: pass\n", "'bad' .*is not a Runtime"),
        (
            "bad = ks_bad:Mine",
            PLUGIN.format(name="Mine", runtime="other", format=""),
            "not a Runtime of that name",
        ),
    ],
)
def test_a_bad_plugin_is_named(
    install: Callable[[str, str, str], None], entry: str, source: str, message: str
) -> None:
    install(entry, "ks_bad", source.replace("formats = (,)", "formats = ()"))
    with pytest.raises(NoRuntime, match=message):
        installed()


def test_choosing_imports_no_engine(tmp_path: Path) -> None:
    put(tmp_path, model=ONNX)
    program = (
        "import sys, pathlib; from runtimes.select import choose;"
        f"choice = choose(pathlib.Path({str(tmp_path)!r})); choice.runtime.signature(choice.path);"
        "sys.exit(bool({'torch', 'onnxruntime', 'gateway'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class Halves:
    """A complete runtime in a few lines, as a third party would write it."""

    name: ClassVar[str] = "halves"
    formats: ClassVar[tuple[Format, ...]] = (Format.TEXT,)

    def load(self, path: Path, resources: Resources) -> LoadedModel:
        raise LoadError(f"{path}: not today, with {resources.threads} threads")

    def signature(self, path: Path) -> Signature | None:
        return None


def test_runtimes_may_be_given(tmp_path: Path) -> None:
    choice = choose(put(tmp_path, model=b"text"), runtimes={"halves": Halves()})
    with pytest.raises(LoadError, match="with 3 threads"):
        choice.runtime.load(choice.path, Resources(cpus=2.5))


@pytest.mark.parametrize("cls", [getattr(errors, name) for name in dir(errors) if name[0].isupper()])
def test_errors_travel_between_processes(cls: type[ModelError]) -> None:
    error = pickle.loads(pickle.dumps(cls("model.bin: said so")))
    assert (type(error), str(error)) == (cls, "model.bin: said so")
    assert issubclass(cls, ModelError)


@pytest.mark.parametrize(("cpus", "threads"), [(0, 1), (0.5, 1), (1, 1), (1.1, 2), (8, 8)])
def test_threads(cpus: float, threads: int) -> None:
    assert Resources(cpus).threads == threads


@pytest.mark.parametrize("datatype", Datatype)
def test_datatypes_go_both_ways(datatype: Datatype) -> None:
    assert Datatype.of(datatype.numpy) is datatype


@pytest.mark.parametrize("dtype", ["c8", ">f4", "M8[s]", "g"])
def test_dtypes_without_a_datatype_are_input_errors(dtype: str) -> None:
    with pytest.raises(InputError, match="has no datatype"):
        Datatype.of(np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["O", "S4", "U4"])
def test_strings_of_any_kind_are_bytes(dtype: str) -> None:
    check_inputs(Signature((TensorSpec("x", "BYTES", (1,)),), ()), {"x": np.array(["a"], dtype)})


SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64"), TensorSpec("c", "BOOL", ())), ()
)
GOOD: dict[str, Array] = {
    "a": np.ones((3, 2), np.float32),
    "b": np.ones((1, 1, 1), np.int64),
    "c": np.array(True),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.ones((3, 2))}, "input 'a' must be FP32, not FP64"),
        ({"a": np.ones((3, 2), ">f4")}, "input 'a' must be FP32, not numpy >f4"),
        (
            {"a": np.ones((2, 3))},
            "input 'a' must be FP32 of shape [-1, 2] (-1: any length), not FP64 of shape [2, 3]",
        ),
        ({"a": np.ones(2, np.float32)}, "input 'a' must have shape [-1, 2] (-1: any length), not [2]"),
        (
            {"a": np.ones((3, 3), np.float32)},
            "input 'a' must have shape [-1, 2] (-1: any length), not [3, 3]",
        ),
        ({"b": np.ones(1, np.int32)}, "input 'b' must be INT64, not INT32"),
        ({"c": np.ones(1, bool)}, "input 'c' must have shape [], not [1]"),
        ({"c": np.array(1.5)}, "input 'c' must be BOOL, not FP64"),
        ({"c": np.ones(1)}, "input 'c' must be BOOL of shape [], not FP64 of shape [1]"),
        ({"d": np.ones(1)}, "unknown input 'd'; the model takes 'a', 'b', 'c'"),
        ({"d": np.ones(1), "e": np.ones(1)}, "unknown inputs 'd', 'e'; the model takes 'a', 'b', 'c'"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Array], message: str) -> None:
    check = InputCheck(SIGNATURE)
    check(GOOD)
    with pytest.raises(InputError) as caught:
        check({**GOOD, **change})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ac", "input 'b' is missing; the model takes 'a', 'b', 'c'"),
        ("b", "inputs 'a', 'c' are missing; the model takes 'a', 'b', 'c'"),
        ("", "inputs 'a', 'b', 'c' are missing; the model takes 'a', 'b', 'c'"),
        ("abx", "unknown input 'x', and input 'c' is missing; the model takes 'a', 'b', 'c'"),
        ("xybc", "unknown inputs 'x', 'y', and input 'a' is missing; the model takes 'a', 'b', 'c'"),
    ],
)
def test_missing_and_unknown_inputs_are_named(names: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(SIGNATURE, {name: GOOD.get(name, GOOD["a"]) for name in names})
    assert str(caught.value) == message


def test_a_model_without_inputs_takes_none() -> None:
    with pytest.raises(InputError, match=r"^unknown input 'x'; the model takes no inputs$"):
        check_inputs(Signature((), ()), {"x": GOOD["a"]})


def test_a_gguf_model_is_chosen_among_what_only_helps_it(tmp_path: Path) -> None:
    model = gguf_files.tiny_llama(tmp_path / "model.gguf")
    gguf_files.projector(tmp_path / "a-mmproj.gguf")
    gguf_files.tiny_adapter(tmp_path / "adapter.gguf")
    choice = choose(tmp_path)
    assert (choice.runtime.name, choice.path) == ("gguf", model)


def test_the_first_part_of_a_split_gguf_model_is_chosen(tmp_path: Path) -> None:
    first, second = gguf_files.split(tmp_path, "tiny")
    assert choose(tmp_path).path == first
    # What is missing is told by the check of the part that is there.
    first.unlink()
    assert choose(tmp_path).path == second
    with pytest.raises(LoadError, match=r"tiny-00001-of-00002\.gguf is not beside it"):
        check(choose(tmp_path))


def test_several_quantizations_are_several_models(tmp_path: Path) -> None:
    gguf_files.tiny_llama(tmp_path / "q4.gguf")
    gguf_files.tiny_llama(tmp_path / "q8.gguf")
    gguf_files.split(tmp_path, "f16")
    with pytest.raises(SeveralModels) as caught:
        choose(tmp_path)
    names = [Path(path).name for path in caught.value.paths]
    assert names == ["f16-00001-of-00002.gguf", "q4.gguf", "q8.gguf"]


def test_a_projector_alone_is_chosen_to_be_refused_as_what_it_is(tmp_path: Path) -> None:
    gguf_files.projector(tmp_path / "mmproj.gguf")
    with pytest.raises(LoadError, match="is a projector"):
        check(choose(tmp_path))


def test_an_adapter_does_not_hide_a_model_of_another_format(tmp_path: Path) -> None:
    gguf_files.tiny_adapter(put(tmp_path, model=ONNX) / "adapter.gguf")
    assert choose(tmp_path).runtime.name == "onnx"


def test_a_language_model_of_hugging_face_is_for_two_runtimes_of_which_the_config_may_name_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}  ")
    assert choose(tmp_path).runtime.name == "transformers-generation"
    assert choose(tmp_path, framework="transformers").runtime.name == "transformers-generation"
    assert choose(tmp_path, "vllm").runtime.name == "vllm"
    with pytest.raises(NoRuntime, match="Hugging Face language model, for 'transformers-generation'"):
        choose(tmp_path, "onnx")


def test_a_class_of_a_notebook_is_refused_with_where_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02c__main__\nMine\n)\x81.")
    with pytest.raises(UnsafeFormat) as caught:
        choose(path)
    assert "it imports __main__.Mine" in str(caught.value)
    assert "write it into a kitserve.py of the kit" in str(caught.value)
