"""OpenVINO keeps the contract, on graphs that are made with its own Python interface."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import openvino
import pytest
from openvino import opset13 as ops
from openvino import opset15

from runtimes.base import Array, Resources, TensorSpec
from runtimes.errors import InputError, LoadError, NoRuntime
from runtimes.openvino import ir_file
from runtimes.openvino.runtime import OpenVinoRuntime
from runtimes.select import choose
from runtimes.testing import ProcessContract, TensorContract
from tests.support.model_files import identity_onnx

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


def parameter(name: str, datatype: str, shape: Any) -> Any:
    node = ops.parameter(openvino.PartialShape(shape), getattr(openvino.Type, datatype), name=name)
    node.output(0).set_names({name})
    return node


def named(output: Any, *names: str) -> Any:
    output.set_names(set(names))
    return output


def save(directory: Path, outputs: list[Any], inputs: list[Any], name: str = "model.xml") -> Path:
    path = directory / name
    openvino.save_model(openvino.Model(outputs, inputs, "sample"), path, compress_to_fp16=False)
    return path


def save_classifier(directory: Path) -> Path:
    x = parameter("flowers", "f32", [-1, 4])
    logits = ops.matmul(x, ops.constant(WEIGHTS), False, False)
    return save(
        directory,
        [named(logits.output(0), "logits"), named(ops.softmax(logits, 1).output(0), "probabilities")],
        [x],
    )


def own_answers(path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    """What OpenVINO itself says, by name."""
    compiled = openvino.Core().compile_model(path, "CPU", FP32)
    return {port.any_name: array for port, array in compiled(inputs).items()}


class TestOpenVino(TensorContract, ProcessContract):
    engine = "openvino"

    @pytest.fixture
    def runtime(self) -> OpenVinoRuntime:
        return OpenVinoRuntime()

    @pytest.fixture
    def model_path(self, tmp_path: Path) -> Path:
        return save_classifier(tmp_path)

    @pytest.fixture
    def model_root(self, model_path: Path) -> Path:
        return model_path.parent

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"flowers": flowers}

    @pytest.fixture
    def expected(self, model_path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
        return own_answers(model_path, inputs)

    def test_equals_what_numpy_computes(self, model_path: Path, flowers: Array) -> None:
        model = OpenVinoRuntime().load(model_path, Resources())
        np.testing.assert_allclose(model.infer({"flowers": flowers})["logits"], flowers @ WEIGHTS, rtol=1e-5)

    def test_is_chosen_by_its_content(self, model_path: Path) -> None:
        model_path = model_path.rename(model_path.with_suffix(".txt"))
        choice = choose(model_path.parent)
        assert (choice.runtime.name, choice.path) == ("openvino", model_path)

    def test_another_form_of_the_model_is_preferred(self, model_path: Path) -> None:
        (model_path.parent / "model.onnx").write_bytes(identity_onnx())
        assert choose(model_path.parent).runtime.name == "onnx"
        assert choose(model_path.parent, framework="OpenVINO").runtime.name == "openvino"

    def test_it_computes_with_the_threads_that_it_is_given(self, model_path: Path) -> None:
        model = OpenVinoRuntime().load(model_path, Resources(cpus=2))
        compiled = model._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
        assert not compiled.get_property("ENABLE_CPU_PINNING")


class TestNames(TensorContract):
    """Inputs of several names, outputs of a port without one, two datatypes, two inputs."""

    engine = "openvino"

    @pytest.fixture
    def runtime(self) -> OpenVinoRuntime:
        return OpenVinoRuntime()

    @pytest.fixture
    def model_path(self, tmp_path: Path) -> Path:
        x, n = parameter("x", "f32", [openvino.Dimension(1, 8), 4]), parameter("n", "i64", [-1])
        named(n.output(0), "second", "n,with comma", "a2")
        halves = ops.split(x, ops.constant(1), 2)
        path = save(
            tmp_path, [halves.output(1), ops.abs(n).output(0), ops.relu(halves.output(0)).output(0)], [n, x]
        )
        text = path.read_text()
        path.write_text(re.sub(r' (output_)?names="Result_\d+"', "", text))
        return path

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"a2": np.array([-3, 4]), "x": np.arange(-4, 4, dtype=np.float32).reshape(2, 4)}

    @pytest.fixture
    def expected(self, model_path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
        split, absolute, relu = [
            re.search(rf'name="({kind}_\d+)"', model_path.read_text())[1]  # type: ignore[index]
            for kind in ("Split", "Abs", "Relu")
        ]
        x = inputs["x"]
        return {f"{split}.1": x[:, 2:], absolute: np.array([3, 4]), relu: np.maximum(x[:, :2], 0)}


class TestStrings(TensorContract):
    engine = "openvino"

    @pytest.fixture
    def runtime(self) -> OpenVinoRuntime:
        return OpenVinoRuntime()

    @pytest.fixture
    def model_path(self, tmp_path: Path) -> Path:
        text = parameter("text", "string", [-1])
        parts = opset15.string_tensor_unpack(text).outputs()
        return save(tmp_path, [named(opset15.string_tensor_pack(*parts).output(0), "same")], [text])

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"text": np.array(["øre".encode(), b"", b"\xff\0x"], dtype=object)}

    @pytest.fixture
    def expected(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return {"same": inputs["text"]}

    def test_what_numpy_would_cut_off_is_refused(self, model_path: Path) -> None:
        model = OpenVinoRuntime().load(model_path, Resources())
        with pytest.raises(InputError, match="'text' has a text that ends in a zero byte"):
            model.infer({"text": np.array([b"a\0"], dtype=object)})


@pytest.mark.parametrize(
    ("datatype", "numpy", "expected"),
    [
        ("boolean", np.bool_, "BOOL"),
        ("u8", np.uint8, "UINT8"),
        ("u32", np.uint32, "UINT32"),
        ("i8", np.int8, "INT8"),
        ("i64", np.int64, "INT64"),
        ("f16", np.float16, "FP16"),
        ("bf16", ml_dtypes.bfloat16, "BF16"),
        ("f64", np.float64, "FP64"),
    ],
)
def test_datatypes(tmp_path: Path, datatype: str, numpy: Any, expected: str) -> None:
    x = parameter("x", datatype, [-1, 2])
    path = save(tmp_path, [named(ops.concat([x, x], 1).output(0), "y")], [x])
    model = OpenVinoRuntime().load(path, Resources())
    assert model.signature.inputs == (TensorSpec("x", expected, (-1, 2)),)
    assert model.signature.outputs == (TensorSpec("y", expected, (-1, 4)),)
    array = np.array([[0, 1], [1, 1]]).astype(numpy)
    result = model.infer({"x": array})["y"]
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, np.concatenate([array, array], 1))


def test_files_of_version_10_have_the_datatypes_that_openvino_makes_of_them(tmp_path: Path) -> None:
    x, n = parameter("x", "f16", [-1, 2]), parameter("n", "i64", [-1])
    path = save(tmp_path, [ops.abs(x).output(0), ops.abs(n).output(0)], [x, n])
    text = re.sub(r' (output_)?names="[^"]*"', "", path.read_text()).replace('version="11"', 'version="10"')
    path.write_text(text)
    model = OpenVinoRuntime().load(path, Resources())
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,)))
    assert [spec.datatype for spec in model.signature.outputs] == ["FP32", "INT32"]
    answers = model.infer({"x": np.array([[-1, 2]], np.float32), "n": np.array([-3])})
    assert [array.tolist() for array in answers.values()] == [[[1, 2]], [3]]


def test_a_number_as_input_and_output(tmp_path: Path) -> None:
    x, factor = parameter("x", "f32", [3]), parameter("factor", "f32", [])
    product = ops.reduce_sum(ops.multiply(x, factor), ops.constant(0), False)
    path = save(tmp_path, [named(product.output(0), "total")], [x, factor])
    model = OpenVinoRuntime().load(path, Resources())
    assert model.signature.inputs == (TensorSpec("x", "FP32", (3,)), TensorSpec("factor", "FP32", ()))
    assert model.signature.outputs == (TensorSpec("total", "FP32", None),)
    total = model.infer({"x": np.array([1, 2, 3], np.float32), "factor": np.array(2, np.float32)})["total"]
    assert (total.shape, float(total)) == ((), 12.0)


def test_one_tensor_that_is_given_twice_is_one_output(tmp_path: Path) -> None:
    x = parameter("x", "f32", [-1])
    y = named(ops.abs(x).output(0), "y")
    model = OpenVinoRuntime().load(save(tmp_path, [y, y], [x]), Resources())
    assert {name: a.tolist() for name, a in model.infer({"x": np.array([-1], np.float32)}).items()} == {
        "y": [1]
    }


def test_what_a_call_leaves_behind_is_forgotten(tmp_path: Path) -> None:
    x = parameter("x", "f32", [1])
    info = openvino.op.util.VariableInfo()
    info.data_shape, info.data_type, info.variable_id = (
        openvino.PartialShape([1]),
        openvino.Type.f32,
        "sum",
    )
    variable = openvino.op.util.Variable(info)
    total = ops.add(ops.read_value(ops.constant(np.array([0], np.float32)), variable), x)
    sink = ops.assign(total, variable)
    path = tmp_path / "model.xml"
    result = ops.result(named(total.output(0), "sum"))
    openvino.save_model(openvino.Model([result], [sink], [x], "state"), path, compress_to_fp16=False)
    model = OpenVinoRuntime().load(path, Resources())
    assert [model.infer({"x": np.array([5], np.float32)})["sum"].tolist() for _ in range(3)] == [
        [5],
        [5],
        [5],
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'type="MatMul" version="opset1"',
            'type="Tokenizer" version="extension"',
            "custom operation 'Tokenizer'",
        ),
        ('<net name="sample" version="11">', '<net name="sample" version="7">', "IR of version '7'.*2022.1"),
        ('<?xml version="1.0"?>', '<?xml version="1.0"?><!--x-->', ""),
        ('element_type="f32" />', 'element_type="nf4" />', "datatype 'nf4' at 'flowers'"),
        ('to-layer="4"', 'to-layer="9"', "that nothing feeds"),
        ('type="MatMul"', 'type="NoSuch"', r"OpenVINO [\d.]+ refuses .*NoSuch"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = save_classifier(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if not message:
        OpenVinoRuntime().load(path, Resources())
        return
    with pytest.raises(LoadError, match=message):
        OpenVinoRuntime().load(path, Resources())


@pytest.mark.parametrize("place", ["-4", "+4", " 4", "0x4", "18446744073709551612", "9" * 5000, ""])
def test_weights_are_at_plain_numbers(tmp_path: Path, place: str) -> None:
    path = tmp_path / "model.xml"
    data = f'<data element_type="f32" shape="1" offset="{place}" size="4"/>'
    path.write_text(
        f'<net name="m" version="11"><layers><layer id="0" name="c" type="Const" version="opset1">{data}'
        "</layer></layers></net>"
    )
    with pytest.raises(LoadError, match="which is no place"):
        ir_file.read(path)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ('<layer type="Result"/>' * 10_001, "more than 10000 inputs and outputs"),
        ("<layer><output><port><dim>" + " " * 1000 + "</dim></port></output></layer>", "dimension that is"),
    ],
)
def test_a_file_that_is_made_to_take_memory(tmp_path: Path, layers: str, message: str) -> None:
    path = tmp_path / "model.xml"
    path.write_text(f'<net name="m" version="11"><layers>{layers}</layers></net>')
    with pytest.raises(LoadError, match=message):
        ir_file.read(path)


def test_entities_are_refused(tmp_path: Path) -> None:
    path = save_classifier(tmp_path)
    laughs = '<!DOCTYPE net [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    path.write_text(path.read_text().replace('sample" version="11">', f'sample" version="11">{laughs}', 1))
    with pytest.raises(LoadError, match=r"not well-formed|document type"):
        OpenVinoRuntime().check(path)
    path.write_text(f"{laughs}<net/>")
    with pytest.raises(NoRuntime):
        choose(path)


@pytest.mark.parametrize(("size", "message"), [(None, "model.bin is missing"), (47, "has 47 bytes, and")])
def test_weights_that_are_not_whole(tmp_path: Path, size: int | None, message: str) -> None:
    path = save_classifier(tmp_path)
    weights = path.with_suffix(".bin")
    data = weights.read_bytes()
    weights.unlink()
    if size is not None:
        weights.write_bytes(data[:size])
    with pytest.raises(LoadError, match=message):
        OpenVinoRuntime().check(path)


def test_without_openvino_it_says_what_to_install(tmp_path: Path) -> None:
    path = save_classifier(tmp_path)
    program = (
        "import sys; sys.modules['openvino'] = None\n"
        "from pathlib import Path\nfrom runtimes.base import Resources\n"
        "from runtimes.errors import LoadError\n"
        "from runtimes.select import check, choose\n"
        f"choice = choose(Path({str(path)!r})); check(choice)\n"
        "print(choice.runtime.signature(choice.path).inputs[0].name)\n"
        "try: choice.runtime.load(choice.path, Resources())\n"
        "except LoadError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("flowers\n")
    assert "model.xml needs OpenVINO: pip install 'kitserve[openvino]'" in done.stdout
