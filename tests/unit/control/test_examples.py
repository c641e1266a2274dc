"""Examples of calls: each is taken by a real worker, pasted into a real shell."""

from __future__ import annotations

import json
import shutil
import subprocess

import jsonschema_rs
import orjson
import pytest

from gateway.codec.json_request import Decoder
from gateway.codec.predict.paths import Style
from gateway.codec.predict.request import Reader
from gateway.control.front import examples, schemas
from runtimes.base import ANY, Datatype, Signature, TensorSpec
from runtimes.input_check import check_inputs
from tests.support.echo import Echo
from tests.support.worker import worker

SMALL = (
    TensorSpec("x_rows", "FP32", (-1, 4)),
    TensorSpec('x_it\'s "$HOME" `id` é', "INT64", (-1,)),
    TensorSpec("x_mask", "BOOL", (2, 3)),
    TensorSpec("x_text", "BYTES", (-1, 1)),
    TensorSpec("x_scalar", "FP64", ()),
    TensorSpec("x_any", "UINT8"),
)
LARGE = (
    TensorSpec("x_image", "FP32", (-1, 64, 64, 3)),
    TensorSpec("x_text's", "BYTES", (-1, 5)),
    TensorSpec("x_half", "BF16", (3,)),
)


@pytest.mark.parametrize("datatype", Datatype)
def test_every_datatype_has_values_that_a_worker_and_the_schema_take(datatype: Datatype) -> None:
    signature = Signature((TensorSpec("x", datatype, (-1, 12)),), ())
    body = examples.request(signature)
    assert body["inputs"][0]["shape"] == [1, 12]
    check_inputs(signature, Decoder(signature)([json.dumps(body).encode()]).inputs)
    root = {"components": {"schemas": schemas.components()}, **schemas.request_of(signature)}
    jsonschema_rs.Draft202012Validator(root).validate(body)


@pytest.mark.parametrize("datatype", Datatype)
def test_every_datatype_has_rows_that_a_worker_takes(datatype: Datatype) -> None:
    for shape in ((-1,), (-1, 1), (-1, 3), (2, 2, 2)):
        spec = TensorSpec("x", datatype, shape)
        for signature in (Signature((spec,), ()), Signature((spec, TensorSpec("y", datatype, shape)), ())):
            body = json.dumps(examples.predict(signature)).encode()
            call = Reader(signature, None, 1)([body], "application/json", Style.NAMED).call
            check_inputs(signature, call.inputs)
            infer = Decoder(signature)([json.dumps(examples.request(signature)).encode()])
            assert {name: array.tolist() for name, array in call.inputs.items()} == {
                name: array.tolist() for name, array in infer.inputs.items()
            }
            assert examples.rows_of(json.dumps(examples.request(signature))) == examples.predict(signature)


def test_what_has_no_rows_has_no_example_of_them() -> None:
    assert examples.predict(Signature((TensorSpec("x", "FP32", ()),), ())) is None
    assert examples.predict(Signature(LARGE, ())) is None
    assert examples.predict(Signature(SMALL[:3], ())) is None, "of different lengths"
    for text in ("", "[]", "{}", '{"inputs": [{"name": "x"}]}', '{"inputs": []}'):
        assert examples.rows_of(text) is None


def test_a_schema_refuses_what_its_model_refuses() -> None:
    signature = Signature(SMALL, (TensorSpec("y_rows", "FP32", (-1, 4)),))
    body = examples.request(signature)
    root = {"components": {"schemas": schemas.components()}, **schemas.request_of(signature)}
    validator = jsonschema_rs.Draft202012Validator(root)
    validator.validate({**body, "id": "a", "parameters": {"x": 1}, "outputs": [{"name": "y_rows"}]})
    for wrong in [
        {"inputs": body["inputs"][1:]},
        {"inputs": [*body["inputs"], body["inputs"][0]]},
        {"inputs": [{**body["inputs"][0], "name": "other"}, *body["inputs"][1:]]},
        {"inputs": [{**body["inputs"][0], "datatype": "FP64"}, *body["inputs"][1:]]},
        {"inputs": [{**body["inputs"][0], "shape": [1, 5]}, *body["inputs"][1:]]},
        {"inputs": [{**body["inputs"][0], "shape": [4]}, *body["inputs"][1:]]},
        {"inputs": [{**body["inputs"][0], "data": ["a"]}, *body["inputs"][1:]]},
        {**body, "id": 3},
        {**body, "parameters": {"x": []}},
        {**body, "outputs": [{"name": "other"}]},
    ]:
        assert not validator.is_valid(wrong), wrong


def test_a_schema_knows_the_limits_of_integers() -> None:
    signature = Signature((TensorSpec("x", "INT8", (1,)),), ())
    root = {"components": {"schemas": schemas.components()}, **schemas.request_of(signature)}
    validator = jsonschema_rs.Draft202012Validator(root)
    tensor = {"name": "x", "datatype": "INT8", "shape": [1]}
    assert validator.is_valid({"inputs": [{**tensor, "data": [[-128]]}]})
    assert not validator.is_valid({"inputs": [{**tensor, "data": [[-129]]}]})


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("specs", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_pasted_command_calls_the_model(specs: tuple[TensorSpec, ...], shell: str) -> None:
    model = Echo(*specs)
    with worker(model) as address:
        command = examples.command(f"http://{address}/v2/models/echo/infer", model.signature)
        call = subprocess.run([shell, "-c", command], capture_output=True, text=True, timeout=20, check=True)
    answer = json.loads(call.stdout)
    assert "error" not in answer, answer
    if specs is SMALL:
        assert answer == examples.answer("echo", "v1", model.signature)
    else:
        assert [output["shape"] for output in answer["outputs"]] == [[1, 64, 64, 3], [1, 5], [3]]
        assert set(answer["outputs"][1]["data"]) == {""}
    assert ("/dev/zero" in command) is (specs is LARGE)


def test_what_a_format_does_not_record_is_said_to_be_a_guess() -> None:
    assert examples.is_known(Signature((TensorSpec("x", "FP32", (-1,)),), ()))
    assert not examples.is_known(Signature((TensorSpec("x", "FP32"),), ()))
    assert not examples.is_known(Signature((TensorSpec("x", ANY, (-1,)),), ()))


def test_an_example_is_of_what_is_likely() -> None:
    signature = Signature((TensorSpec("ids", ANY, None, "INT64", (-1, 3)),), (TensorSpec("y", ANY),))
    (tensor,) = json.loads(orjson.dumps(examples.request(signature)))["inputs"]
    assert tensor == {"name": "ids", "shape": [1, 3], "datatype": "INT64", "data": [1, 1, 1]}
    assert examples.raw_request(signature)[1] == 24


def test_a_schema_takes_any_datatype_of_numbers_and_optional_inputs() -> None:
    scale = TensorSpec("scale", "FP32", (1,))
    signature = Signature((TensorSpec("x", ANY),), (TensorSpec("y", ANY),), (scale,))
    root = {"components": {"schemas": schemas.components()}, **schemas.request_of(signature)}
    validator = jsonschema_rs.Draft202012Validator(root)

    def tensor(name: str, datatype: str, data: list[object]) -> dict[str, object]:
        return {"name": name, "datatype": datatype, "shape": [1], "data": data}

    for datatype in Datatype:
        value = {"BYTES": "a", "BOOL": True}.get(datatype, 1)
        body = {"inputs": [tensor("x", datatype, [value])]}
        assert validator.is_valid(body) is (datatype != "BYTES"), datatype
    x, extra = tensor("x", "INT64", [1]), tensor("scale", "FP32", [0.5])
    assert validator.is_valid({"inputs": [x, extra]})
    assert not validator.is_valid({"inputs": [x, extra, extra]})
    assert not validator.is_valid({"inputs": [x, tensor("scale", "FP64", [0.5])]})
