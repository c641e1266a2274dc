"""The contract of what models say of their outputs: those that are made on request, and names of classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from runtimes.base import ANY, Array, Datatype, LabelledModel, TensorModel
from runtimes.errors import InputError


class OnRequestContract:
    """For a runtime whose sample has outputs that only calls get which name them.

    Inherit it beside `TensorContract`, whose `expected` are the outputs of a call that names none.
    """

    @pytest.fixture
    def on_request(self) -> dict[str, Array]:
        """What the model gives on request, all of it, for the sample inputs."""
        raise NotImplementedError

    def test_outputs_on_request_are_in_the_signature(
        self, model: TensorModel, on_request: dict[str, Array]
    ) -> None:
        specs = {spec.name: spec for spec in model.signature.on_request}
        assert specs.keys() == on_request.keys()
        assert not specs.keys() & {spec.name for spec in model.signature.outputs}
        for name, array in on_request.items():
            assert specs[name].datatype in (ANY, Datatype.of(array.dtype).value)
            shape = specs[name].shape
            assert shape is None or [
                length if size < 0 else size for length, size in zip(array.shape, shape, strict=True)
            ] == list(array.shape)

    def test_a_call_that_names_no_output_gets_none_that_is_on_request(
        self, model: TensorModel, inputs: dict[str, Array], on_request: dict[str, Array]
    ) -> None:
        assert not model.infer(inputs).keys() & on_request.keys()

    def test_gives_each_output_on_request(
        self, model: TensorModel, inputs: dict[str, Array], on_request: dict[str, Array]
    ) -> None:
        for name, array in on_request.items():
            assert_close(model.infer(inputs, [name]), {name: array})

    def test_gives_outputs_of_both_kinds_in_the_order_of_the_call(
        self,
        model: TensorModel,
        inputs: dict[str, Array],
        expected: dict[str, Array],
        on_request: dict[str, Array],
    ) -> None:
        names = [*on_request, *expected]
        answer = model.infer(inputs, names)
        assert list(answer) == names
        assert_close(answer, {**on_request, **expected})

    def test_an_unknown_output_beside_one_on_request_is_named(
        self, model: TensorModel, inputs: dict[str, Array], on_request: dict[str, Array]
    ) -> None:
        with pytest.raises(InputError, match="no_such_output") as caught:
            model.infer(inputs, [*on_request, "no_such_output"])
        # Whoever misspells the name of an output sees all that there are.
        assert all(repr(name) in str(caught.value) for name in on_request)


class LabelledContract:
    """For a runtime whose sample has names for its classes. Inherit it beside `TensorContract`."""

    @pytest.fixture
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the columns, by output."""
        raise NotImplementedError

    def test_has_the_labels_of_its_file(self, model: TensorModel, labels: dict[str, tuple[str, ...]]) -> None:
        assert isinstance(model, LabelledModel)
        assert dict(model.labels) == labels
        assert all(type(label) is str for names in model.labels.values() for label in names)

    def test_each_label_has_a_column(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        assert isinstance(model, LabelledModel)
        names = {spec.name for spec in model.signature.all_outputs}
        for output, labels in model.labels.items():
            assert output in names or not model.signature.outputs
            assert model.infer(inputs, [output])[output].shape[-1] == len(labels)


def assert_close(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Compare outputs: numbers to 1e-6, all else exactly."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype.kind in "fc":
            np.testing.assert_allclose(actual[name], array, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(actual[name], array)
