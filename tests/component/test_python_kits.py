"""Kits with Python of their own, from packed kit to answer: alone, and around the sample ONNX model."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import UnusableModel
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.model import check, choose_runtime, load
from gateway.kits.policy import Policy
from gateway.kits.stated import stated_signature, with_stated_signature
from gateway.oci.reference import Digest, LayoutReference
from gateway.serving import NOTHING_STATED
from runtimes.base import LoadedModel, ModelInChild, Resources, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError
from runtimes.onnx import OnnxRuntime
from runtimes.python.requirements import Sources
from runtimes.python.runtime import PythonOptions
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.wheels import wheel

SAMPLES = Path(__file__).parents[2] / "configs" / "samples"
FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)

AROUND = """
from typing import Annotated, TypedDict
import numpy as np
from numpy.typing import NDArray

Pair = Annotated[NDArray[np.float64], (-1, 2)]

class InputError(Exception):
    pass

class Answer(TypedDict):
    species: list[str]
    certainty: Annotated[NDArray[np.float32], (-1,)]

class Iris:
    def load(self, path):
        self.names = (path.parent.parent / "src" / "names.txt").read_text().split()

    def preprocess(self, sepal: Pair, petal: Pair) -> dict[str, np.ndarray]:
        if (sepal < 0).any():
            raise InputError("sepal: no flower is smaller than nothing")
        return {"input": np.concatenate([sepal, petal], axis=1)}

    def postprocess(self, probabilities: NDArray[np.float32]) -> Answer:
        best = probabilities.argmax(axis=1)
        return {"species": [self.names[index] for index in best], "certainty": probabilities.max(axis=1)}
"""

Layer = tuple[str, str, Mapping[str, bytes | None]]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., UnpackedKit]:
    """Pack a kit and open it, allowed to run code."""
    builder = LayoutBuilder(tmp_path / "layout")

    def pack(*layers: Layer, sources: Sources = Sources.KIT, **model: object) -> UnpackedKit:
        digest = Digest.parse(pack_kit(builder, "kit:v1", *layers, model=model))
        library = Library(tmp_path / "library")
        policy = Policy(code_digests=(digest,), requirements=sources)
        return library.open(LayoutReference(builder.directory, "kit", "v1", None), policy=policy)

    return pack


@pytest.fixture
def loaded() -> Iterator[Callable[[UnpackedKit], TensorModel]]:
    """Load a kit as a worker does; it is closed after the test."""
    models: list[LoadedModel] = []

    def load_kit(kit: UnpackedKit) -> TensorModel:
        choice = choose_runtime(kit, None, kit.verdict.code)
        assert choice.runtime.name == "python"
        assert check(kit, choice) is None
        stated = stated_signature(None, kit.kit, NOTHING_STATED) or NOTHING_STATED
        model = load(kit, choice, Resources(), python=PythonOptions(name="kit", stated=stated, timeout=20.0))
        models.append(model)
        assert isinstance(model, ModelInChild)
        served = with_stated_signature(model, kit.kit, NOTHING_STATED)
        assert isinstance(served, TensorModel)
        return served

    yield load_kit
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    library = Library(tmp_path_factory.mktemp("samples"))
    kit = library.open(LayoutReference(SAMPLES, "samples/iris", "v1", None))
    return kit.model_path.read_bytes()


def around(iris: bytes, text: str = AROUND) -> tuple[Layer, Layer]:
    """Give the layers of the sample model and of code around it."""
    code = {"src/kitserve.py": text.encode(), "src/names.txt": b"setosa versicolor virginica"}
    return ("model", "model/iris.onnx", {"model/iris.onnx": iris}), ("code", "src", code)


def test_processing_around_the_sample_model(
    opened: Callable[..., UnpackedKit],
    loaded: Callable[[UnpackedKit], TensorModel],
    iris: bytes,
    tmp_path: Path,
) -> None:
    model = loaded(opened(*around(iris)))
    assert model.platform == "onnxruntime_onnx"
    assert model.signature.inputs == (
        TensorSpec("sepal", "FP64", (-1, 2)),
        TensorSpec("petal", "FP64", (-1, 2)),
    )
    assert model.signature.outputs == (
        TensorSpec("species", "BYTES", (-1,)),
        TensorSpec("certainty", "FP32", (-1,)),
    )
    rows = FLOWERS.astype(np.float64)
    answer = model.infer({"sepal": rows[:, :2], "petal": rows[:, 2:]})
    assert answer["species"].tolist() == [b"setosa", b"virginica"]
    np.testing.assert_allclose(answer["certainty"], [0.98157287, 0.91926646], rtol=1e-5)
    assert list(model.infer({"sepal": rows[:, :2], "petal": rows[:, 2:]}, ["certainty"])) == ["certainty"]
    with pytest.raises(InputError, match=r"^sepal: no flower is smaller"):
        model.infer({"sepal": -rows[:, :2], "petal": rows[:, 2:]})
    with pytest.raises(InputError, match="unknown output 'label'"):
        model.infer({"sepal": rows[:, :2], "petal": rows[:, 2:]}, ["label"])
    model.close()
    with pytest.raises(ExecutionError, match="closed"):
        model.infer({"sepal": rows[:, :2], "petal": rows[:, 2:]})


def test_preprocessing_alone_leaves_the_models_outputs(
    opened: Callable[..., UnpackedKit],
    loaded: Callable[[UnpackedKit], TensorModel],
    iris: bytes,
    tmp_path: Path,
) -> None:
    text = (
        "import numpy as np\nclass Iris:\n"
        "    def preprocess(self, rows: list[str]) -> np.ndarray:\n"
        "        return np.array([[float(one) for one in row.split()] for row in rows])\n"
    )
    model = loaded(opened(*around(iris, text)))
    assert [spec.name for spec in model.signature.inputs] == ["rows"]
    (tmp_path / "iris.onnx").write_bytes(iris)
    alone = OnnxRuntime().load(tmp_path / "iris.onnx", Resources())
    assert model.signature.outputs == alone.signature.outputs
    (name,) = (spec.name for spec in alone.signature.inputs)
    answer = model.infer({"rows": np.array(["5.1 3.5 1.4 0.2", "6.7 3.0 5.2 2.3"])})
    for output, array in alone.infer({name: FLOWERS}).items():
        np.testing.assert_array_equal(answer[output], array)
    with pytest.raises(ExecutionError, match="the model does not take what preprocess returned: input"):
        model.infer({"rows": np.array(["5.1 3.5"])})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "class Iris:\n    def postprocess(self, wrong: list[float]) -> float:\n        return 1.0\n",
            r"postprocess takes 'wrong', and the model gives .*: call its parameters as",
        ),
        (
            "from typing import TypedDict\nclass Row(TypedDict):\n    wrong: list[float]\n"
            "class Iris:\n    def preprocess(self, x: float) -> Row:\n        return {'wrong': [x]}\n",
            r"preprocess returns 'wrong', and the model takes .*: return a dict with",
        ),
    ],
)
def test_processing_that_does_not_fit_the_model_is_refused(
    opened: Callable[..., UnpackedKit],
    loaded: Callable[[UnpackedKit], TensorModel],
    iris: bytes,
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    with pytest.raises(UnusableModel, match=message):
        loaded(opened(*around(iris, text)))


def test_processing_without_a_model_is_refused(
    opened: Callable[..., UnpackedKit], loaded: Callable[[UnpackedKit], TensorModel]
) -> None:
    text = b"class Iris:\n    def preprocess(self, x: float) -> float:\n        return x\n"
    with pytest.raises(
        UnusableModel, match=r"kitserve\.py has a class with preprocess, and no model beside it"
    ):
        loaded(opened(("code", "src", {"src/kitserve.py": text})))


def test_a_kit_of_code_and_wheels(
    opened: Callable[..., UnpackedKit], loaded: Callable[[UnpackedKit], TensorModel], tmp_path: Path
) -> None:
    name, content = wheel("tiny_one", "1.5")
    text = (
        b"import tiny_one\nfrom pathlib import Path\nclass Model:\n"
        b"    def load(self, path: Path):\n        self.path = path\n"
        b"    def predict(self, inputs: dict[str, object]):\n"
        b"        return {'version': tiny_one.VERSION, 'sum': inputs['x'].sum()}\n"
    )
    kit = opened(
        ("model", "weights", {"weights/w.bin": b"\x01"}),
        ("code", "app", {"app/main.py": text, "app/requirements.txt": b"tiny_one>=1\n"}),
        ("code", "wheels", {f"wheels/{name}": content}),
        parameters={"entry": "app/main.py", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]},
    )
    model = loaded(kit)
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1,)),)
    answer = model.infer({"x": np.array([1, 2], np.float32)})
    assert (answer["version"].tolist(), answer["sum"].tolist()) == ([b"1.5"], [3.0])
    assert len(list((tmp_path / "library" / "environments").glob("*/.complete"))) == 1


def test_the_example_in_the_documentation(
    opened: Callable[..., UnpackedKit], loaded: Callable[[UnpackedKit], TensorModel]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    source = page.partition("```python\n")[2].partition("```")[0].encode()
    weights = io.BytesIO()
    np.savez(weights, weights=np.array([0.5], np.float32))
    kit = opened(
        ("model", "model", {"model/weights.npz": weights.getvalue()}),
        ("code", "src", {"src/kitserve.py": source}),
    )
    model = loaded(kit)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("age", "FP32"),
        ("city", "BYTES"),
    ]
    city = np.array(["Bern", "Rome"])
    answer = model.infer({"age": np.array([1, 4], np.float32), "city": city})
    assert (answer["score"].tolist(), answer["label"].tolist()) == ([0.5, 2.0], [b"none", b"Rome"])
    with pytest.raises(InputError, match=r"^age: nobody is younger than nothing$"):
        model.infer({"age": np.array([1, -4], np.float32), "city": city})


def test_a_policy_without_packages(
    opened: Callable[..., UnpackedKit], loaded: Callable[[UnpackedKit], TensorModel]
) -> None:
    text = b"class Model:\n    def predict(self, x: float) -> float:\n        return x\n"
    code = {"kitserve.py": text, "requirements.txt": b"numpy\n"}
    with pytest.raises(
        UnusableModel, match=r"requirements\.txt asks for packages, and the policy allows none"
    ):
        loaded(opened(("code", ".", code), sources=Sources.NEVER))


def test_a_file_that_is_no_python_is_refused_before_it_is_run(opened: Callable[..., UnpackedKit]) -> None:
    kit = opened(("code", ".", {"kitserve.py": b"class Model\n"}))
    with pytest.raises(
        UnusableModel, match=r"kitserve\.py is no Python that this interpreter reads: .*line 1"
    ):
        check(kit, choose_runtime(kit, None, kit.verdict.code))
