"""ONNX files are read without an ONNX library."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes import onnx_external, onnx_file
from runtimes.base import Datatype, Resources, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.formats import Format, identify
from runtimes.onnx import OnnxRuntime
from runtimes.onnx_external import External
from runtimes.onnx_outputs import Composed, Form
from tests.support.model_files import (
    chunk,
    external_tensor,
    identity_onnx,
    node,
    number,
    onnx_model,
    value_info,
    varint,
)

ELEMENTS = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(("element", "datatype"), ELEMENTS.items())
def test_every_datatype_is_read_as_the_engine_reads_it(
    written: Callable[[bytes], Path], element: int, datatype: str
) -> None:
    path = written(identity_onnx(element))
    assert identify(path) is Format.ONNX
    spec = (TensorSpec("x", datatype, (-1, 2)),)
    model = OnnxRuntime().load(path, Resources())
    outputs = tuple(TensorSpec("y", s.datatype, s.shape) for s in spec)
    assert model.signature == Signature(spec, outputs)
    numpy = Datatype(datatype).numpy
    array = np.array([[b"a", "é".encode()]], object) if datatype == "BYTES" else np.ones((1, 2), numpy)
    answer = model.infer({"x": array})["y"]
    assert answer.dtype == numpy
    assert answer.tolist() == array.tolist()
    empty = model.infer({"x": np.empty((0, 2), numpy)})["y"]
    assert (empty.dtype, empty.shape) == (numpy, (0, 2))


@pytest.mark.parametrize(
    ("shape", "read"), [(None, None), ((), ()), ((3,), (3,)), (("n", 4), (-1, 4)), ((-1, 2), (-1, 2))]
)
def test_shapes(
    written: Callable[[bytes], Path], shape: tuple[int | str, ...] | None, read: tuple[int, ...] | None
) -> None:
    assert onnx_file.read(written(identity_onnx(shape=shape))).signature.inputs[0].shape == read


def test_an_initializer_is_not_an_input(written: Callable[[bytes], Path]) -> None:
    weight = number(1, 2) + number(2, 1) + chunk(8, "w") + chunk(9, np.ones(2, np.float32).tobytes())
    inputs = [value_info("x", 1, [2]), value_info("w", 1, [2])]
    data = onnx_model([node("Add", ["x", "w"], ["y"])], inputs, [value_info("y", 1, [2])], [weight])
    path = written(data)
    assert [spec.name for spec in onnx_file.read(path).signature.inputs] == ["x"]
    model = OnnxRuntime().load(path, Resources())
    assert model.infer({"x": np.ones(2, np.float32)})["y"].tolist() == [2.0, 2.0]


def test_bf16_stands_beside_other_datatypes(written: Callable[[bytes], Path]) -> None:
    shape, bf16 = ("n", 2), Datatype.BF16.numpy
    inputs = [value_info("x", 16, shape), value_info("i", 7, shape)]
    outputs = [value_info("y", 16, shape), value_info("j", 7, shape)]
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["i"], ["j"])]
    model = OnnxRuntime().load(written(onnx_model(nodes, inputs, outputs)), Resources())
    whole = np.arange(8).reshape(2, 4)
    for rows in (whole[:, :2], whole[:, ::2]):
        answer = model.infer({"x": rows.astype(bf16), "i": rows})
        assert (answer["y"].dtype, answer["j"].dtype) == (bf16, rows.dtype)
        assert answer["y"].tolist() == answer["j"].tolist() == rows.tolist()
    assert list(model.infer({"x": rows.astype(bf16), "i": rows}, ["j"])) == ["j"]


def test_bf16_beside_strings_is_refused(written: Callable[[bytes], Path]) -> None:
    inputs = [value_info("x", 16, [1]), value_info("s", 8, [1])]
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["s"], ["t"])]
    path = written(onnx_model(nodes, inputs, [value_info("y", 16, [1]), value_info("t", 8, [1])]))
    with pytest.raises(LoadError, match="has both strings and BF16"):
        OnnxRuntime().load(path, Resources())


def test_strings_that_are_not_text_are_an_input_error(written: Callable[[bytes], Path]) -> None:
    model = OnnxRuntime().load(written(identity_onnx(8)), Resources())
    with pytest.raises(InputError, match=r"'x'.*UTF-8"):
        model.infer({"x": np.array([[b"\xff", b""]], object)})


def test_a_failing_node_is_an_execution_error(written: Callable[[bytes], Path]) -> None:
    inputs = [value_info("x", 1, ["n"]), value_info("i", 7, ["m"])]
    data = onnx_model([node("Gather", ["x", "i"], ["y"])], inputs, [value_info("y", 1, ["m"])])
    model = OnnxRuntime().load(written(data), Resources())
    with pytest.raises(ExecutionError, match="the model failed"):
        model.infer({"x": np.ones(2, np.float32), "i": np.array([7])})


def test_an_initializer_that_is_an_input_too_can_be_given_or_left_out(
    written: Callable[[bytes], Path],
) -> None:
    weight = number(1, 2) + number(2, 1) + chunk(8, "w") + chunk(9, np.ones(2, np.float32).tobytes())
    inputs = [value_info("x", 1, [2]), value_info("w", 1, [2])]
    data = onnx_model([node("Add", ["x", "w"], ["y"])], inputs, [value_info("y", 1, [2])], [weight])
    model = OnnxRuntime().load(written(data), Resources())
    assert model.signature.optional == (TensorSpec("w", "FP32", (2,)),)
    x, w = np.ones(2, np.float32), np.full(2, 5, np.float32)
    assert model.infer({"x": x})["y"].tolist() == [2.0, 2.0]
    assert model.infer({"x": x, "w": w})["y"].tolist() == [6.0, 6.0]
    with pytest.raises(InputError, match=r"'w' must have shape \[2\], not \[3\]"):
        model.infer({"x": x, "w": np.ones(3, np.float32)})
    with pytest.raises(InputError, match="'x' is missing"):
        model.infer({"w": w})


def test_weights_that_an_exporter_lists_among_the_inputs_are_none(written: Callable[[bytes], Path]) -> None:
    def read(count: int, version: int) -> tuple[TensorSpec, ...]:
        names = [f"w{index}" for index in range(count)]
        weights = [number(1, 2) + number(2, 1) + chunk(8, name) + chunk(9, bytes(8)) for name in names]
        inputs = [value_info(name, 1, [2]) for name in ("x", *names)]
        data = onnx_model([node("Identity", ["x"], ["y"])], inputs, [value_info("y", 1, [2])], weights)
        return onnx_file.read(written(data.replace(number(1, 8), number(1, version), 1))).signature.optional

    assert len(read(16, 4)) == 16
    assert read(17, 4) == ()
    # Before version 4 each weight had to be listed, and none can be replaced.
    assert read(1, 3) == ()


def container(name: str, field: int, content: bytes) -> bytes:
    return chunk(1, name) + chunk(2, chunk(field, content))


def tensor_type(element: int) -> bytes:
    return chunk(1, number(1, element))


def map_type(key: int, value: int) -> bytes:
    return number(1, key) + chunk(2, tensor_type(value))


def zip_map(keys: tuple[int | str, ...], packed: bool = False) -> bytes:
    """A classifier as skl2onnx exports it by default: `scores`, a sequence of maps, and `label`."""
    if isinstance(keys[0], int):
        values = (
            chunk(8, b"".join(map(varint, keys)))  # type: ignore[arg-type]
            if packed
            else b"".join(number(8, key) for key in keys)  # type: ignore[arg-type]
        )
        attribute = chunk(1, "classlabels_int64s") + values + number(20, 7)
        key = 7
    else:
        attribute = chunk(1, "classlabels_strings") + b"".join(chunk(9, each) for each in keys)  # type: ignore[arg-type]
        attribute += number(20, 8)
        key = 8
    nodes = [
        node("ZipMap", ["x"], ["scores"], "ai.onnx.ml", chunk(5, attribute)),
        node(
            "ArgMax", ["x"], ["label"], attributes=chunk(5, chunk(1, "axis") + number(3, 1) + number(20, 2))
        ),
    ]
    scores = container("scores", 4, chunk(1, chunk(5, map_type(key, 1))))
    return onnx_model(
        nodes,
        [value_info("x", 1, ("n", len(keys)))],
        [value_info("label", 7, None), scores],
        domains=["", "ai.onnx.ml"],
    )


@pytest.mark.parametrize(
    ("keys", "packed"), [((0, 1, 2), False), ((7, -3), True), ((7, -3), False), (("a", "é"), False)]
)
def test_a_sequence_of_maps_becomes_a_table_and_its_keys(
    written: Callable[[bytes], Path], keys: tuple[int | str, ...], packed: bool
) -> None:
    model = OnnxRuntime().load(written(zip_map(keys, packed)), Resources())
    count = len(keys)
    datatype = "BYTES" if isinstance(keys[0], str) else "INT64"
    assert model.signature.outputs == (
        TensorSpec("label", "INT64", None),
        TensorSpec("scores", "FP32", (-1, count)),
        TensorSpec("scores_labels", datatype, (count,)),
    )
    names = [key.encode() if isinstance(key, str) else key for key in keys]
    for rows in (3, 1, 0):
        x = np.arange(rows * count, dtype=np.float32).reshape(rows, count)
        answer = model.infer({"x": x})
        assert list(answer) == ["label", "scores", "scores_labels"]
        assert answer["scores"].dtype == np.float32
        assert answer["scores"].tolist() == x.tolist()
        assert answer["scores"].shape == (rows, count)
        assert answer["scores_labels"].dtype == Datatype(datatype).numpy
        assert answer["scores_labels"].tolist() == names
    assert list(model.infer({"x": x}, ["scores_labels"])) == ["scores_labels"]
    assert list(model.infer({"x": x}, ["scores", "label"])) == ["scores", "label"]
    with pytest.raises(InputError, match="unknown output 'label_labels'"):
        model.infer({"x": x}, ["label_labels"])


def test_maps_without_stated_keys_have_those_of_the_answer() -> None:
    maps = Composed("y", Form.MAPS, Datatype.FP32, Datatype.BYTES, "y_labels")
    assert maps.specs == (TensorSpec("y", "FP32", (-1, -1)), TensorSpec("y_labels", "BYTES", None))
    answer = maps.tensors([{"a": 1.0}, {"b": 2.0, "a": 3.0}])
    np.testing.assert_array_equal(answer["y"], np.array([[1.0, np.nan], [3.0, 2.0]], np.float32))
    assert answer["y_labels"].tolist() == [b"a", b"b"]
    single = Composed("y", Form.MAP, Datatype.INT64, Datatype.INT64, "y_labels").tensors({5: 1, 2: 9})
    assert {name: array.tolist() for name, array in single.items()} == {"y": [1, 9], "y_labels": [5, 2]}


@pytest.mark.parametrize("element", [1, 8])
def test_a_sequence_of_tensors_becomes_as_many(written: Callable[[bytes], Path], element: int) -> None:
    nodes = [node("SequenceConstruct", ["x", "z"], ["parts"]), node("Identity", ["x"], ["y"])]
    parts = container("parts", 4, chunk(1, tensor_type(element)))
    inputs = [value_info("x", element, ("n",)), value_info("z", element, ("m",))]
    model = OnnxRuntime().load(
        written(onnx_model(nodes, inputs, [parts, value_info("y", element, ("n",))])), Resources()
    )
    assert model.signature.outputs == ()
    x, z = np.array([b"a"], object), np.array([b"b", b"c"], object)
    if element == 1:
        x, z = np.ones(1, np.float32), np.zeros(2, np.float32)
    answer = model.infer({"x": x, "z": z})
    assert {name: array.tolist() for name, array in answer.items()} == {
        "parts_0": x.tolist(),
        "parts_1": z.tolist(),
        "y": x.tolist(),
    }
    assert list(model.infer({"x": x, "z": z}, ["parts_1"])) == ["parts_1"]
    for name in ("parts_2", "parts", "y_0"):
        with pytest.raises(InputError, match=f"unknown output '{name}'"):
            model.infer({"x": x, "z": z}, [name])


def test_an_optional_output_is_a_tensor(written: Callable[[bytes], Path]) -> None:
    optional = container("y", 9, chunk(1, tensor_type(1)))
    data = onnx_model([node("Optional", ["x"], ["y"])], [value_info("x", 1, [2])], [optional])
    model = OnnxRuntime().load(written(data), Resources())
    assert model.signature.outputs == (TensorSpec("y", "FP32", None),)
    assert model.infer({"x": np.ones(2, np.float32)})["y"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("element", [14, 15, 17, 99, 0])
def test_an_element_type_without_a_datatype_is_named(written: Callable[[bytes], Path], element: int) -> None:
    with pytest.raises(LoadError, match=f"model.onnx.*'x' has element type {element}"):
        onnx_file.read(written(identity_onnx(element)))


def test_a_sequence_of_maps_is_refused_with_advice(written: Callable[[bytes], Path]) -> None:
    sequence = chunk(1, "scores") + chunk(2, chunk(4, chunk(1, chunk(5, number(1, 7)))))
    data = onnx_model(
        [node("ZipMap", ["x"], ["scores"], "ai.onnx.ml")], [value_info("x", 1, [2])], [sequence]
    )
    with pytest.raises(LoadError, match=r"'scores'.*zipmap"):
        onnx_file.read(written(data))


def test_custom_operators_are_named(written: Callable[[bytes], Path]) -> None:
    nodes = [node("Thing", ["x"], ["y"], "com.example")]
    data = onnx_model(
        nodes, [value_info("x", 1, [2])], [value_info("y", 1, [2])], domains=["", "com.example"]
    )
    assert onnx_file.read(written(data)).foreign_domains == {"com.example"}
    with pytest.raises(LoadError, match=r"custom operators of com\.example"):
        OnnxRuntime().load(written(data), Resources())


def test_an_operator_that_the_file_defines_is_not_custom(written: Callable[[bytes], Path]) -> None:
    body = node("Identity", ["a"], ["b"])
    function = (
        chunk(1, "Thing")
        + chunk(4, "a")
        + chunk(5, "b")
        + chunk(7, body)
        + chunk(9, chunk(1, "") + number(2, 17))
    )
    nodes = [node("Thing", ["x"], ["y"], "com.example")]
    data = onnx_model(
        nodes,
        [value_info("x", 1, [2])],
        [value_info("y", 1, [2])],
        functions=[function + chunk(10, "com.example")],
        domains=["", "com.example"],
    )
    model = OnnxRuntime().load(written(data), Resources())
    assert model.infer({"x": np.ones(2, np.float32)})["y"].tolist() == [1.0, 1.0]


class TestExternalData:
    def model(self, directory: Path, entries: dict[str, str]) -> Path:
        path = directory / "model.onnx"
        path.write_bytes(
            onnx_model(
                [node("Add", ["x", "w"], ["y"])],
                [value_info("x", 1, [2])],
                [value_info("y", 1, [2])],
                [external_tensor("w", 2, entries)],
            )
        )
        return path

    def test_beside_the_model(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "w.bin").write_bytes(bytes(4) + np.array([3, 4], np.float32).tobytes())
        path = self.model(tmp_path, {"location": "data/w.bin", "offset": "4", "length": "8"})
        model = OnnxRuntime().load(path, Resources())
        assert model.infer({"x": np.ones(2, np.float32)})["y"].tolist() == [4.0, 5.0]

    @pytest.mark.parametrize(
        "location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "..\\w.bin", "", "w\0.bin"]
    )
    def test_outside_of_the_directory(self, tmp_path: Path, location: str) -> None:
        with pytest.raises(LoadError, match=r"model\.onnx keeps weights in .*below its own directory"):
            OnnxRuntime().load(self.model(tmp_path, {"location": location}), Resources())

    @pytest.mark.parametrize("kind", ["missing", "link", "directory", "linked directory", "pipe"])
    def test_no_regular_file(self, tmp_path: Path, kind: str) -> None:
        inside, outside = tmp_path / "kit", tmp_path / "outside"
        inside.mkdir()
        outside.mkdir()
        (outside / "w.bin").write_bytes(bytes(8))
        location = "w.bin"
        if kind == "link":
            (inside / "w.bin").symlink_to(outside / "w.bin")
        elif kind == "directory":
            (inside / "w.bin").mkdir()
        elif kind == "linked directory":
            (inside / "way").symlink_to(outside)
            location = "way/w.bin"
        elif kind == "pipe":
            os.mkfifo(inside / "w.bin")
        with pytest.raises(LoadError, match="no regular file"):
            OnnxRuntime().load(self.model(inside, {"location": location}), Resources())

    @pytest.mark.parametrize(
        ("offset", "length"),
        [("4", "8"), ("-4", "8"), ("0", "-8"), ("0", "9" * 30), ("x", "8"), ("0", "8.5")],
    )
    def test_beyond_the_file(self, tmp_path: Path, offset: str, length: str) -> None:
        (tmp_path / "w.bin").write_bytes(bytes(8))
        path = self.model(tmp_path, {"location": "w.bin", "offset": offset, "length": length})
        with pytest.raises(LoadError, match=r"model\.onnx"):
            OnnxRuntime().load(path, Resources())

    def test_a_git_lfs_pointer(self, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 8000\n"
        )
        path = self.model(tmp_path, {"location": "w.bin", "length": "8000"})
        with pytest.raises(
            LoadError, match=r"weights in 'w\.bin', which is a Git LFS pointer .*: run git lfs pull"
        ):
            OnnxRuntime().load(path, Resources())

    @pytest.mark.parametrize("where", ["constant", "branch", "function", "sparse"])
    def test_found_wherever_it_hides(self, written: Callable[[bytes], Path], where: str) -> None:
        tensor = external_tensor("w", 2, {"location": "/etc/passwd"})
        attribute = chunk(5, chunk(1, "value") + chunk(5, tensor))
        nodes, functions = [node("Constant", [], ["y"], attributes=attribute)], []
        if where == "branch":
            nodes = [
                node("If", ["x"], ["y"], attributes=chunk(5, chunk(1, "then") + chunk(6, chunk(1, nodes[0]))))
            ]
        elif where == "function":
            functions, nodes = [chunk(7, nodes[0])], []
        elif where == "sparse":
            nodes = [node("Constant", [], ["y"], attributes=chunk(5, chunk(22, chunk(1, tensor))))]
        data = onnx_model(nodes, [], [value_info("y", 1, [2])], functions=functions)
        assert [external.location for external in onnx_file.read(written(data)).external] == ["/etc/passwd"]


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = chunk(1, chunk(5, chunk(6, graph)))
    return number(1, 8) + chunk(7, graph)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        number(1, 8),
        chunk(7, b"") + chunk(7, b""),
        nested(40),
        chunk(7, b"")[:-1] + b"\xff",
        chunk(7, chunk(11, chunk(1, b"\xff"))),
        chunk(7, chunk(11, chunk(1, b"x" * 70_000))),
        b"\x80" * 20,
        varint(7 << 3 | 3),
        varint(7 << 3 | 2) + varint(2**63),
    ],
)
def test_broken_files_are_load_errors(written: Callable[[bytes], Path], data: bytes) -> None:
    with pytest.raises(LoadError, match=r"model\.onnx"):
        onnx_file.read(written(data))


WHOLE = identity_onnx()


@settings(max_examples=300, deadline=2_000)
@given(data=st.one_of(st.binary(max_size=400), st.integers(0, len(WHOLE)).map(lambda n: WHOLE[:n])))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp() / "any.onnx", data)


@settings(max_examples=300, deadline=2_000)
@given(position=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    read_or_refuse(
        tmp_path_factory.getbasetemp() / "any.onnx", WHOLE[:position] + bytes([byte]) + WHOLE[position + 1 :]
    )


def read_or_refuse(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    identify(path)
    with contextlib.suppress(LoadError):
        onnx_external.check_external(path, onnx_file.read(path).external)


def test_a_name_that_no_file_can_have_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no regular file beside it"):
        onnx_external.check_external(tmp_path / "model.onnx", [External("x" * 5000)])


def test_time_is_bounded_by_the_number_of_fields(written: Callable[[bytes], Path]) -> None:
    path = written(number(1, 8) + chunk(7, chunk(1, b"\x08\x00" * 6_000_000)))
    began = time.monotonic()
    with pytest.raises(LoadError, match="too many fields"):
        onnx_file.read(path)
    assert time.monotonic() - began < 20


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    head = number(1, 8) + varint(7 << 3 | 2) + varint((1 << 33) + 100)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + (1 << 33) + 100)
    began = time.monotonic()
    assert identify(path) is Format.ONNX
    assert time.monotonic() - began < 1
