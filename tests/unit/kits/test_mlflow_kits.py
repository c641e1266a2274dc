"""Kits of directories that MLflow itself saved: served from the flavor's file, and equal to the library."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gateway.engine.example import example_inputs, example_text
from gateway.engine.first_call import answer_first_call
from gateway.errors import KitError, UnusableModel
from gateway.kits.examination import examine
from gateway.kits.examples import read_example
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.mlflow import MLflowModel, mlflow_model
from gateway.kits.model import choose_runtime, load
from gateway.kits.policy import Policy
from gateway.kits.stated import with_stated_signature
from gateway.oci.reference import LayoutReference
from runtimes import select
from runtimes.base import Array, Resources, Signature, TensorModel
from runtimes.formats import Format
from runtimes.select import choose
from tests.support.artifacts import LayoutBuilder, iris
from tests.support.hugging_face import TEXTS, texts, write_bert
from tests.support.kitops import pack_kit

# Their imports take seconds, so all is in this file.
pd = pytest.importorskip("pandas")
mlflow = pytest.importorskip("mlflow")
datasets = pytest.importorskip("sklearn.datasets")
linear_model = pytest.importorskip("sklearn.linear_model")

# MLflow and the libraries warn of their own and of each other's ways.
pytestmark = pytest.mark.filterwarnings("ignore")

NOTHING = Signature((), ())
CLASSES = [0, 1] * 20
FRAME = pd.DataFrame(
    {
        "age": [20 + position for position in range(40)],
        "height": [1.5 + position % 7 / 10 for position in range(40)],
        "weight": [50.0 + position % 11 for position in range(40)],
    }
)


@pytest.fixture(autouse=True)
def _no_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would ask the network which packages a model needs."""
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")


def save(flavor: str, model: Any, path: Path, **options: Any) -> Path:
    import importlib

    module = importlib.import_module(f"mlflow.{flavor}")
    module.save_model(model, str(path), pip_requirements=[], **options)
    return path


def signature_of(inputs: Any, outputs: Any = None) -> Any:
    from mlflow.models import infer_signature

    return infer_signature(inputs, outputs)


def packed(directory: Path, path: str = "model", main: str = "", **model: object) -> UnpackedKit:
    """Pack a directory as the model, as KitOps' documents do; with `main`, a file of it and its parts."""
    files = {
        f"{path}/{file.relative_to(directory)}": file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
    root = directory.parent / f"{directory.name}-kit"
    builder = LayoutBuilder(root / "layout")
    layers: list[tuple[str, str, Mapping[str, bytes | None]]] = [("model", path, files)]
    if main:
        names = sorted(files, key=lambda name: name != f"{path}/{main}")
        kinds = ["model", *["part"] * (len(names) - 1)]
        layers = [(kind, name, {name: files[name]}) for kind, name in zip(kinds, names, strict=True)]
    pack_kit(builder, "kit:v1", *layers, model=model)
    return Library(root / "library").open(LayoutReference(builder.directory, "kit", "v1", None))


class Served:
    """A kit that was loaded as a worker loads it."""

    def __init__(self, kit: UnpackedKit) -> None:
        self.kit = kit
        self.choice = choose_runtime(kit, None, allow_code=True)
        mlflow_of_kit = mlflow_model(kit, self.choice)
        assert mlflow_of_kit is not None
        self.mlflow: MLflowModel = mlflow_of_kit
        model = with_stated_signature(load(kit, self.choice, Resources()), kit.kit, NOTHING, self.mlflow)
        assert isinstance(model, TensorModel)
        self.model = model

    @property
    def file(self) -> str:
        return str(self.choice.path.relative_to(self.kit.path))

    def example(self) -> dict[str, Array]:
        return example_inputs(read_example(self.kit, self.mlflow), self.model.signature)

    def first(self, inputs: Mapping[str, Array]) -> Array:
        return next(iter(self.model.infer(inputs).values()))


@pytest.fixture
def estimator() -> Any:
    return linear_model.LogisticRegression(max_iter=500).fit(FRAME.values, CLASSES)


def columns(frame: Any) -> dict[str, Array]:
    return {name: frame[name].to_numpy() for name in frame}


def test_an_estimator_has_the_columns_of_the_signature(tmp_path: Path, estimator: Any) -> None:
    options = {"signature": signature_of(FRAME), "input_example": FRAME.head(2)}
    directory = save("sklearn", estimator, tmp_path / "sk", serialization_format="pickle", **options)
    served = Served(packed(directory))
    assert served.file == "model/model.pkl"
    assert [(spec.name, spec.datatype) for spec in served.model.signature.inputs] == [
        ("age", "INT64"),
        ("height", "FP64"),
        ("weight", "FP64"),
    ]
    assert served.first(columns(FRAME)).tolist() == estimator.predict(FRAME.values).tolist()
    assert served.first({"input": FRAME.to_numpy()}).tolist() == estimator.predict(FRAME.values).tolist()
    example = served.example()
    assert example["age"].tolist() == [[20], [21]]
    assert served.first(example).tolist() == estimator.predict(FRAME.head(2).values).tolist()
    assert json.loads(example_text(example))["inputs"][0] == {
        "name": "age",
        "datatype": "INT64",
        "shape": [2, 1],
        "data": [20, 21],
    }
    assert served.mlflow.maker.startswith("scikit-learn 1.")
    assert str(served.mlflow).startswith("sklearn 1.")
    assert f"MLflow {mlflow.__version__}" in str(served.mlflow)


def test_columns_of_an_estimator_may_be_left_out(tmp_path: Path) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    rows = FRAME.to_numpy().copy()
    rows[::5, 2] = np.nan
    estimator = ensemble.HistGradientBoostingClassifier(max_iter=5).fit(rows, CLASSES)
    types = pytest.importorskip("mlflow.types")
    schema = types.Schema(
        [
            types.ColSpec("long", "age"),
            types.ColSpec("double", "height"),
            types.ColSpec("double", "weight", required=False),
        ]
    )
    signature = mlflow.models.ModelSignature(inputs=schema)
    directory = save(
        "sklearn", estimator, tmp_path / "sk", serialization_format="cloudpickle", signature=signature
    )
    served = Served(packed(directory))
    assert [spec.name for spec in served.model.signature.optional] == ["weight"]
    whole = FRAME.assign(weight=np.nan)
    assert (
        served.first(columns(FRAME[["age", "height"]])).tolist()
        == estimator.predict(whole.to_numpy()).tolist()
    )


def test_the_pickle_within_is_the_same_model(tmp_path: Path, estimator: Any) -> None:
    options = {"signature": signature_of(FRAME), "input_example": FRAME.head(1)}
    directory = save("sklearn", estimator, tmp_path / "sk", serialization_format="pickle", **options)
    served = Served(packed(directory, main="model.pkl"))
    assert served.file == "model/model.pkl"
    assert [spec.name for spec in served.model.signature.inputs] == ["age", "height", "weight"]
    assert served.example()["height"].tolist() == [[1.5]]


@pytest.mark.parametrize(
    "wrong",
    [
        FRAME.rename(columns={"age": "size"}).assign(more="text"),
        FRAME.assign(age="old"),
        FRAME[["age"]],
        FRAME.to_numpy()[:, :2],
        np.zeros((3, 2, 2), np.float32),
    ],
)
def test_a_wrong_signature_does_not_make_it_unusable(tmp_path: Path, estimator: Any, wrong: Any) -> None:
    options = {"signature": signature_of(wrong), "input_example": None}
    served = Served(packed(save("sklearn", estimator, tmp_path / "sk", **_pickle(options))))
    assert served.mlflow.fit(Signature(served.model.signature.inputs, ())).notes
    rows = FRAME.to_numpy()
    assert served.first({"input": rows}).tolist() == estimator.predict(rows).tolist()


def _pickle(options: dict[str, Any]) -> dict[str, Any]:
    return {"serialization_format": "pickle", **options}


def test_a_signature_and_an_example_that_cannot_be_read_are_passed_over(
    tmp_path: Path, estimator: Any
) -> None:
    options = _pickle({"signature": signature_of(FRAME), "input_example": FRAME.head(1)})
    directory = save("sklearn", estimator, tmp_path / "sk", **options)
    text = (directory / "MLmodel").read_text().replace("inputs: '[", "inputs: '[[[")
    (directory / "MLmodel").write_text(text)
    (directory / "input_example.json").write_text("{")
    served = Served(packed(directory))
    (note,) = served.mlflow.fit(served.model.signature).notes
    assert note.startswith("it cannot be read: it is no JSON")
    with pytest.raises(KitError, match=r"the example 'input_example.json' cannot be read"):
        served.example()


def test_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    proto = onnx.load_from_string(iris())
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
    directory = save("onnx", proto, tmp_path / "onnx", signature=signature_of(rows), input_example=rows)
    served = Served(packed(directory))
    plain = choose(directory / "model.onnx").runtime.load(directory / "model.onnx", Resources())
    assert isinstance(plain, TensorModel)
    assert served.model.signature == plain.signature
    expected = plain.infer(served.example())
    for name, values in served.model.infer(served.example()).items():
        np.testing.assert_array_equal(values, expected[name])
    (spec,) = plain.signature.inputs
    names = ["a", "b", "c", "d"]
    frame = pd.DataFrame(rows, columns=names)
    directory = save("onnx", proto, tmp_path / "named", signature=signature_of(frame), input_example=frame)
    served = Served(packed(directory))
    assert [column.name for column in served.model.signature.inputs] == names
    for inputs in (served.example(), {spec.name: rows}, columns(frame.astype(np.float64))):
        np.testing.assert_array_equal(served.first(inputs), next(iter(expected.values())))


def test_a_program_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Softmax(dim=1)).eval()
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    options = {"signature": signature_of(rows, rows), "input_example": rows}
    directory = save("pytorch", module, tmp_path / "pt", serialization_format="pt2", **options)
    served = Served(packed(directory))
    assert served.file == "model/data/model.pt2"
    with torch.no_grad():
        expected = module(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(served.first(served.example()), expected, rtol=1e-6)
    assert answer_first_call(served.model, served.example()) == ""


def test_a_pickle_of_pytorch_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = save("pytorch", torch.nn.Linear(3, 2), tmp_path / "pt", serialization_format="pickle")
    with pytest.raises(UnusableModel, match=r"model/data/model.pth is a PyTorch checkpoint"):
        choose_runtime(packed(directory), None)


def test_texts_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = tmp_path / "source"
    write_bert(source, "BertForSequenceClassification", num_labels=3)
    pipeline = transformers.pipeline(
        "text-classification",
        model=transformers.AutoModelForSequenceClassification.from_pretrained(source),
        tokenizer=transformers.AutoTokenizer.from_pretrained(source),
    )
    directory = save("transformers", pipeline, tmp_path / "hf", signature=signature_of("a text", "label"))
    assert not (directory / "model" / "tokenizer.json").exists()
    plain = choose(source).runtime.load(source / "model.safetensors", Resources())
    served = Served(packed(directory))
    assert (served.choice.runtime.name, served.file) == ("transformers", "model/model/model.safetensors")
    assert isinstance(plain, TensorModel)
    expected = plain.infer({"text": texts(*TEXTS)})
    for name, values in served.model.infer({"text": texts(*TEXTS)}).items():
        assert values.tolist() == expected[name].tolist()


class AnyFormat:
    """A runtime that reads every format."""

    name: ClassVar[str] = "any"
    formats: ClassVar[tuple[Format, ...]] = tuple(Format)

    def load(self, path: Path, resources: Resources) -> Any:
        raise NotImplementedError

    def signature(self, path: Path) -> None:
        return


def _xgboost() -> Any:
    xgboost = pytest.importorskip("xgboost")
    return xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(FRAME.values, CLASSES)


def _lightgbm() -> Any:
    lightgbm = pytest.importorskip("lightgbm")
    return lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1, min_child_samples=2).fit(
        FRAME.values, CLASSES
    )


def _catboost() -> Any:
    catboost = pytest.importorskip("catboost")
    model = catboost.CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False, thread_count=1)
    return model.fit(FRAME.values, CLASSES)


@pytest.mark.parametrize(
    ("flavor", "make", "options", "name", "format_"),
    [
        ("xgboost", _xgboost, {}, "model.ubj", Format.XGBOOST),
        ("xgboost", lambda: _xgboost().get_booster(), {"model_format": "json"}, "model.json", Format.XGBOOST),
        ("lightgbm", lambda: _lightgbm().booster_, {}, "model.lgb", Format.LIGHTGBM),
        ("lightgbm", _lightgbm, {}, "model.skops", Format.SKOPS),
        ("catboost", _catboost, {}, "model.cb", Format.CATBOOST),
    ],
)
def test_boosters(
    tmp_path: Path,
    flavor: str,
    make: Callable[[], Any],
    options: dict[str, Any],
    name: str,
    format_: Format,
) -> None:
    model = make()
    given = {"signature": signature_of(FRAME), "input_example": FRAME.head(2), **options}
    directory = save(flavor, model, tmp_path / flavor, **given)
    choice = choose(directory, runtimes={"any": AnyFormat()}, allow_code=True)
    assert (choice.path, choice.format) == (directory / name, format_)
    readers = [
        reader for reader in select.installed().values() if format_ in reader.formats and reader.name != "any"
    ]
    if not readers or (flavor == "lightgbm" and format_ is Format.SKOPS):
        return
    served = Served(packed(directory))
    assert [spec.name for spec in served.model.signature.inputs] == ["age", "height", "weight"]
    named = served.model.infer(columns(FRAME))
    whole = served.model.infer({"input": FRAME.to_numpy()})
    for output, values in named.items():
        np.testing.assert_array_equal(values, whole[output])
    if "predict_proba" in named and hasattr(model, "predict_proba"):
        np.testing.assert_allclose(
            named["predict_proba"], model.predict_proba(FRAME.to_numpy()), rtol=1e-6, atol=1e-6
        )
    assert answer_first_call(served.model, served.example()) == ""


def test_skops(tmp_path: Path, estimator: Any) -> None:
    pytest.importorskip("skops")
    directory = save("sklearn", estimator, tmp_path / "sk", signature=signature_of(FRAME))
    choice = choose(directory, runtimes={"any": AnyFormat()})
    assert (choice.path, choice.format) == (directory / "model.skops", Format.SKOPS)


def test_code_of_a_wrapper_is_refused_with_what_to_do(tmp_path: Path) -> None:
    class Wrapper(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input

    mlflow.pyfunc.save_model(str(tmp_path / "code"), python_model=Wrapper(), pip_requirements=[])
    kit = packed(tmp_path / "code")
    for allow_code in (False, True):
        with pytest.raises(
            UnusableModel, match=r"model/MLmodel has the flavor python_function alone"
        ) as caught:
            choose_runtime(kit, None, allow_code=allow_code)
        assert "allow_code: signed" not in str(caught.value)
        assert "mlflow.xgboost" in str(caught.value)


def test_inspect_tells_what_mlflow_says(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    frame = pd.DataFrame({"a": [1.0]})
    directory = save("onnx", onnx.load_from_string(iris()), tmp_path / "onnx", signature=signature_of(frame))
    kit = packed(directory)
    library = Library(directory.parent / "onnx-kit" / "library")
    from gateway.cli.kit_document import kit_document
    from gateway.cli.tables import kit_text

    document = kit_document(library, kit.kit.reference, Policy(), True, None)
    assert document["servable"] is True
    assert document["mlflow"]["flavor"] == "onnx"
    assert document["mlflow"]["version"] == onnx.__version__
    assert document["mlflow"]["notes"] == ["it names 1 column, and the model takes 4"]
    shown = "\n".join(str(part) for part in kit_text(document))
    assert f"MLflow: onnx {onnx.__version__}, MLflow {mlflow.__version__}, model " in shown
    assert "passed over in part: it names 1 column, and the model takes 4" in shown
    examined = examine(library, kit.kit, Policy())
    assert examined.mlflow is not None
    examined.unpacked.lease.release()


def test_where_loading_fails_the_version_is_told(tmp_path: Path, estimator: Any) -> None:
    directory = save("sklearn", estimator, tmp_path / "sk", serialization_format="pickle")
    (directory / "model.pkl").write_bytes(b"\x80\x04K\x01.")
    kit = packed(directory)
    choice = choose_runtime(kit, None, allow_code=True)
    with pytest.raises(UnusableModel, match=r"its MLmodel says that it was made with scikit-learn 1\."):
        load(kit, choice, Resources())
