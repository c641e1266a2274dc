"""The contract of a runtime whose models make tensors of tensors."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from runtimes import errors
from runtimes.base import ANY, Array, Datatype, Resources, Runtime, Signature, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError
from runtimes.signature import has_shape
from runtimes.testing.runtime import RuntimeContract


class TensorContract(RuntimeContract):
    """What every runtime of tensor models promises, besides what every runtime does.

    The sample inputs are a batch of at least two rows on the first axis; `expected` are all outputs for
    it, of the same rows.
    """

    capability = TensorModel
    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> dict[str, Array]:
        raise NotImplementedError

    @pytest.fixture
    def model(self, runtime: Runtime, model_path: Path) -> Iterator[TensorModel]:
        loaded = self.load(runtime, model_path)
        yield loaded
        loaded.close()

    def load(self, runtime: Runtime, path: Path, resources: Resources | None = None) -> TensorModel:
        loaded = runtime.load(path, resources or Resources())
        assert isinstance(loaded, TensorModel)
        return loaded

    def assert_same(self, actual: dict[str, Array], expected: dict[str, Array]) -> None:
        assert actual.keys() == expected.keys()
        for name, array in expected.items():
            assert actual[name].dtype == array.dtype
            if array.dtype.kind == "O":
                np.testing.assert_array_equal(actual[name], array)
            else:
                np.testing.assert_allclose(actual[name], array, rtol=self.tolerance, atol=self.tolerance)

    def test_answers_rightly(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        self.assert_same(model.infer(inputs), expected)

    def test_file_and_model_have_one_signature(
        self, runtime: Runtime, model: TensorModel, model_path: Path
    ) -> None:
        assert runtime.signature(model_path) in (None, model.signature)

    def test_signature_has_the_inputs_of_infer(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        specs = {spec.name: spec for spec in model.signature.inputs}
        assert specs.keys() == inputs.keys()
        for name, array in inputs.items():
            _check_fits(array, specs[name])

    def test_signature_has_the_outputs_of_infer(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        outputs = model.infer(inputs)
        assert [spec.name for spec in model.signature.outputs] in ([], list(outputs))
        for spec in model.signature.outputs:
            _check_fits(outputs[spec.name], spec)

    def test_batch_equals_singles(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        rows = len(next(iter(inputs.values())))
        singles = [model.infer({n: a[row : row + 1] for n, a in inputs.items()}) for row in range(rows)]
        together = {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}
        self.assert_same(model.infer(inputs), together)

    def test_order_of_inputs_does_not_matter(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        self.assert_same(model.infer(dict(reversed(inputs.items()))), model.infer(inputs))

    def test_takes_read_only_arrays(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        frozen = {name: array.copy() for name, array in inputs.items()}
        for array in frozen.values():
            array.flags.writeable = False
        self.assert_same(model.infer(frozen), expected)
        for name, array in frozen.items():
            np.testing.assert_array_equal(array, inputs[name])

    @pytest.mark.parametrize("layout", ["column-major", "strided", "reversed"])
    def test_takes_arrays_that_are_not_contiguous(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array], layout: str
    ) -> None:
        laid_out = {name: _laid_out(array, layout) for name, array in inputs.items()}
        self.assert_same(model.infer(laid_out), expected)

    def test_missing_input_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        name, *_ = inputs
        with pytest.raises(InputError, match=name):
            model.infer({other: array for other, array in inputs.items() if other != name})

    def test_unknown_input_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        with pytest.raises(InputError, match="no_such_input"):
            model.infer({**inputs, "no_such_input": next(iter(inputs.values()))})

    def test_wrong_datatype_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        name, *_ = inputs
        with pytest.raises(InputError, match=name):
            model.infer({**inputs, name: np.zeros(inputs[name].shape, np.complex64)})

    def test_wrong_rank_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        ranked = [spec.name for spec in model.signature.inputs if spec.shape is not None]
        for name in ranked:
            with pytest.raises(InputError, match=name):
                model.infer({**inputs, name: inputs[name][np.newaxis]})

    def test_wrong_dimension_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        for spec in model.signature.inputs:
            for axis, size in enumerate(spec.shape or ()):
                if size > 0:
                    wider = np.concatenate([inputs[spec.name]] * 2, axis)
                    with pytest.raises(InputError, match=spec.name):
                        model.infer({**inputs, spec.name: wider})

    def test_unknown_output_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        with pytest.raises(InputError, match="no_such_output"):
            model.infer(inputs, ["no_such_output"])

    def test_gives_only_the_requested_outputs(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        for name, array in expected.items():
            self.assert_same(model.infer(inputs, [name]), {name: array})

    def test_two_models_live_side_by_side(
        self,
        runtime: Runtime,
        model: TensorModel,
        model_path: Path,
        inputs: dict[str, Array],
        expected: dict[str, Array],
    ) -> None:
        runtime.load(model_path, Resources()).close()
        other = self.load(runtime, model_path, Resources(cpus=2))
        self.assert_same(model.infer(inputs), expected)
        self.assert_same(other.infer(inputs), expected)
        other.close()
        self.assert_same(model.infer(inputs), expected)

    def test_closes_twice_and_then_refuses(
        self, runtime: Runtime, model_path: Path, inputs: dict[str, Array]
    ) -> None:
        model = self.load(runtime, model_path)
        model.close()
        model.close()
        with pytest.raises(ExecutionError):
            model.infer(inputs)

    def test_answers_on_another_thread(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        answers: list[dict[str, Array]] = []
        thread = threading.Thread(target=lambda: answers.append(model.infer(inputs)))
        thread.start()
        thread.join()
        self.assert_same(answers[0], expected)

    def test_signature_is_a_value(self, model: TensorModel) -> None:
        copy: Signature = pickle.loads(pickle.dumps(model.signature))  # noqa: S301
        assert copy == model.signature
        assert hash(copy) == hash(model.signature)

    def test_errors_travel_between_processes(self, model: TensorModel) -> None:
        with pytest.raises(InputError) as caught:
            model.infer({})
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
        assert isinstance(copy, errors.InputError)
        assert str(copy) == str(caught.value)


def _check_fits(array: Array, spec: TensorSpec) -> None:
    assert spec.datatype in (ANY, Datatype.of(array.dtype).value)
    assert spec.shape is None or has_shape(array.shape, spec.shape)


def _laid_out(array: Array, layout: str) -> Array:
    if layout == "column-major":
        return np.asfortranarray(array)
    if layout == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return np.flip(np.flip(array, -1).copy(), -1)
