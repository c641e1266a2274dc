"""TensorFlow's runtimes keep the contract, on a SavedModel and a Keras file that its own API makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from runtimes.base import Array, Resources, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError, ModelError, UnsafeFormat
from runtimes.formats import Format, identify
from runtimes.select import choose
from runtimes.tensorflow.keras_model import KerasRuntime
from runtimes.tensorflow.saved_model import TensorFlowRuntime
from runtimes.testing import ProcessContract, TensorContract
from runtimes.unfit import unfit_input

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:keras")

TEXTS = np.array([b"a", b"q", "ø".encode()], dtype=object)


class Sample(tf.Module):  # type: ignore[misc]
    """Numbers and strings, a variable, tables of constants, of a file and of the checkpoint."""

    def __init__(self, words: Path) -> None:
        words.write_text("a\nb\n")
        self.weights = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)), dtype=tf.float32)
        self.constants = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
        self.words = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                str(words),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            1,
        )
        self.learned = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.learned.insert(tf.constant(["q"]), tf.constant([9], tf.int64))

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec([None, 4], name="flowers"),
            tf.TensorSpec([None], tf.string, name="text"),
        ]
    )
    def __call__(self, flowers: Any, text: Any) -> Any:
        found = [self.constants.lookup(text), self.words.lookup(text), self.learned.lookup(text)]
        numbers = tf.ensure_shape(tf.stack([tf.cast(each, tf.int64) for each in found], 1), [None, 3])
        return {"logits": flowers @ self.weights, "numbers": numbers, "upper": tf.strings.upper(text)}


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved_model")
    module = Sample(directory.parent / "words.txt")
    tf.saved_model.save(module, directory, signatures=module.__call__)
    return directory / "saved_model.pb"


def save(tmp_path: Path, function: Any, *specs: Any, **signatures: Any) -> Path:
    module = tf.Module()
    module.call = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, tmp_path, signatures=signatures or module.call)
    return tmp_path / "saved_model.pb"


class TestSavedModel(TensorContract, ProcessContract):
    engine = "tensorflow"
    damages = 25

    @pytest.fixture
    def runtime(self) -> TensorFlowRuntime:
        return TensorFlowRuntime()

    @pytest.fixture
    def model_path(self, saved_model: Path) -> Path:
        return saved_model

    @pytest.fixture
    def model_root(self, saved_model: Path) -> Path:
        return saved_model.parent

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"flowers": flowers, "text": TEXTS.copy()}

    @pytest.fixture
    def expected(self, model_path: Path, inputs: dict[str, Array]) -> dict[str, Array]:
        function = tf.saved_model.load(str(model_path.parent)).signatures["serving_default"]
        answers = function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: answers[name].numpy() for name in sorted(answers)}

    def test_answers_as_the_module_does(self, model_path: Path, inputs: dict[str, Array]) -> None:
        answers = TensorFlowRuntime().load(model_path, Resources()).infer(inputs)
        assert answers["numbers"].tolist() == [[1, 0, -1], [-1, 2, 9], [-1, 2, -1]]
        assert answers["upper"].tolist() == [b"A", b"Q", "ø".encode()]

    def test_the_directory_is_one_model(self, model_path: Path) -> None:
        choice = choose(model_path.parent)
        assert (choice.runtime.name, choice.path) == ("tensorflow", model_path)
        others = [path for path in model_path.parent.rglob("*") if path.is_file() and path != model_path]
        assert {identify(path) for path in others} <= {Format.UNKNOWN, Format.TEXT}


class TestKeras(TensorContract, ProcessContract):
    engine = "tensorflow"
    damages = 25

    @pytest.fixture(scope="class")
    def sample(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
        flowers, other = keras.Input((4,), name="flowers"), keras.Input((2,), name="other")
        hidden = keras.layers.Dense(8, activation="gelu")(flowers) * 2
        joined = keras.ops.concatenate([hidden, keras.layers.BatchNormalization()(other)], 1)
        model = keras.Model([flowers, other], {"b": keras.layers.Dense(3)(joined), "a": joined + 1})
        model.compile("adam", "mse")
        path = tmp_path_factory.mktemp("keras") / "model.keras"
        model.save(path)
        return model, path

    @pytest.fixture
    def runtime(self) -> KerasRuntime:
        return KerasRuntime()

    @pytest.fixture
    def model_path(self, sample: tuple[Any, Path]) -> Path:
        return sample[1]

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"flowers": flowers, "other": flowers[:, :2] * 3}

    @pytest.fixture
    def expected(self, sample: tuple[Any, Path], inputs: dict[str, Array]) -> dict[str, Array]:
        answers = sample[0].predict(list(inputs.values()), verbose=0)
        return {name: answers[name] for name in sorted(answers)}


def test_a_sequential_model_under_another_name(tmp_path: Path, flowers: Array) -> None:
    layers = [keras.Input((4,)), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential(layers)
    model.save(tmp_path / "model.keras")
    path = (tmp_path / "model.keras").rename(tmp_path / "weights.bin")
    choice = choose(tmp_path)
    loaded: Any = choice.runtime.load(path, Resources())
    assert choice.runtime.name == "keras"
    (name,) = [spec.name for spec in loaded.signature.inputs]
    assert loaded.signature.outputs == (TensorSpec("output_0", "FP32", (-1, 3)),)
    np.testing.assert_allclose(
        loaded.infer({name: flowers})["output_0"], model.predict(flowers, verbose=0), rtol=1e-5
    )


def test_words_that_are_in_the_keras_file(tmp_path: Path) -> None:
    texts = keras.Input((1,), dtype="string", name="text")
    vectors = keras.layers.TextVectorization(vocabulary=["cat", "dog"], output_sequence_length=3)(texts)
    keras.Model(texts, keras.layers.Embedding(9, 2)(vectors)).save(tmp_path / "model.keras")
    model = KerasRuntime().load(tmp_path / "model.keras", Resources())
    assert model.signature.inputs == (TensorSpec("text", "BYTES", (-1, 1)),)
    result = model.infer({"text": np.array([[b"a cat"], [b"dog dog"]], dtype=object)})["output_0"]
    assert result.shape == (2, 3, 2)


def reads_a_file(x: Any) -> Any:
    return tf.strings.length(tf.io.read_file("/etc/hostname")) + x


def writes_a_file(x: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file("/tmp/never", "x")]):
        return x + 1


def writes_a_file_in_a_branch(x: Any) -> Any:
    return tf.cond(x[0] > 0, lambda: writes_a_file(x), lambda: x)


def calls_python(x: Any) -> Any:
    return tf.ensure_shape(tf.py_function(lambda value: value, [x], tf.int32), [None])


def prints(x: Any) -> Any:
    tf.print(x, output_stream="file:///tmp/never")
    return x + 1


def reads_a_data_set(x: Any) -> Any:
    return x + tf.cast(
        tf.data.TextLineDataset("/etc/hostname").reduce(0, lambda total, _: total + 1), tf.int32
    )


def fills_a_table_from_a_file(x: Any) -> Any:
    handle = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=handle, filename="/etc/hostname", key_index=-2, value_index=-1
    )
    return x + tf.cast(tf.raw_ops.LookupTableSizeV2(table_handle=handle), tf.int32)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (reads_a_file, "ReadFile"),
        (writes_a_file, "WriteFile"),
        (writes_a_file_in_a_branch, "WriteFile"),
        (calls_python, "EagerPyFunc"),
        (prints, "PrintV2"),
        (reads_a_data_set, "Dataset"),
        (fills_a_table_from_a_file, "InitializeTableFromTextFileV2"),
    ],
)
def test_operators_that_do_more_than_compute_are_refused(
    tmp_path: Path, function: Callable[[Any], Any], operator: str
) -> None:
    path = save(tmp_path, function, tf.TensorSpec([None], tf.int32, name="x"))
    with pytest.raises(UnsafeFormat, match=rf"has the operator '\w*{operator}.* not on the list"):
        TensorFlowRuntime().check(path)


def test_a_caller_cannot_name_the_file_of_a_table(tmp_path: Path) -> None:
    def fill(name: Any) -> Any:
        handle = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
        tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=handle, filename=name, key_index=-2, value_index=-1
        )
        return tf.raw_ops.LookupTableSizeV2(table_handle=handle)

    path = save(tmp_path, fill, tf.TensorSpec([], tf.string, name="name"))
    with pytest.raises(UnsafeFormat, match="InitializeTableFromTextFileV2"):
        TensorFlowRuntime().check(path)


def test_a_function_that_may_run_in_place_of_another_only_computes(tmp_path: Path) -> None:
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def add(x: Any) -> Any:
        return x + 1

    path = save(tmp_path, lambda x: add(x), tf.TensorSpec([None], tf.int32, name="x"))
    file = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    functions = file.meta_graphs[0].graph_def.library.function
    # What saves the model is called by nobody, and TensorFlow would put it in the place of `add`.
    for function in functions:
        if "_add_" in function.signature.name or "_traced_save" in function.signature.name:
            function.attr["api_implements"].s = b"same"
    path.write_bytes(file.SerializeToString())
    with pytest.raises(UnsafeFormat, match=r"traced_save.* which is not on the list"):
        TensorFlowRuntime().check(path)
    for function in functions:
        if "_traced_save" in function.signature.name:
            del function.attr["api_implements"]
    path.write_bytes(file.SerializeToString())
    TensorFlowRuntime().check(path)


def test_an_asset_outside_of_the_directory_is_refused(tmp_path: Path, saved_model: Path) -> None:
    shutil.copytree(saved_model.parent, tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"\x12\x09words.txt", b"\x12\x09../../etc"))
    with pytest.raises(LoadError, match=r"names the file '\.\./\.\./etc', which is none of its own"):
        TensorFlowRuntime().check(path)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("variables/variables.index", "variables is missing"),
        ("variables/variables.data-00000-of-00001", "variables is missing"),
        ("assets/words.txt", r"assets/words\.txt is missing; pack the directory whole"),
    ],
)
def test_files_that_are_missing(tmp_path: Path, saved_model: Path, missing: str, message: str) -> None:
    shutil.copytree(saved_model.parent, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(LoadError, match=message):
        TensorFlowRuntime().check(tmp_path / "model" / "saved_model.pb")


def test_which_signature_is_served(tmp_path: Path) -> None:
    module = tf.Module()
    module.one = tf.function(lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec([], name="x")])
    module.two = tf.function(lambda x: {"z": x + 2}, input_signature=[tf.TensorSpec([2], name="x")])
    tf.saved_model.save(module, tmp_path / "only", signatures={"one": module.one})
    model = TensorFlowRuntime().load(tmp_path / "only" / "saved_model.pb", Resources())
    assert model.signature.inputs == (TensorSpec("x", "FP32", ()),)
    assert model.infer({"x": np.array(1, np.float32)})["y"].tolist() == 2
    tf.saved_model.save(module, tmp_path / "both", signatures={"one": module.one, "two": module.two})
    with pytest.raises(LoadError, match="has the signatures 'one', 'two', and the one that is served is"):
        TensorFlowRuntime().check(tmp_path / "both" / "saved_model.pb")


def test_values_that_the_model_cannot_take(tmp_path: Path) -> None:
    path = save(tmp_path, lambda i: {"y": tf.gather([1, 2], i)}, tf.TensorSpec([None], tf.int32, name="i"))
    model = TensorFlowRuntime().load(path, Resources())
    inputs = {"i": np.array([7], np.int32)}
    with pytest.raises(ExecutionError, match=r"the model failed: .*7 is not in") as caught:
        model.infer(inputs)
    assert "7 in input 'i' at [0]" in str(unfit_input(caught.value, inputs, model.signature))
    with pytest.raises(InputError, match="'i'"):
        model.infer({"i": np.array([7])})


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """Save a Keras file whose configuration a function has changed."""

    def rewrite(change: Callable[[Any], None]) -> Path:
        whole, path = tmp_path / "whole.keras", tmp_path / "model.keras"
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")]).save(whole)
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                if name == "config.json":
                    config = json.loads(data)
                    change(config)
                    data = json.dumps(config).encode()
                target.writestr(name, data)
        return path

    return rewrite


def layer(config: Any) -> Any:
    return config["config"]["layers"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: layer(c).update(class_name="Lambda"), r"names 'keras\.layers\.Lambda', .*model\.export"),
        (lambda c: layer(c).update(class_name="TFSMLayer"), "TFSMLayer"),
        (lambda c: layer(c).update(class_name="TorchModuleWrapper"), "TorchModuleWrapper"),
        (lambda c: layer(c).update(module="os", class_name="system"), r"'os\.system'"),
        (lambda c: layer(c).update(module="keras.utils", class_name="get_file"), "get_file"),
        (lambda c: layer(c).update(module=None, class_name="Custom"), "'Custom'"),
        (lambda c: layer(c).update(registered_name="mine>Dense"), "Dense"),
        (lambda c: layer(c).update(class_name=["Dense"]), r"class_name that is no text but \"\['Dense'\]\""),
        (
            lambda c: layer(c)["config"].update(
                activation={"module": "builtins", "class_name": "function", "config": "eval"}
            ),
            r"'builtins\.eval'",
        ),
        (
            lambda c: layer(c)["config"].update(
                activation={"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}
            ),
            "__lambda__",
        ),
        (
            lambda c: layer(c).update(class_name="StringLookup", config={"vocabulary": "/etc/passwd"}),
            "reads a vocabulary from the file '/etc/passwd'",
        ),
    ],
)
def test_what_a_keras_file_may_not_name(
    rewritten: Callable[[Callable[[Any], None]], Path], change: Callable[[Any], None], message: str
) -> None:
    path = rewritten(change)
    with pytest.raises(UnsafeFormat, match=message):
        KerasRuntime().check(path)


def test_members_outside_of_a_keras_file_are_refused(
    rewritten: Callable[[Callable[[Any], None]], Path],
) -> None:
    path = rewritten(lambda _: None)
    KerasRuntime().check(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("assets/../../x", b"")
    with pytest.raises(UnsafeFormat, match="outside of it"):
        KerasRuntime().check(path)


def link(file: Any) -> None:
    file["secret"] = h5py.ExternalLink("/etc/passwd", "/x")


def external(file: Any) -> None:
    file.create_dataset("secret", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def in_pieces(file: Any) -> None:
    file.create_dataset("secret", (10**12,), "f4", chunks=(1024,))


def cycle(file: Any) -> None:
    file.create_group("secret")["again"] = file["/"]


def huge(file: Any) -> None:
    file.create_dataset("secret", (10**12,), "f4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link, "weights that are a link, 'secret'"),
        (external, "does not write so, 'secret'"),
        (in_pieces, "does not write so, 'secret'"),
        (huge, "declares 4000000000.* bytes of weights"),
        (cycle, "in several places, 'again'"),
    ],
)
def test_weights_that_are_elsewhere_or_too_large(
    rewritten: Callable[[Callable[[Any], None]], Path],
    tmp_path: Path,
    change: Callable[[Any], None],
    message: str,
) -> None:
    path = rewritten(lambda _: None)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    weights = tmp_path / "weights.h5"
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        change(file)
    with zipfile.ZipFile(path, "w") as target:
        for name, data in {**members, "model.weights.h5": weights.read_bytes()}.items():
            target.writestr(name, data)
    with pytest.raises(ModelError, match=message):
        KerasRuntime().load(path, Resources())


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", bytes(100_000_000))
    with pytest.raises(LoadError, match="20 times as large"):
        KerasRuntime().check(path)


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    """Free what Keras keeps of all models."""
    yield
    keras.backend.clear_session()


def test_without_tensorflow_it_says_what_to_install(tmp_path: Path, saved_model: Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(tmp_path / "model.keras")
    program = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from pathlib import Path\nfrom runtimes.base import Resources\n"
        "from runtimes.errors import LoadError\n"
        "from runtimes.select import check, choose\n"
        "for path in sys.argv[1:]:\n"
        "    choice = choose(Path(path)); check(choice); print(choice.runtime.signature(choice.path))\n"
        "    try: choice.runtime.load(choice.path, Resources())\n"
        "    except LoadError as error: print(error)\n"
    )
    arguments = [str(saved_model.parent), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert "name='flowers'" in done.stdout
    for name in ("saved_model.pb", "model.keras"):
        assert f"{name} needs TensorFlow: pip install 'kitserve[tensorflow]'" in done.stdout


def test_a_process_that_loads_a_model_is_quiet(saved_model: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom runtimes.base import Resources\n"
        "from runtimes.tensorflow.saved_model import TensorFlowRuntime\n"
        "model = TensorFlowRuntime().load(Path(sys.argv[1]), Resources(cpus=2))\n"
        "import tensorflow as tf; print(tf.config.threading.get_intra_op_parallelism_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved_model)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
