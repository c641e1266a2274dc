"""A kit's runtime is chosen as the policy has it, and a refusal says what the policy could do."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from gateway.errors import UnusableModel
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.model import choose_runtime, load
from gateway.oci.reference import LayoutReference, parse_reference
from runtimes.base import Resources, TensorModel
from runtimes.formats import Format
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.model_files import identity_onnx
from tests.support.pickles import CODE_IMPORTS, code_kit


@pytest.fixture
def kit(tmp_path: Path, layout: Path) -> Callable[[str], UnpackedKit]:
    library = Library(tmp_path)
    return lambda name: library.open(parse_reference(f"oci-layout:{layout}:samples/{name}"))


@pytest.fixture
def code(tmp_path: Path) -> UnpackedKit:
    """A kit whose model is a pickle that runs code."""
    return Library(tmp_path / "code").open(parse_reference(code_kit(tmp_path / "code-layout")))


def test_a_pickle_of_known_libraries_is_served_unless_the_policy_refuses_it(
    kit: Callable[[str], UnpackedKit],
) -> None:
    pickled = kit("iris-pickle:v1")
    choice = choose_runtime(pickled, None)
    assert choice.format is Format.KNOWN_PICKLE
    model = load(pickled, choice, Resources())
    assert isinstance(model, TensorModel)
    assert model.infer({"input": np.array([[5.1, 3.5, 1.4, 0.2]])})["predict"].tolist() == [0]
    with pytest.raises(UnusableModel, match="the policy allows no pickles") as caught:
        choose_runtime(pickled, None, allow_pickles=False)
    assert str(caught.value).endswith("let the policy allow pickles of known libraries with `pickles: known`")
    assert choose_runtime(pickled, None, allow_code=True, allow_pickles=False).format is Format.KNOWN_PICKLE


def test_a_pickle_is_refused_with_what_it_imports_and_how_to_allow_it(code: UnpackedKit) -> None:
    pickled = code
    with pytest.raises(UnusableModel) as caught:
        choose_runtime(pickled, None)
    text = str(caught.value)
    assert text.startswith(
        f"{pickled.kit.reference}: model/iris.joblib is a pickle (joblib included), which runs"
    )
    assert CODE_IMPORTS in text
    assert "_operator.pos (dangerous). " in text
    assert "it imports _operator.pos, which is not on the list of known names" in text
    assert "export the model to ONNX" in text
    assert "sign it and set `allow_code: signed`" in text
    assert text.endswith(f"or list its digest there, {pickled.kit.digest}")


def test_a_pickle_is_served_where_code_is_allowed_and_that_is_logged(
    code: UnpackedKit, caplog: pytest.LogCaptureFixture
) -> None:
    pickled = code
    with caplog.at_level(logging.WARNING, "gateway.kits.model"):
        choice = choose_runtime(pickled, None, allow_code=True)
    (record,) = caplog.records
    assert record.getMessage() == "code allowed"
    assert vars(record)["path"] == "model/iris.joblib"
    assert "sklearn.ensemble" in vars(record)["imports"]
    model = load(pickled, choice, Resources())
    assert isinstance(model, TensorModel)
    assert model.infer({"input": np.array([[5.1, 3.5, 1.4, 0.2]])})["predict"].tolist() == [0]


@pytest.mark.parametrize("allow_code", [False, True])
def test_weights_cannot_be_served_whatever_the_policy(
    kit: Callable[[str], UnpackedKit], *, allow_code: bool
) -> None:
    with pytest.raises(UnusableModel, match=r"weights\.pt .*cannot be served at all") as caught:
        choose_runtime(kit("iris-statedict:v1"), None, allow_code=allow_code)
    assert "policy" not in str(caught.value)


@pytest.mark.parametrize("name", ["iris:v1", "iris-torchscript:v1", "iris-export:v1"])
def test_allowing_code_changes_nothing_for_others(kit: Callable[[str], UnpackedKit], name: str) -> None:
    one = kit(name)
    assert choose_runtime(one, None).runtime.name == choose_runtime(one, None, allow_code=True).runtime.name


def test_a_hint_that_does_not_fit_is_told_before_the_policy(kit: Callable[[str], UnpackedKit]) -> None:
    with pytest.raises(UnusableModel) as caught:
        choose_runtime(kit("iris-pickle:v1"), "onnx")
    assert "policy" not in str(caught.value)


FP32, INT8 = identity_onnx(), identity_onnx(3)


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., UnpackedKit]:
    """Open a kit of these files: the first is the model, the others its parts."""

    def pack(**files: bytes) -> UnpackedKit:
        builder = LayoutBuilder(tmp_path / "layout")
        paths = [path.replace("__", "/").replace("_dot_", ".") for path in files]
        kinds = ["model", *["part"] * (len(paths) - 1)]
        layers = zip(kinds, paths, files.values(), strict=True)
        pack_kit(builder, "kit:v1", *((kind, path, {path: data}) for kind, path, data in layers))
        return Library(tmp_path / "library").open(LayoutReference(builder.directory, "kit", "v1", None))

    return pack


def chosen(kit: UnpackedKit, hint: str | None = None, file: str | None = None) -> str:
    return str(choose_runtime(kit, hint, file=file).path.relative_to(kit.path))


def test_of_several_files_the_kitfile_or_the_config_chooses(packed: Callable[..., UnpackedKit]) -> None:
    kit = packed(onnx__model_dot_onnx=FP32, onnx__model_int8_dot_onnx=INT8)
    assert chosen(kit) == "onnx/model.onnx"
    assert chosen(kit, file="onnx/model_int8.onnx") == "onnx/model_int8.onnx"
    assert chosen(kit, "onnx", file="./onnx/model_int8.onnx") == "onnx/model_int8.onnx"


def torch_checkpoint(path: Path) -> bytes:
    torch.save({"w": torch.ones(2)}, path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "pytorch_model.bin", "tflite", "keras.h5"])
def test_weights_give_way_to_the_one_model_beside_them(
    packed: Callable[..., UnpackedKit], tmp_path: Path, kind: str
) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    weights = {
        "safetensors": len(header).to_bytes(8, "little") + header + bytes(4),
        "pytorch_model.bin": torch_checkpoint(tmp_path / "weights"),
        "tflite": b"\x1c\0\0\0TFL3",
        "keras.h5": b"\x89HDF\r\n\x1a\n" + bytes(90),
    }[kind]
    kit = packed(weights=weights, onnx__model_dot_onnx=FP32, config_dot_json=b"{}")
    assert chosen(kit) == "onnx/model.onnx"
    with pytest.raises(UnusableModel, match=r"this release does not serve|weights but no program"):
        chosen(kit, file="weights")


def test_a_gguf_model_gives_way_to_none_but_where_another_runtime_is_asked_for(
    packed: Callable[..., UnpackedKit],
) -> None:
    kit = packed(weights=b"GGUF" + bytes(20), onnx__model_dot_onnx=FP32, config_dot_json=b"{}")
    assert chosen(kit) == "weights"
    assert chosen(kit, "onnx") == "onnx/model.onnx"


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (
            b"1.0\n",
            r"found text; supported are .*; model\.onnx can be served: write `file: model\.onnx` beside",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", r"run git lfs pull before kit pack$"),
    ],
    ids=["text", "pointer"],
)
def test_a_model_is_offered_in_place_of_a_text_alone(
    packed: Callable[..., UnpackedKit], named: bytes, text: str
) -> None:
    with pytest.raises(UnusableModel, match=text):
        chosen(packed(named=named, model_dot_onnx=FP32))


def test_several_models_beside_weights_are_listed_with_how_to_choose(
    packed: Callable[..., UnpackedKit],
) -> None:
    weights = b"\x1c\0\0\0TFL3"
    kit = packed(weights=weights, onnx__model_dot_onnx=FP32, onnx__model_int8_dot_onnx=INT8)
    with pytest.raises(UnusableModel) as caught:
        chosen(kit)
    assert str(caught.value) == (
        f"{kit.kit.reference}: the kit has several models: onnx/model.onnx, onnx/model_int8.onnx; choose one "
        "beside `kit` in the config, such as `file: onnx/model.onnx`, or as model.path in the Kitfile"
    )
    assert chosen(kit, file="onnx/model_int8.onnx") == "onnx/model_int8.onnx"


@pytest.mark.parametrize(
    "model", [b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", FP32[:-3], b"", b"<html>"]
)
def test_a_damaged_model_never_gives_way_to_another_file(
    packed: Callable[..., UnpackedKit], model: bytes
) -> None:
    with pytest.raises(UnusableModel, match=r": model\.onnx is "):
        chosen(packed(model_dot_onnx=model, scaler_dot_onnx=FP32))


def test_a_pickle_never_gives_way_to_another_file(packed: Callable[..., UnpackedKit]) -> None:
    with pytest.raises(UnusableModel, match=r"model\.pkl is a pickle"):
        chosen(packed(model_dot_pkl=pickle.dumps(PurePosixPath("a")), scaler_dot_onnx=FP32))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("onnx/model_fp16.onnx", r"there is no file 'onnx/model_fp16\.onnx' among .* there are a\.onnx, b$"),
        ("onnx", "there is no file 'onnx' among"),
        ("../outside", "`file` is no path within the kit: "),
        ("/etc/passwd", "`file` is no path within the kit: "),
    ],
)
def test_a_file_that_is_not_there_is_told_with_those_that_are(
    packed: Callable[..., UnpackedKit], file: str, text: str
) -> None:
    with pytest.raises(UnusableModel, match=text):
        chosen(packed(a_dot_onnx=FP32, b=b"x"), file=file)


def test_a_runtime_that_computes_on_cpus_takes_no_gpu(kit: Callable[[str], UnpackedKit]) -> None:
    pickled = kit("iris-pickle:v1")
    choice = choose_runtime(pickled, None, allow_code=True)
    with pytest.raises(UnusableModel, match=r"asks for 0\.5 GPUs, and the runtime sklearn computes on CPUs"):
        load(pickled, choice, Resources(gpus=0.5))
