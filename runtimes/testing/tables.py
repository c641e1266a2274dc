"""The contract of a runtime whose models read rows with named columns, see `runtimes.tables`."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import pytest

from runtimes.base import Array, Datatype, TensorModel
from runtimes.errors import InputError
from runtimes.tables import MATRIX
from runtimes.testing.outputs import assert_close


class TableContract:
    """For a runtime that reads tables. Inherit it beside `TensorContract`, on a sample with named columns.

    The sample's `inputs` are its columns, [rows, 1] each, of the signature's datatypes.
    """

    takes_missing: ClassVar[bool] = False
    """Whether the sample answers for rows with values missing: NaN in floats, None in strings.

    Where it does not, it may still say that it is the caller's fault.
    """
    may_miss_strings: ClassVar[bool] = True
    """Whether the signature of the sample says that strings may be missing."""

    @pytest.fixture
    def numbers(self, model: TensorModel) -> list[str]:
        """Return the names of the columns that are numbers; the sample has one at least."""
        return [spec.name for spec in model.signature.inputs if spec.datatype != Datatype.BYTES]

    @pytest.fixture
    def strings(self, model: TensorModel) -> list[str]:
        """Return the names of the columns that are strings."""
        return [spec.name for spec in model.signature.inputs if spec.datatype == Datatype.BYTES]

    def test_each_column_is_an_input(self, model: TensorModel, numbers: list[str]) -> None:
        assert numbers
        for spec in model.signature.inputs:
            assert spec.shape == (-1, 1)
            assert spec.may_be_missing == (self.may_miss_strings and spec.datatype == Datatype.BYTES)

    @pytest.mark.parametrize("flat", ["all", "first", "last"])
    def test_takes_columns_without_a_second_axis(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array], flat: str
    ) -> None:
        names = {"all": list(inputs), "first": list(inputs)[:1], "last": list(inputs)[-1:]}[flat]
        changed = {name: array[:, 0] if name in names else array for name, array in inputs.items()}
        assert_close(model.infer(changed), expected)

    @pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT8", "INT32", "INT64", "UINT8", "BOOL"])
    def test_takes_numbers_of_other_datatypes(
        self, model: TensorModel, inputs: dict[str, Array], numbers: list[str], datatype: str
    ) -> None:
        sent, same = dict(inputs), dict(inputs)
        for name in numbers:
            # 0 and 1 are numbers of every datatype.
            values = (np.arange(len(inputs[name])) % 2).reshape(-1, 1)
            sent[name] = values.astype(Datatype(datatype).numpy)
            same[name] = values.astype(inputs[name].dtype)
        assert_close(model.infer(sent), model.infer(same))

    def test_takes_one_matrix_where_all_columns_are_numbers(
        self,
        model: TensorModel,
        inputs: dict[str, Array],
        expected: dict[str, Array],
        strings: list[str],
    ) -> None:
        names = [spec.name for spec in model.signature.inputs]
        if not strings:
            whole = np.concatenate([inputs[name].astype(np.float64) for name in names], axis=1)
            assert_close(model.infer({MATRIX: whole}), expected)
            return
        with pytest.raises(InputError, match=MATRIX):
            model.infer({MATRIX: np.zeros((2, len(names)))})

    @pytest.mark.parametrize("more", [-1, 1])
    def test_a_matrix_of_another_width_is_named(
        self, model: TensorModel, inputs: dict[str, Array], more: int
    ) -> None:
        with pytest.raises(InputError, match=MATRIX):
            model.infer({MATRIX: np.zeros((2, len(inputs) + more))})

    def test_every_column_that_is_missing_is_named(
        self, model: TensorModel, inputs: dict[str, Array]
    ) -> None:
        for name in inputs:
            with pytest.raises(InputError, match=re.escape(name)):
                model.infer({other: array for other, array in inputs.items() if other != name})

    def test_columns_of_unlike_lengths_are_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        name = list(inputs)[-1]
        if len(inputs) > 1:
            with pytest.raises(InputError, match=re.escape(name)):
                model.infer({**inputs, name: np.concatenate([inputs[name]] * 2)})

    def test_fractions_for_a_column_of_integers_are_named(
        self, model: TensorModel, inputs: dict[str, Array]
    ) -> None:
        for name, array in inputs.items():
            if array.dtype.kind in "iu":
                with pytest.raises(InputError, match=re.escape(name)):
                    model.infer({**inputs, name: np.full(array.shape, 0.5)})

    def test_strings_for_numbers_and_numbers_for_strings_are_named(
        self, model: TensorModel, inputs: dict[str, Array], numbers: list[str]
    ) -> None:
        for name, array in inputs.items():
            other = np.full(array.shape, b"x", object) if name in numbers else np.zeros(array.shape)
            with pytest.raises(InputError, match=re.escape(name)):
                model.infer({**inputs, name: other})

    def test_rows_with_missing_values_are_answered_or_refused(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        rows = len(next(iter(inputs.values())))
        for name, array in inputs.items():
            if array.dtype.kind not in "fO":
                continue
            values = array.copy()
            values[0] = None if array.dtype == object else np.nan
            try:
                answer = model.infer({**inputs, name: values})
            except InputError:
                assert not self.takes_missing
            else:
                assert all(len(output) == rows for output in answer.values())
                assert_close(_rest(answer), _rest(expected))


def _rest(outputs: dict[str, Array]) -> dict[str, Array]:
    """Return outputs without their first row."""
    return {name: array[1:] for name, array in outputs.items()}
