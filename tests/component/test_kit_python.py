"""A kit's own Python in its process: what it answers, how it fails, and that no worker waits for ever."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.base import LoadedModel, ModelInChild, Resources, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.python import frames, process
from runtimes.python.model import PythonModel
from runtimes.python.runtime import PythonOptions, PythonRuntime

HEAD = """
from __future__ import annotations
import os, sys, time, signal
from pathlib import Path
from typing import Annotated
import numpy as np
from numpy.typing import NDArray
"""
X = np.array([1.0, 2.0])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., PythonModel]]:
    """Start the class of a file with this text; all are ended after the test."""
    started: list[LoadedModel] = []

    def start(text: str, **options: Any) -> PythonModel:
        directory = tmp_path / f"kit-{len(started)}"
        directory.mkdir(exist_ok=True)
        path = directory / "kitserve.py"
        path.write_text(HEAD + text)
        model = PythonRuntime().start(path, Resources(), PythonOptions(**{"timeout": 20.0, **options}))
        started.append(model)
        assert isinstance(model, PythonModel)
        return model

    yield start
    for model in started:
        model.close()


def predict(body: str, parameters: str = "x: NDArray[np.float64]", returns: str = "") -> str:
    arrow = f" -> {returns}" if returns else ""
    return f"class Model:\n    def predict(self, {parameters}){arrow}:\n        {body}\n"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_each_form_of_arguments_and_answers(start: Callable[..., PythonModel]) -> None:
    model = start(
        "class Model:\n"
        "    def predict(self, text: str, names: list[str | None], n: int = 3, w: list[float] | None = None)"
        " -> dict[str, np.ndarray]:\n"
        "        return {'types': [type(v).__name__ for v in (text, names, n, w)],\n"
        "                'text': text, 'names': names, 'n': n, 'sum': sum(w or [])}\n"
    )
    assert isinstance(model, TensorModel)
    assert isinstance(model, ModelInChild)
    assert [spec.name for spec in model.signature.inputs] == ["text", "names"]
    assert model.signature.optional == (TensorSpec("n", "INT64", (1,)), TensorSpec("w", "FP64", (-1,)))
    names = np.array([b"a", None], object)
    inputs = {"text": np.array(["ö"]), "names": names}
    answer = model.infer({**inputs, "w": np.array([0.5, 1.0])})
    assert answer["types"].tolist() == [b"str", b"list", b"int", b"list"]
    assert (answer["text"].tolist(), answer["names"].tolist()) == (["ö".encode()], [b"a", None])
    assert (answer["n"].tolist(), answer["sum"].tolist()) == ([3], [1.5])
    assert model.infer({**inputs, "n": np.array([7])}, ["n"])["n"].tolist() == [7]
    with pytest.raises(InputError, match="unknown output 'no'; the model gives 'types', 'text'"):
        model.infer(inputs, ["no"])
    with pytest.raises(InputError, match="input 'text' is no UTF-8"):
        model.infer({**inputs, "text": np.array([b"\xff"], object)})


def test_free_form_by_the_class_or_by_what_the_kit_states(start: Callable[..., PythonModel]) -> None:
    body = "def predict(self, inputs: dict[str, np.ndarray]):\n        return {'y': inputs['x'] * 2}\n"
    model = start(f"class Model:\n    inputs = {{'x': ('FP64', [-1])}}\n    {body}")
    assert model.signature.inputs == (TensorSpec("x", "FP64", (-1,)),)
    assert model.infer({"x": X})["y"].tolist() == [2.0, 4.0]
    with pytest.raises(LoadError, match=r"Model\.predict takes a dict, and nothing says what is in it"):
        start(f"class Model:\n    {body}")


def test_numbers_are_cast_to_what_is_annotated_and_no_further(start: Callable[..., PythonModel]) -> None:
    model = start(predict("return x * 2", returns="Annotated[NDArray[np.float32], (-1,)]"))
    assert model.signature.outputs == (TensorSpec("output", "FP32", (-1,)),)
    assert model.infer({"x": X})["output"].dtype == np.float32
    with pytest.raises(ExecutionError, match=r"for 'output' shape \[1, 2\], and is to return \[-1\]"):
        model.infer({"x": X.reshape(1, 2)})
    model = start(predict("return x", returns="list[int]"))
    with pytest.raises(ExecutionError, match="predict returned for 'output' FP64, and is to return INT64"):
        model.infer({"x": X})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "predict returned None; return a dict"),
        ("return x, x", "predict returned a tuple; return a dict"),
        ("return {}", "predict returned a dict without entries"),
        ("return {1: x}", "whose keys are no text"),
        ("return {'y': object()}", "for 'y' a object among its elements, which is no number or text"),
        ("return {'y': [[1], [1, 2]]}", "for 'y' a list that is no array"),
        ("return {'y': x.astype(complex)}", "for 'y' an array whose dtype complex128 has no datatype"),
    ],
)
def test_what_is_no_answer_is_named(start: Callable[..., PythonModel], body: str, message: str) -> None:
    model = start(predict(body))
    with pytest.raises(ExecutionError, match=message):
        model.infer({"x": X})
    assert model.is_alive()


def test_outputs_that_are_not_the_annotated_ones(start: Callable[..., PythonModel]) -> None:
    text = "from typing import TypedDict\nclass Answer(TypedDict):\n    a: list[int]\n    b: list[int]\n"
    model = start(text + predict("return {'a': [1], 'c': [2]}", returns="Answer"))
    with pytest.raises(ExecutionError, match="predict returned 'a', 'c', and is to return 'a', 'b'"):
        model.infer({"x": X})


def test_errors_of_the_kit_are_short_and_its_traceback_is_in_the_log_alone(
    start: Callable[..., PythonModel], caplog: pytest.LogCaptureFixture
) -> None:
    model = start(predict("raise ValueError('no\\x1b[31m\\n' + 'y' * 1000)"))
    caplog.set_level(logging.INFO)
    with pytest.raises(ExecutionError) as caught:
        model.infer({"x": X})
    text = str(caught.value)
    assert text.startswith("ValueError: no [31m yyy")
    assert len(text) <= 300
    assert text.isprintable()
    deadline = time.monotonic() + 10
    while "in predict" not in (lines := logged(caplog)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "Traceback (most recent call last)" in lines
    assert "in predict" in lines


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(vars(one)["line"] for one in caplog.records if one.getMessage() == "kit.output")


def test_an_input_error_of_the_kit_is_the_callers(start: Callable[..., PythonModel]) -> None:
    text = "class InputError(Exception): pass\nclass TooOld(InputError): pass\n"
    model = start(text + predict("raise TooOld('age: at most 150')"))
    with pytest.raises(InputError, match=r"^age: at most 150$"):
        model.infer({"x": X})


@pytest.mark.parametrize("body", ["sys.exit(3)", "raise KeyboardInterrupt"])
def test_an_exit_is_an_error_as_any_other(start: Callable[..., PythonModel], body: str) -> None:
    model = start(predict(body))
    with pytest.raises(ExecutionError, match=r"SystemExit: 3|KeyboardInterrupt"):
        model.infer({"x": X})
    assert model.is_alive()


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("os._exit(3)", r"the kit's Python ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was killed by SIGKILL"),
        ("import ctypes; ctypes.string_at(1)", r"was killed by SIGSEGV"),
    ],
)
def test_a_process_that_dies_ends_its_call_and_says_why(
    start: Callable[..., PythonModel], body: str, failure: str
) -> None:
    model = start(predict(body))
    with pytest.raises(ExecutionError, match=r"^the kit's Python ended during the call$"):
        model.infer({"x": X})
    with pytest.raises(ExecutionError, match="has ended"):
        model.infer({"x": X})
    assert not model.is_alive()
    assert re.search(failure, model.failure())


@pytest.mark.parametrize(
    "body", ["time.sleep(60)", "while True: pass", "os.kill(os.getpid(), signal.SIGSTOP)"]
)
def test_a_call_that_hangs_is_ended(start: Callable[..., PythonModel], body: str) -> None:
    model = start(predict(body), timeout=0.5)
    pid = model._process.pid
    began = time.monotonic()
    with pytest.raises(ExecutionError, match=r"did not answer a call within 0\.5 s, and was ended"):
        model.infer({"x": X})
    assert time.monotonic() - began < 15
    assert not model.is_alive()
    assert "did not answer" in model.failure()
    assert not is_running(pid)


def test_it_may_write_what_it_likes(
    start: Callable[..., PythonModel], caplog: pytest.LogCaptureFixture
) -> None:
    body = (
        "sys.stdout.write('x' * 100_000 + '\\n'); print('\\n'.join(map(str, range(50_000)))); "
        "os.write(1, b'\\xff\\x00\\n'); os.write(2, b'no end'); return x"
    )
    with caplog.at_level(logging.INFO):
        model = start(predict(body), name="noisy")
        for _ in range(3):
            assert model.infer({"x": X})["output"].tolist() == X.tolist()
    records = [one for one in caplog.records if one.getMessage() == "kit.output"]
    assert 0 < len(records) < 1_000
    assert {vars(one)["model"] for one in records} == {"noisy"}
    assert max(len(vars(one)["line"]) for one in records) <= 2_000


def test_it_reads_nothing_of_its_workers_input_and_environment(
    start: Callable[..., PythonModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("REGISTRY_PASSWORD", "KITSERVE_HOME", "RAY_ADDRESS", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    model = start(
        predict(
            "return {'names': sorted(os.environ), 'home': os.environ['HOME'], 'tmp': os.environ['TMPDIR'],"
            " 'cwd': os.getcwd(), 'stdin': sys.stdin.read() + '.', 'modules': sorted(sys.modules),"
            " 'path': sys.path, 'made': str(Path(os.environ['TMPDIR'], 'a').write_text('a'))}"
        )
    )
    answer = {name: [item.decode() for item in array] for name, array in model.infer({"x": X}).items()}
    allowed = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH_")
    others = {name for name in answer["names"] if not name.startswith(allowed)}
    assert others <= {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"}
    (home,) = answer["home"]
    assert Path(home).parent == model._process._process.directory
    assert Path(home) != Path.home()
    assert answer["cwd"] == [str(tmp_path / "kit-0")]
    assert answer["stdin"] == ["."]
    assert {name.partition(".")[0] for name in answer["modules"]}.isdisjoint({"runtimes", "gateway", "ray"})
    assert answer["path"][0] == str(tmp_path / "kit-0")
    model.close()
    assert not Path(home).parent.exists()


def test_modules_beside_the_entry_are_imported_and_nothing_is_written_there(
    start: Callable[..., PythonModel], tmp_path: Path
) -> None:
    kit = tmp_path / "kit-0"
    kit.mkdir()
    (kit / "runtimes.py").write_text("FACTOR = 3\n")
    model = start("import runtimes\n" + predict("return x * runtimes.FACTOR"))
    assert model.infer({"x": X})["output"].tolist() == [3.0, 6.0]
    assert sorted(path.name for path in kit.iterdir()) == ["kitserve.py", "runtimes.py"]


def test_a_large_answer_arrives_and_one_that_is_too_large_is_refused(
    start: Callable[..., PythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = start(predict("return np.zeros(int(x[0]), np.uint8)"))
    assert model.infer({"x": np.array([50e6])})["output"].shape == (50_000_000,)
    # The other process has the true limit, and this one a smaller: it trusts no sizes.
    monkeypatch.setattr(frames, "MAX_TENSOR_BYTES", 1_000_000)
    with pytest.raises(ExecutionError, match="sent what cannot be read"):
        model.infer({"x": np.array([2e6])})
    assert not model.is_alive()


def test_an_answer_beyond_the_limit_is_the_kits_error(start: Callable[..., PythonModel]) -> None:
    model = start(predict("return np.broadcast_to(np.uint8(0), (int(x[0]),))"))
    with pytest.raises(ExecutionError, match=r"'output' has \d+ bytes, and 2147483648 are the most"):
        model.infer({"x": np.array([2.0**31 + 1])})
    assert model.is_alive()


def test_children_of_it_end_with_it(start: Callable[..., PythonModel]) -> None:
    model = start(
        "import subprocess\n" + predict("return subprocess.Popen([sys.executable, '-c', 'input()']).pid")
    )
    pid = int(model.infer({"x": X})["output"][0])
    assert is_running(pid)
    model.close()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"kitserve\.py has no class with a method `predict`, or `preprocess` and `postprocess`"),
        (
            predict("return x") + predict("return x").replace("Model", "Other"),
            r"several classes that could be served: Model, Other; name one in the Kitfile, such as "
            r"`model\.parameters\.entry: kitserve\.py:Model`",
        ),
        (
            predict("return x") + "    def postprocess(self): ...\n",
            "Model has `predict` beside `preprocess` or `postprocess`",
        ),
        (
            "import no_such_module\n",
            r"needs the module 'no_such_module', .* list its package in requirements\.txt",
        ),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("sys.exit('no')\n", "SystemExit: no"),
        ("os._exit(7)\n", r"the kit's Python ended with exit code 7, while its class was loaded"),
        (predict("return x", "x"), r"Model\.predict: the parameter 'x' has no annotation"),
        (
            "class Model:\n    def __init__(self, path): ...\n    def predict(self, x: float): ...\n",
            r"Model\.__init__ takes arguments; it is made without any, so use `load`",
        ),
        (
            "class Model:\n    def load(self, path): raise OSError('no weights')\n"
            "    def predict(self, x: float): ...\n",
            "OSError: no weights",
        ),
        (
            "class Model:\n    def preprocess(self, x: float): ...\n",
            "has a class with preprocess, and there is no model beside it",
        ),
    ],
)
def test_a_class_that_cannot_be_served_is_refused_with_what_is_wrong(
    start: Callable[..., PythonModel], text: str, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        start(text)


def test_a_base_class_is_none_of_its_own_and_a_named_class_is_taken(
    start: Callable[..., PythonModel],
) -> None:
    text = predict("return x * 2").replace("Model", "Base")
    text += "class Child(Base):\n    pass\n"
    assert start(text).infer({"x": X})["output"].tolist() == [2.0, 4.0]
    text += predict("return x * 5").replace("Model", "Five")
    assert start(text, class_name="Five").infer({"x": X})["output"].tolist() == [5.0, 10.0]
    with pytest.raises(LoadError, match="has no class 'Six', which the Kitfile names"):
        start(text, class_name="Six")
    with pytest.raises(LoadError, match=r"Path in kitserve\.py has no method `predict`"):
        start(text, class_name="Path")


def test_a_load_that_takes_too_long_is_ended(
    start: Callable[..., PythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOAD_SECONDS", 1.5)
    with pytest.raises(LoadError, match=r"has not loaded its model within 2 s: loads$"):
        start("print('loads')\ntime.sleep(60)\n")


def test_an_answer_before_the_class_is_loaded_is_refused(start: Callable[..., PythonModel]) -> None:
    text = (
        "import gc, socket\nframe = b'{\"tensors\": []}'\n"
        "for each in gc.get_objects():\n    if isinstance(each, socket.socket) and each.fileno() >= 0:\n"
        "        try:\n            each.sendall(len(frame).to_bytes(4, 'little') + frame)\n"
        "        except OSError:\n            pass\n"
    )
    with pytest.raises(LoadError, match="sent an answer before its class was loaded"):
        start(text + predict("return x"))


def test_a_stopped_process_does_not_hold_up_its_end(start: Callable[..., PythonModel]) -> None:
    model = start(predict("return x"))
    os.kill(model._process.pid, signal.SIGSTOP)
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 15
