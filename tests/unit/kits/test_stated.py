"""What the Kitfile or the config states of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from gateway.errors import InvalidKitfile, UnusableModel
from gateway.kits.kit import Kit
from gateway.kits.kitfile import Kitfile, Model
from gateway.kits.stated import stated_signature, with_stated_signature
from gateway.oci.reference import Digest, parse_reference
from runtimes.base import ANY, Array, Signature, TensorModel, TensorSpec

NOTHING = Signature((), ())
FILE = Signature((TensorSpec("ids", ANY, likely="FP32"),), (TensorSpec("output_0", ANY),))


class Guess:
    """A model whose file does not say its datatypes."""

    platform = "test_guess"
    device = "cpu"
    signature = FILE

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return {"output_0": inputs["ids"]}

    def close(self) -> None:
        pass


def kit(parameters: Any) -> Kit:
    kitfile = Kitfile(model=Model(name="m", parameters=parameters))
    reference = parse_reference("registry.test/team/guess:v1")
    return Kit(reference, Digest.of(b"kit"), cast("Any", None), kitfile, (), "")


def signature(parameters: Any, config: Signature = NOTHING) -> Signature:
    model = with_stated_signature(Guess(), kit(parameters), config)
    assert isinstance(model, TensorModel)
    return model.signature


IDS = {"name": "ids", "datatype": "INT64", "shape": [-1, 8]}


def test_the_kitfile_states_inputs_and_outputs() -> None:
    output = {"name": "output_0", "datatype": "FP16"}
    assert signature({"inputs": [IDS], "outputs": [output], "labels": ["a"]}) == Signature(
        (TensorSpec("ids", "INT64", (-1, 8)),), (TensorSpec("output_0", "FP16"),)
    )


def test_before_the_file_is_loaded_it_is_what_is_stated() -> None:
    output = TensorSpec("output_0", "FP16")
    stated = stated_signature(None, kit({"inputs": [IDS]}), Signature((), (output,)))
    assert stated == Signature((TensorSpec("ids", "INT64", (-1, 8)),), (output,))
    assert stated_signature(None, kit({"labels": ["a"]}), NOTHING) is None
    with pytest.raises(InvalidKitfile, match="'ids' has datatype 'int64'"):
        stated_signature(None, kit({"inputs": [IDS | {"datatype": "int64"}]}), NOTHING)


def test_the_config_replaces_each_list_of_the_kitfile() -> None:
    config = Signature((TensorSpec("ids", "INT32"),), ())
    stated = signature({"inputs": [IDS], "outputs": [{"name": "output_0", "datatype": "FP16"}]}, config)
    assert stated == Signature((TensorSpec("ids", "INT32"),), (TensorSpec("output_0", "FP16"),))


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        [],
        3,
        {},
        {"inputs": None},
        {"inputs": "ids"},
        {"inputs": ["ids"]},
        {"inputs": {"ids": "INT64"}},
        {"inputs": [{"name": "ids", "type": "tensor"}]},
        {"inputs": [{"name": "ids", "datatype": 7}]},
    ],
)
def test_parameters_of_another_form_state_nothing(parameters: Any) -> None:
    assert signature(parameters) == FILE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datatype": "int64"}, "'ids' has datatype 'int64', none of BOOL, "),
        ({"shape": [-2]}, "the shape of 'ids' must be a list of numbers"),
        ({"shape": ["batch", 4]}, "the shape of 'ids' must be a list of numbers"),
        ({"shape": 4}, "the shape of 'ids' must be a list of numbers"),
    ],
)
def test_a_kitfile_that_cannot_be_read_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(
        InvalidKitfile, match=r"^registry\.test/team/guess:v1: model\.parameters\.inputs .*"
    ) as e:
        signature({"inputs": [IDS | changes]})
    assert message in str(e.value)


def test_a_tensor_is_stated_once() -> None:
    with pytest.raises(InvalidKitfile, match="names a tensor twice"):
        signature({"inputs": [IDS, IDS]})


def test_a_statement_that_contradicts_the_file_says_where_it_stands() -> None:
    with pytest.raises(UnusableModel, match=r"^registry.*:v1: the Kitfile states an input 'id', but .*'ids'"):
        signature({"inputs": [IDS | {"name": "id"}]})
    with pytest.raises(UnusableModel, match=r"^registry.*guess:v1: the config states an output 'y'"):
        signature({}, Signature((), (TensorSpec("y", "FP32"),)))
