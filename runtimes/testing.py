"""The contract of a runtime, as tests that third parties can run on their runtimes.

class TestMyRuntime(RuntimeContract):
    engine = "my_engine"

    @pytest.fixture
    def runtime(self) -> Runtime: ...
    @pytest.fixture
    def model_path(self) -> Path: ...
    @pytest.fixture
    def inputs(self) -> dict[str, Array]: ...
    @pytest.fixture
    def expected(self) -> dict[str, Array]: ...
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from runtimes import errors
from runtimes.base import Array, Datatype, LoadedModel, Resources, Runtime, Signature
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.formats import identify


class RuntimeContract:
    """The contract of every runtime. `engine` is the module that an import of the runtime must not import.

    The sample inputs are a batch of at least two rows on the first axis, with a float input among them;
    `expected` has all outputs for them, with as many rows.
    """

    engine: ClassVar[str]
    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def runtime(self) -> Runtime:
        raise NotImplementedError

    @pytest.fixture
    def model_path(self) -> Path:
        raise NotImplementedError

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> dict[str, Array]:
        raise NotImplementedError

    @pytest.fixture
    def model(self, runtime: Runtime, model_path: Path) -> Iterator[LoadedModel]:
        loaded = runtime.load(model_path, Resources())
        yield loaded
        loaded.close()

    def same(self, actual: dict[str, Array], expected: dict[str, Array]) -> None:
        assert actual.keys() == expected.keys()
        for name, array in expected.items():
            assert actual[name].dtype == array.dtype
            np.testing.assert_allclose(actual[name], array, rtol=self.tolerance, atol=self.tolerance)

    def test_is_a_runtime_that_reads_the_sample(self, runtime: Runtime, model_path: Path) -> None:
        assert isinstance(runtime, Runtime)
        assert identify(model_path) in runtime.formats

    def test_loads(self, model: LoadedModel) -> None:
        assert isinstance(model, LoadedModel)
        assert model.platform
        assert model.device == "cpu" or model.device.startswith("cuda:")

    def test_answers_correctly(
        self, model: LoadedModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        self.same(model.infer(inputs), expected)

    def test_file_and_model_have_the_same_signature(
        self, runtime: Runtime, model: LoadedModel, model_path: Path
    ) -> None:
        assert runtime.signature(model_path) in (None, model.signature)

    def test_signature_has_the_inputs_of_infer(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        specs = {spec.name: spec for spec in model.signature.inputs}
        assert specs.keys() == inputs.keys()
        for name, array in inputs.items():
            assert specs[name].datatype == Datatype.of(array.dtype).value
            assert _fits(array.shape, specs[name].shape)

    def test_signature_has_the_outputs_of_infer(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        results = model.infer(inputs)
        assert [spec.name for spec in model.signature.outputs] in ([], list(results))
        for spec in model.signature.outputs:
            assert spec.datatype == Datatype.of(results[spec.name].dtype).value
            assert _fits(results[spec.name].shape, spec.shape)

    def test_batch_equals_singles(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        rows = len(next(iter(inputs.values())))
        singles = [model.infer({n: a[row : row + 1] for n, a in inputs.items()}) for row in range(rows)]
        together = {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}
        self.same(model.infer(inputs), together)

    def test_order_of_inputs_does_not_matter(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        self.same(model.infer(dict(reversed(inputs.items()))), model.infer(inputs))

    def test_takes_read_only_arrays(
        self, model: LoadedModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        frozen = {name: array.copy() for name, array in inputs.items()}
        for array in frozen.values():
            array.flags.writeable = False
        self.same(model.infer(frozen), expected)
        for name, array in frozen.items():
            np.testing.assert_array_equal(array, inputs[name])

    @pytest.mark.parametrize("layout", ["column-major", "strided", "reversed"])
    def test_takes_arrays_that_are_not_contiguous(
        self, model: LoadedModel, inputs: dict[str, Array], expected: dict[str, Array], layout: str
    ) -> None:
        self.same(model.infer({name: _laid_out(array, layout) for name, array in inputs.items()}), expected)

    def test_missing_input_is_named(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        name, *_ = inputs
        with pytest.raises(InputError, match=name):
            model.infer({other: array for other, array in inputs.items() if other != name})

    def test_unknown_input_is_named(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        with pytest.raises(InputError, match="no_such_input"):
            model.infer({**inputs, "no_such_input": next(iter(inputs.values()))})

    def test_wrong_datatype_is_named(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        name, *_ = inputs
        with pytest.raises(InputError, match=name):
            model.infer({**inputs, name: inputs[name].astype(np.complex64)})

    def test_wrong_rank_is_named(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        ranked = [spec.name for spec in model.signature.inputs if spec.shape is not None]
        for name in ranked:
            with pytest.raises(InputError, match=name):
                model.infer({**inputs, name: inputs[name][np.newaxis]})

    def test_wrong_dimension_is_named(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        for spec in model.signature.inputs:
            for axis, size in enumerate(spec.shape or ()):
                if size > 0:
                    wider = np.concatenate([inputs[spec.name]] * 2, axis)
                    with pytest.raises(InputError, match=spec.name):
                        model.infer({**inputs, spec.name: wider})

    def test_unknown_output_is_named(self, model: LoadedModel, inputs: dict[str, Array]) -> None:
        with pytest.raises(InputError, match="no_such_output"):
            model.infer(inputs, ["no_such_output"])

    def test_returns_only_the_named_outputs(
        self, model: LoadedModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        for name, array in expected.items():
            self.same(model.infer(inputs, [name]), {name: array})

    @pytest.mark.parametrize("damage", ["empty", "cut", "noise", "missing"])
    def test_damaged_file_is_named(
        self, runtime: Runtime, model_path: Path, tmp_path: Path, damage: str
    ) -> None:
        whole = model_path.read_bytes()
        path = tmp_path / f"damaged{model_path.suffix}"
        if damage != "missing":
            path.write_bytes(
                {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\xff\x00" * 500}[damage]
            )
        with pytest.raises(LoadError, match=r"damaged"):
            runtime.load(path, Resources())

    def test_several_models_do_not_affect_each_other(
        self,
        runtime: Runtime,
        model: LoadedModel,
        model_path: Path,
        inputs: dict[str, Array],
        expected: dict[str, Array],
    ) -> None:
        runtime.load(model_path, Resources()).close()
        other = runtime.load(model_path, Resources(cpus=2))
        self.same(model.infer(inputs), expected)
        self.same(other.infer(inputs), expected)
        other.close()
        self.same(model.infer(inputs), expected)

    def test_closes_twice_and_refuses_calls_then(
        self, runtime: Runtime, model_path: Path, inputs: dict[str, Array]
    ) -> None:
        model = runtime.load(model_path, Resources())
        model.close()
        model.close()
        with pytest.raises(ExecutionError):
            model.infer(inputs)

    def test_answers_on_another_thread(
        self, model: LoadedModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        answers: list[dict[str, Array]] = []
        thread = threading.Thread(target=lambda: answers.append(model.infer(inputs)))
        thread.start()
        thread.join()
        self.same(answers[0], expected)

    def test_signature_is_a_value(self, model: LoadedModel) -> None:
        copy: Signature = pickle.loads(pickle.dumps(model.signature))  # noqa: S301
        assert copy == model.signature
        assert hash(copy) == hash(model.signature)

    def test_errors_travel_between_processes(self, model: LoadedModel) -> None:
        with pytest.raises(InputError) as caught:
            model.infer({})
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
        assert isinstance(copy, errors.InputError)
        assert str(copy) == str(caught.value)

    def test_importing_it_imports_no_engine(self, runtime: Runtime) -> None:
        module = type(runtime).__module__
        program = f"import sys, {module}; sys.exit({self.engine!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _fits(shape: tuple[int, ...], declared: tuple[int, ...] | None) -> bool:
    if declared is None:
        return True
    return len(shape) == len(declared) and all(
        declared_size in (-1, size) for size, declared_size in zip(shape, declared, strict=True)
    )


def _laid_out(array: Array, layout: str) -> Array:
    if layout == "column-major":
        return np.asfortranarray(array)
    if layout == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return np.flip(np.flip(array, -1).copy(), -1)
