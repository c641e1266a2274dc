"""Pickles are read and never run. They are chosen only where code is allowed."""

from __future__ import annotations

import bz2
import collections
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.errors import LoadError, NoRuntime, UnsafeFormat
from runtimes.formats import Format, identify
from runtimes.pickles.imports import COMPUTED, describe, is_dangerous
from runtimes.pickles.scan import Scan, scan
from runtimes.select import choose
from tests.support.model_files import identity_onnx

TOUCH = "touch canary"
SYSTEM = f"{os.system.__module__}.system"


class Evil:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (TOUCH,)


THINGS = [Evil(), collections.OrderedDict(a=1)]


def scanned(directory: Path, data: bytes) -> Scan:
    path = directory / "file"
    path.write_bytes(data)
    return scan([path])


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def dumped(thing: object, compress: Any = 0) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(thing, buffer, compress)
    return buffer.getvalue()


def saved(thing: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


def short(text: str) -> bytes:
    """Return a short string as protocol 4 writes it."""
    return b"\x8c%c%b" % (len(text), text.encode())


LINES = SYSTEM.replace(".", "\n").encode()
MODULE, NAME = map(short, SYSTEM.split("."))
CALL = short(TOUCH) + b"\x85R."

PICKLES = {
    **{f"protocol {number}": pickle.dumps(THINGS, number) for number in range(6)},
    "no protocol": pickle.dumps(THINGS, 2)[2:],
    "zlib": zlib.compress(pickle.dumps(THINGS)),
    "gzip": gzip.compress(pickle.dumps(THINGS)),
    "bz2": bz2.compress(pickle.dumps(THINGS)),
    "xz": lzma.compress(pickle.dumps(THINGS)),
    "lzma": lzma.compress(pickle.dumps(THINGS), lzma.FORMAT_ALONE),
    "joblib": dumped(THINGS),
    "joblib zlib": dumped(THINGS, 3),
    "joblib xz": dumped(THINGS, ("xz", 3)),
    "checkpoint": saved(THINGS),
    "old checkpoint": saved(THINGS, _use_new_zipfile_serialization=False),
    "global": b"c%b\n(S'%b'\ntR." % (LINES, TOUCH.encode()),
    "inst": b"(S'%b'\ni%b\n." % (TOUCH.encode(), LINES),
    "obj": b"(c%b\nS'%b'\no." % (LINES, TOUCH.encode()),
    "stack global": b"\x80\x04" + MODULE + NAME + b"\x93" + CALL,
    "memo": b"\x80\x04" + NAME + b"\x940" + MODULE + b"h\x00\x93" + CALL,
    "long memo": b"\x80\x04" + NAME + b"r\x07\0\0\x000" + MODULE + b"j\x07\0\0\0\x93" + CALL,
    "twice": b"\x80\x04" + MODULE + NAME + b"\x9320" + CALL,
    "never called": b"\x80\x04" + MODULE + NAME + b"\x93.",
    "after a fault": b"\x80\x04e" + MODULE + NAME + b"\x93.",
    "after another": pickle.dumps(1) + pickle.dumps(THINGS),
}
# Pickles inside files that identify takes for another format, which nothing unpickles.
HIDDEN = {
    "zip": zipped(("model.pkl", pickle.dumps(THINGS))),
    "zip in a zip": zipped(("a.zip", zipped(("model.pkl", pickle.dumps(THINGS))))),
    "zip by content": zipped(("weights/7", pickle.dumps(THINGS)), method=zipfile.ZIP_DEFLATED),
    "gzip in a zip": zipped(("a.bin", gzip.compress(pickle.dumps(THINGS)))),
    "zip in gzip": gzip.compress(zipped(("model.pkl", pickle.dumps(THINGS)))),
}


@pytest.mark.parametrize("kind", [*PICKLES, *HIDDEN])
def test_the_imports_of_every_kind_of_pickle_are_found(tmp_path: Path, kind: str) -> None:
    result = scanned(tmp_path, {**PICKLES, **HIDDEN}[kind])
    assert SYSTEM in result.imports
    assert result.dangerous == (SYSTEM,)
    assert result.whole
    assert f"{SYSTEM} (dangerous)" in str(result)


@pytest.mark.parametrize("kind", PICKLES)
def test_each_kind_of_pickle_is_identified_as_code(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(PICKLES[kind])
    expected = {"checkpoint": Format.TORCH_PICKLE, "after a fault": Format.UNKNOWN}
    assert identify(path) is expected.get(kind, Format.PICKLE)


def test_arrays_of_joblib_are_stepped_over(tmp_path: Path) -> None:
    arrays = [
        np.zeros((300, 400), order="F"),
        np.array(7.0),
        np.zeros(0),
        np.array(["a", "bc"]),
        np.zeros(9, "M8[s]"),
        np.zeros(3, [("a", "i4"), ("b", "f8", (2,))]),
        np.frombuffer(b"cos\nsystem\n" * 500, np.uint8),
        Evil(),
    ]
    result = scanned(tmp_path, dumped(arrays))
    assert result.dangerous == (SYSTEM,)
    assert result.whole
    assert "joblib.numpy_pickle.NumpyArrayWrapper" in result.imports


@pytest.mark.parametrize("array", [np.array([Evil(), 1], object), np.array([(1, Evil())], "i4,O")])
def test_arrays_of_objects_are_pickles_within(tmp_path: Path, array: Any) -> None:
    result = scanned(tmp_path, dumped([array, collections.OrderedDict()]))
    assert result.dangerous == (SYSTEM,)
    assert "collections.OrderedDict" in result.imports
    assert [name for name in result.imports if name.endswith("._reconstruct")], (
        "the inner pickle was left out"
    )
    assert result.whole


def test_the_memory_of_large_arrays_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    joblib.dump([np.zeros(40_000_000), Evil()], path)
    began = time.monotonic()
    result = scan([path])
    assert time.monotonic() - began < 1
    assert (result.dangerous, result.whole) == ((SYSTEM,), True)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(bytes(100_000_000)),
        pickle.dumps(list(range(300_000))),
        gzip.compress(pickle.dumps(bytes(200_000_000)), 1),
        zipped(("data.pkl", pickle.dumps(bytes(200_000_000))), method=zipfile.ZIP_DEFLATED),
        lzma.compress(pickle.dumps(bytes(200_000_000))),
        b"\x80\x04" + b"}" * 50 + b"(" * 200_000,
        b"\x80\x04\x8b" + struct.pack("<i", 50_000_000) + b"\xff" * 50_000_000 + b".",
    ],
    ids=["bytes", "operations", "gzip", "zip", "xz", "marks", "number"],
)
def test_looking_is_bounded_and_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    program = (
        "import resource, sys, pathlib; from runtimes.pickles.scan import scan\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024; before = peak()\n"
        f"result = scan([pathlib.Path({str(tmp_path / 'file')!r})])\n"
        "print(result.whole, peak() - before, result)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 5
    whole, grown, result = done.stdout.split(maxsplit=2)
    assert whole == ("True" if data[2:3] == b"\x8b" else "False")
    assert int(grown) < 250
    assert whole == "True" or "not all of it was read" in result


def test_archives_within_archives_are_bounded(tmp_path: Path) -> None:
    data = pickle.dumps(THINGS)
    for _ in range(10):
        data = zipped(("a.zip", data))
    result = scanned(tmp_path, data)
    assert (result.imports, result.whole) == ((), False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        pickle.dumps(THINGS)[:-1],
        zipped(("data.pkl", pickle.dumps(THINGS)))[:-30],
        zipped(("data.pkl", pickle.dumps(THINGS)[:-1])),
        dumped(np.zeros(100))[:-300],
        b"\x80\x04" + short("a") + b"\x93" * 3 + b"\xfe.",
    ],
)
def test_damage_is_told(tmp_path: Path, data: bytes) -> None:
    assert not scanned(tmp_path, data).whole


def test_a_wrapper_that_lies_is_not_followed(tmp_path: Path) -> None:
    wrapper = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"
    dtype = b"cnumpy\ndtype\n" + short("f8") + b"\x85R"

    def state(dtype: bytes, shape: bytes) -> bytes:
        return b"\x80\x04" + wrapper + b"}(" + short("dtype") + dtype + short("shape") + shape + b"ub."

    assert scanned(tmp_path, state(dtype, b")") + bytes(8)).imports == (
        "joblib.numpy_pickle.NumpyArrayWrapper",
        "numpy.dtype",
    )
    huge = b"\x8a\x0a" + b"\xff" * 9 + b"\x00"
    for shape in (
        b"N",
        short("x"),
        b"(Nt",
        b"J\xff\xff\xff\xff\x85",
        huge + b"\x85",
        b"(" + b"K\x01" * 99 + b"t",
    ):
        assert not scanned(tmp_path, state(dtype, shape)).whole
    for other in (b"N", short("f8"), b"cnumpy\ndtype\n", dtype.replace(b"f8", b"f,")):
        assert not scanned(tmp_path, state(other, b")")).whole


def test_wrappers_within_wrappers_are_bounded(tmp_path: Path) -> None:
    dtype = b"cnumpy\ndtype\n" + short("O8") + b"\x85R"
    state = b"}(" + short("dtype") + dtype + short("shape") + b")u"
    nested = b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + state + b"b"
    assert "numpy.dtype" in scanned(tmp_path, nested * 5_000).imports


def test_the_second_pickle_counts_as_the_first_does(tmp_path: Path) -> None:
    assert not scanned(tmp_path, pickle.dumps(1) + pickle.dumps(list(range(300_000)))).whole
    assert not scanned(tmp_path, pickle.dumps(1) + pickle.dumps(bytes(100_000_000))).whole
    assert scanned(tmp_path, pickle.dumps(1) + b"\xffother data").whole


def test_names_that_cannot_be_told(tmp_path: Path) -> None:
    for data in (b"\x80\x04NN\x93.", b"\x80\x02\x82\x01.", b"\x80\x04\x93."):
        result = scanned(tmp_path, data)
        assert result.imports == result.dangerous == (COMPUTED,)


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert str(scanned(tmp_path, pickle.dumps({"a": [1, 2.5, "x", None, True, b"y", (1,)]}))) == "nothing"
    assert scanned(tmp_path, zipped(("README.md", b"hello"))) == Scan((), whole=True)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="nowhere cannot be read"):
        scan([tmp_path / "nowhere"])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(PICKLES)), st.integers(0, 400))
def test_any_bytes_are_looked_at_in_peace(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, kind: str, position: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(PICKLES[kind][:position] + noise + PICKLES[kind][position + len(noise) :])
    str(scan([path]))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.getattr",
        "__builtin__.eval",
        "functools.partial",
        "numpy.os.system",
        "torch._os.system",
        "random._os.system",
        "collections.sys.modules",
        "torch.load",
        "joblib.load",
        "numpy.testing._private.utils.runstring",
        "cloudpickle.cloudpickle._make_function",
        "importlib.import_module",
    ],
)
def test_dangerous_names(name: str) -> None:
    assert is_dangerous(name)


@pytest.mark.parametrize(
    "name",
    [
        "builtins.set",
        "collections.OrderedDict",
        "_codecs.encode",
        "copyreg._reconstructor",
        "numpy.dtype",
        "scipy.signal._something",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "torch._utils._rebuild_tensor_v2",
        "mypackage.Model",
    ],
)
def test_other_names(name: str) -> None:
    assert not is_dangerous(name)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "nothing"),
        (["numpy.dtype"], "numpy"),
        (["os.system", "numpy.dtype", "numpy.ndarray"], "numpy and os.system (dangerous)"),
        (
            ["sklearn.tree._tree.Tree", "mine.Model", "sys.exit"],
            "sklearn.tree, mine.Model and sys.exit (dangerous)",
        ),
        (
            [f"mine.Model{number}" for number in range(9)] + ["os.system"],
            "2 more, "
            + ", ".join(f"mine.Model{number}" for number in range(2, 9))
            + " and os.system (dangerous)",
        ),
        (["x\n\x1b[31m.y"], "x??[31m.y"),
        (["a" * 1000], "a" * 80),
    ],
)
def test_names_are_listed_with_the_worst_last(names: list[str], text: str) -> None:
    assert describe(names) == text


def put(directory: Path, **files: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name.replace("__", ".")).write_bytes(data)
    return directory


KNOWN = pickle.dumps(collections.OrderedDict())
FOREST = pickle.dumps(PurePosixPath("a class that is not on the list"))


def test_a_refusal_tells_what_would_be_imported(tmp_path: Path) -> None:
    put(tmp_path, model__joblib=dumped([np.zeros(3), Evil()]))
    with pytest.raises(
        UnsafeFormat,
        match=rf"model\.joblib is a pickle \(joblib included\), which runs code when it is loaded: "
        rf"it imports joblib\.numpy_pickle, .*numpy and {SYSTEM} \(dangerous\)\. .*export the model to ONNX",
    ):
        choose(tmp_path)


def test_every_file_that_runs_code_is_looked_at(tmp_path: Path) -> None:
    put(tmp_path, a__pkl=FOREST, b__pt=PICKLES["checkpoint"], c__pkl=FOREST)
    with pytest.raises(UnsafeFormat, match=rf"a\.pkl is .* \(as do 2 more, such as c\.pkl\): .*{SYSTEM}"):
        choose(tmp_path)


def test_weights_cannot_be_served_at_all(tmp_path: Path) -> None:
    put(tmp_path, weights__pt=saved({"w": torch.ones(2)}))
    for allow_code in (False, True):
        with pytest.raises(
            UnsafeFormat,
            match=r"weights\.pt is a PyTorch checkpoint .*torch.*no program.*cannot be served at all",
        ):
            choose(tmp_path, allow_code=allow_code)


def test_code_is_chosen_only_where_it_is_allowed(tmp_path: Path) -> None:
    put(tmp_path, model__pkl=FOREST, README=b"# hello")
    with pytest.raises(UnsafeFormat):
        choose(tmp_path)
    with pytest.raises(UnsafeFormat):
        choose(tmp_path, "sklearn")
    for hint in (None, "sklearn"):
        choice = choose(tmp_path, hint, allow_code=True)
        assert (choice.runtime.name, choice.path.name) == ("sklearn", "model.pkl")
    with pytest.raises(NoRuntime, match=r"'onnx' does not read .*model\.pkl.*, for 'sklearn'"):
        choose(tmp_path, "onnx", allow_code=True)


def test_what_runs_no_code_comes_first_even_so(tmp_path: Path) -> None:
    put(tmp_path, model__onnx=identity_onnx(), scaler__pkl=FOREST)
    assert choose(tmp_path, allow_code=True).path.name == "model.onnx"
    assert choose(tmp_path, "sklearn", allow_code=True).path.name == "scaler.pkl"


def test_a_pickle_of_known_libraries_is_chosen_where_no_data_is(tmp_path: Path) -> None:
    put(tmp_path, model__pkl=KNOWN, other__pkl=FOREST)
    for allow_code in (False, True):
        choice = choose(tmp_path, allow_code=allow_code)
        assert (choice.path.name, choice.format) == ("model.pkl", Format.KNOWN_PICKLE)
    with pytest.raises(UnsafeFormat, match="which runs code"):
        choose(tmp_path, allow_pickles=False)
    (tmp_path / "other.pkl").unlink()
    with pytest.raises(UnsafeFormat, match=r"model\.pkl is a pickle of known .*the policy allows no pickles"):
        choose(tmp_path, allow_pickles=False)
    put(tmp_path, model__onnx=identity_onnx())
    assert choose(tmp_path).path.name == "model.onnx"


def test_several_files_that_run_code_are_listed(tmp_path: Path) -> None:
    put(tmp_path, a__pkl=FOREST, b__pkl=FOREST)
    with pytest.raises(NoRuntime, match=r"several models: a\.pkl, b\.pkl"):
        choose(tmp_path, allow_code=True)


AUDIT = """
import json, pathlib, pickle, sys
from runtimes.errors import ModelError
from runtimes.formats import identify
from runtimes.pickles.scan import scan
from runtimes.select import choose, installed
installed()
seen = []
WATCHED = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
sys.addaudithook(lambda event, args: seen.append([event, str(args)]) if event in WATCHED else None)
pickle.loads(pickle.dumps(pathlib.PurePosixPath("the hook works")))
control, seen[:] = list(seen), []
chosen = []
for directory in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    for path in directory.iterdir():
        identify(path)
        scan([path])
    for hint in (None, *installed()):
        for framework in (None, "sklearn", "pickle"):
            try:
                chosen.append(str(choose(directory, hint, framework=framework).path))
            except ModelError:
                pass
print(json.dumps({"control": control, "seen": seen, "chosen": chosen}))
"""


def test_by_default_nothing_of_a_pickle_runs_in_any_way(tmp_path: Path) -> None:
    names = ("model.pkl", "model.onnx", "model.safetensors", "model.bin", "model.pt", "pytorch_model.bin")
    kits = tmp_path / "kits"
    kits.mkdir()
    for number, data in enumerate([*PICKLES.values(), *HIDDEN.values()]):
        directory = kits / str(number)
        directory.mkdir()
        for name in names:
            (directory / name).write_bytes(data)
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(kits)],
        cwd=tmp_path / "cwd",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert "pickle.find_class" in [event for event, _ in result["control"]]
    assert result["seen"] == []
    assert result["chosen"] == []
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize("kind", [kind for kind in PICKLES if kind not in ("checkpoint", "after a fault")])
def test_each_kind_of_pickle_would_run_its_command(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(PICKLES[kind])
    if kind == "old checkpoint":
        torch.load(path, weights_only=False)
    elif kind == "after another":
        with path.open("rb") as file:
            pickle.load(file)
            pickle.load(file)
    else:
        joblib.load(path)
    assert (tmp_path / "canary").exists() is (kind != "never called")


def test_an_array_of_joblib_whose_datatype_is_none_is_no_failure(tmp_path: Path) -> None:
    file = io.BytesIO()
    joblib.dump(np.arange(3), file)
    data = file.getvalue()
    assert data.count(b"\x02i8") == 1
    path = tmp_path / "damaged.joblib"
    path.write_bytes(data.replace(b"\x02i8", b"\x02i7"))
    assert "numpy" in str(scan([path]))
