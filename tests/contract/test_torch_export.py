"""Programs of torch.export keep the contract, and never run code while they are loaded."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtimes.base import Array, Datatype, Resources, Signature, TensorSpec
from runtimes.errors import InputError, LoadError, ModelError, UnsafeFormat
from runtimes.pt2_expressions import is_arithmetic
from runtimes.testing import ProcessContract, TensorContract
from runtimes.torch_export import TorchExportRuntime
from tests.support.model_files import Double, Lookup, repack

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class TestTorchExport(TensorContract, ProcessContract):
    engine = "torch"

    @pytest.fixture
    def runtime(self) -> TorchExportRuntime:
        return TorchExportRuntime()

    @pytest.fixture
    def model_path(self, sample: Callable[[str], Path]) -> Path:
        return sample("/iris-export:v1") / "model" / "iris.pt2"

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"x": flowers}

    @pytest.fixture
    def expected(self, probabilities: Array) -> dict[str, Array]:
        return {"output_0": probabilities}


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lookup") / "lookup.pt2"
    rows, words = torch.export.Dim("rows", max=64), torch.export.Dim("words", max=128)
    program = torch.export.export(
        Lookup(),
        (torch.zeros(2, 3, dtype=torch.long),),
        {"mask": torch.ones(2, 3)},
        dynamic_shapes={"words": {0: rows, 1: words}, "mask": {0: rows, 1: words}},
    )
    torch.export.save(program, path)
    return path


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def load(path: Path) -> None:
    TorchExportRuntime().load(path, Resources())


def member(path: Path, name: str) -> Any:
    reader = torch._C.PyTorchFileReader(str(path))
    return json.loads(reader.get_record(name))


def test_keywords_dicts_and_dynamic_sizes(lookup: Path) -> None:
    model = TorchExportRuntime().load(lookup, Resources())
    assert model.signature == Signature(
        (TensorSpec("words", "INT64", (-1, -1)), TensorSpec("mask", "FP32", (-1, -1))),
        (TensorSpec("scores", "FP32", (-1, 2)), TensorSpec("label", "INT64", (-1,))),
    )
    words, mask = np.array([[1, 2, 3, 4, 5]]), np.ones((1, 5), np.float32)
    for _ in range(2):
        results = model.infer({"mask": mask, "words": words})
        with torch.inference_mode():
            expected = Lookup()(torch.from_numpy(words), mask=torch.from_numpy(mask))
        np.testing.assert_allclose(results["scores"], expected["scores"].numpy(), rtol=1e-5)
        assert results["label"].tolist() == expected["label"].tolist()


@pytest.mark.parametrize("shapes", [((65, 3), (65, 3)), ((2, 3), (2, 4))])
def test_sizes_that_the_program_was_not_exported_for(
    lookup: Path, shapes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    model = TorchExportRuntime().load(lookup, Resources())
    words, mask = shapes
    for _ in range(2):
        with pytest.raises(InputError, match="exported for other sizes"):
            model.infer({"words": np.zeros(words, np.int64), "mask": np.ones(mask, np.float32)})


@pytest.mark.parametrize("table", [WEIGHTS, CONSTANTS])
@pytest.mark.parametrize(
    "how", [{"use_pickle": True}, {"path_name": "custom_obj_0"}, {"path_name": "opaque_obj_0"}]
)
def test_pickled_weights_and_constants_are_refused(
    lookup: Path, tmp_path: Path, table: str, how: dict[str, object]
) -> None:
    config = member(lookup, table)
    next(iter(config["config"].values())).update(how)
    path = repack(lookup, tmp_path / "evil.pt2", {table: json.dumps(config).encode()})
    with pytest.raises(UnsafeFormat, match=r"evil\.pt2.*pickle"):
        load(path)


def test_pickled_samples_are_refused_and_not_run(lookup: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Bomb(tmp_path / "mark"), buffer)
    path = repack(lookup, tmp_path / "evil.pt2", {"data/sample_inputs/model.pt": buffer.getvalue()})
    with pytest.raises(UnsafeFormat, match="sample_inputs"):
        load(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name", ["data/weights/model.pt", "data/constants/model.pt", "data/aotinductor/model/model.so"]
)
def test_members_that_are_code_are_refused(lookup: Path, tmp_path: Path, name: str) -> None:
    path = repack(lookup, tmp_path / "evil.pt2", {name: pickle.dumps(Bomb(tmp_path / "mark"))})
    with pytest.raises(UnsafeFormat, match=name):
        load(path)
    assert not (tmp_path / "mark").exists()


def test_the_older_layout_is_no_way_around(lookup: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    older = {f"/serialized_{part}.pt": bomb for part in ("state_dict", "constants", "example_inputs")}
    changes = {"/version": b"8.20", "/serialized_exported_program.json": b"{}", **older}
    path = repack(lookup, tmp_path / "evil.pt2", changes)
    with pytest.raises(LoadError, match=r"evil\.pt2.*older torch"):
        load(path)
    assert not (tmp_path / "mark").exists()


EVIL_TARGETS = [
    "torch.os.system",
    "torch.hub.load",
    "torch.ops.load_library",
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.__class__.mro",
    "torch.ops.debugprims.load_tensor.default",
    "torch.ops.higher_order.triton_kernel_wrapper_mutation",
    "_operator.methodcaller",
    "_operator.call",
    "math.__loader__.load_module",
    "#extension:anything",
    "torch.ops.aten.mul.Tensor\n",
]


@pytest.mark.parametrize("target", EVIL_TARGETS)
def test_operators_outside_of_the_list_are_refused(lookup: Path, tmp_path: Path, target: str) -> None:
    program = member(lookup, MODEL)
    program["graph_module"]["graph"]["nodes"][0]["target"] = target
    refused(lookup, tmp_path, program)


EVIL_EXPRESSIONS = [
    "__import__('os').system('true')",
    "Symbol('s0').__class__",
    "(lambda: 1)()",
    "[x for x in (1,)]",
    "eval('1')",
    "Symbol(name='s0', **{})",
    "Symbol('__import__(\"os\")')",
    "Max(*Symbol('s0'))",
    "s0[0]",
    "'a'",
    "1" * 5000,
]
ENDLESS_EXPRESSIONS = [
    "9**9**8",
    "s0**2",
    "1 << 9999999999",
    "Pow(Integer(9), Integer(387420489))",
    "Pow(Pow(Pow(Symbol('s0'), 16), 16), 16)",
    "Pow(Integer(2), Symbol('s0'))",
    "PowByNatural(9, Mul(9, 9))",
    "LShift(Integer(1), Integer(9999999999))",
    "LShift(1, Symbol('s0'))",
    "floor(1e300)",
    "floor(1e999999999)",
    "Integer(" + "9" * 40 + ")",
    "Mul(" + ", ".join(f"Add(Symbol('a{i}'), Symbol('b{i}'))" for i in range(20)) + ")",
    "Pow(Add(" + ", ".join(f"Symbol('s{i}')" for i in range(12)) + "), 8)",
    "Mul(" * 70 + "1" + ", 1)" * 70,
    "-" * 3000 + "1",
    "Max(" + ", ".join(["1"] * 1100) + ")",
]
USUAL_EXPRESSIONS = [
    "Symbol('s0', positive=True, integer=True)",
    "Mul(Integer(2), Pow(Max(Integer(1), Add(FloorDiv(Add(Symbol('s0', positive=True, integer=True), "
    "Integer(-3)), Integer(2)), Integer(1))), Integer(2)))",
    "Pow(Symbol('s27', positive=True, integer=True), Integer(3))",
    "Pow(Symbol('s0', positive=True), Integer(-1))",
    "Pow(Symbol('s0', positive=True), Rational(1, 2))",
    "LShift(Symbol('s0'), Integer(3))",
    "Mod(s0*s1 + 7, 8)",
]


@pytest.mark.parametrize("expression", EVIL_EXPRESSIONS + ENDLESS_EXPRESSIONS)
def test_expressions_that_do_more_than_calculate_are_refused(
    lookup: Path, tmp_path: Path, expression: str
) -> None:
    program = member(lookup, MODEL)
    sizes = program["graph_module"]["graph"]["tensor_values"]["words"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = expression
    refused(lookup, tmp_path, program)


@pytest.mark.parametrize("expression", USUAL_EXPRESSIONS)
def test_expressions_of_usual_programs_are_not(expression: str) -> None:
    assert is_arithmetic(expression)


def test_powers_of_sizes_are_served(tmp_path: Path) -> None:
    class Squares(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            size = x.shape[0]
            return torch.arange(size**3)[: size * size]

    path = tmp_path / "model.pt2"
    rows = torch.export.Dim("rows", min=2, max=64)
    torch.export.save(torch.export.export(Squares(), (torch.ones(3),), dynamic_shapes=({0: rows},)), path)
    model = TorchExportRuntime().load(path, Resources())
    assert model.infer({"x": np.ones(4, np.float32)})["output_0"].tolist() == list(range(16))


def operator(name: str, left: object, right: object, output: str) -> dict[str, object]:
    """A node that applies an operator to two sizes."""
    inputs = [{"name": which, "arg": arg, "kind": 1} for which, arg in (("a", left), ("b", right))]
    outputs = [{"as_sym_int": {"as_name": output}}]
    return {"target": f"_operator.{name}", "inputs": inputs, "outputs": outputs, "metadata": {}}


def size(name: str) -> dict[str, object]:
    return {"as_sym_int": {"as_name": name}}


@pytest.mark.parametrize(
    "nodes",
    [
        [operator("pow", {"as_int": 9}, {"as_int": 43046721}, "n")],
        [operator("pow", size("s0"), size("s0"), "n")],
        [operator("lshift", {"as_int": 1}, {"as_int": 10**10}, "n")],
        [operator("mul", size(f"n{i}"), size(f"n{i}"), f"n{i + 1}") for i in range(40)],
    ],
    ids=["a power", "a power of sizes", "a shift", "squares of squares"],
)
def test_operators_that_calculate_without_end_are_refused(
    lookup: Path, tmp_path: Path, nodes: list[dict[str, object]]
) -> None:
    program = member(lookup, MODEL)
    program["graph_module"]["graph"]["nodes"][:0] = nodes
    refused(lookup, tmp_path, program)


def test_names_become_source_and_must_be_identifiers(lookup: Path, tmp_path: Path) -> None:
    text = json.dumps(member(lookup, MODEL))
    refused(lookup, tmp_path, json.loads(text.replace('"embedding"', '"a = __import__(1)\\n"')))
    refused(lookup, tmp_path, json.loads(text.replace('"dense.weight"', '"a\\"+b"')))
    refused(lookup, tmp_path, json.loads(text.replace("mask", "a': b")))


@pytest.mark.parametrize(
    "kind", ["collections.defaultdict", "collections.namedtuple", "collections.deque", "os.system"]
)
def test_trees_that_import_are_refused(lookup: Path, tmp_path: Path, kind: str) -> None:
    text = json.dumps(member(lookup, MODEL)).replace("builtins.dict", kind)
    refused(lookup, tmp_path, json.loads(text))


def test_trees_with_enums_are_refused(lookup: Path, tmp_path: Path) -> None:
    program = member(lookup, MODEL)
    context = json.dumps([{"__enum__": True, "fqn": "os:environ", "name": "x"}])
    leaf: dict[str, object] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "builtins.dict", "context": context, "children_spec": [leaf]}
    program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, tree])
    refused(lookup, tmp_path, program)


def refused(source: Path, directory: Path, program: object) -> None:
    path = repack(source, directory / "evil.pt2", {MODEL: json.dumps(program).encode()})
    with pytest.raises(UnsafeFormat, match=r"evil\.pt2"):
        load(path)
    with pytest.raises(UnsafeFormat, match=r"evil\.pt2"):
        TorchExportRuntime().signature(path)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"{", b"[" * 100_000, b'{"graph_module": {"graph": 1}}', b"\xff"]
)
def test_a_broken_program_is_a_load_error(lookup: Path, tmp_path: Path, text: bytes) -> None:
    path = repack(lookup, tmp_path / "broken.pt2", {MODEL: text})
    with pytest.raises(LoadError, match=r"broken\.pt2"):
        load(path)
    with pytest.raises(LoadError, match=r"broken\.pt2"):
        TorchExportRuntime().signature(path)


def test_another_suffix_makes_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.export.save(torch.export.export(Double(), (torch.ones(2),)), path)
    model = TorchExportRuntime().load(path, Resources())
    assert model.infer({"x": np.ones(2, np.float32)})["output_0"].tolist() == [2.0, 2.0]


def test_bf16_goes_in_and_comes_out(tmp_path: Path) -> None:
    path, bf16 = tmp_path / "model.pt2", Datatype.BF16.numpy
    torch.export.save(torch.export.export(Double(), (torch.ones(2, 2, dtype=torch.bfloat16),)), path)
    model = TorchExportRuntime().load(path, Resources())
    assert [spec.datatype for spec in model.signature.inputs] == ["BF16"]
    array = np.array([[1.5, -2], [0, 2.0**100]], bf16)
    for argument in (array, array.T):
        answer = model.infer({"x": argument})["output_0"]
        assert answer.dtype == bf16
        assert answer.tolist() == (argument.astype("f4") * 2).tolist()


def test_two_programs_in_one_archive_are_refused(lookup: Path, tmp_path: Path) -> None:
    path = repack(lookup, tmp_path / "two.pt2", {"models/other.json": b"{}"})
    with pytest.raises(ModelError, match="must have one program"):
        load(path)
