"""The preparation of a loaded estimator: what it takes and gives is tried on made-up rows.

The rows are within the model's own domain: categories that it knows, and numbers, first between 0 and 1, then
ones, then zeros. What it answers shows the datatype and shape of each output.

Rows that are numbers go to the estimator as an array, even where it was fitted on named columns, see
`runtimes.sklearn.names`. That is so only where it answers the made-up rows as it does a frame of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import LoadError
from runtimes.sklearn.columns import Columns, columns_of
from runtimes.sklearn.model import Prepared
from runtimes.sklearn.names import are_rows_independent, calls_a_function, forget_names, takes_arrays
from runtimes.sklearn.nested import limit_threads
from runtimes.sklearn.outputs import (
    Result,
    arrays_of,
    check_size,
    labels_of,
    methods_of,
    spec_of,
    unproven_specs,
)
from runtimes.sklearn.program import Program
from runtimes.sklearn.rows import Read, Rows

_ROWS = 3
_BROKEN = (AttributeError, ImportError, KeyError, TypeError)

Inputs = Mapping[str, Array]
Results = Mapping[str, Result]


def prepare(estimator: Any, source: object, threads: int = 1) -> Prepared:
    """Prepare an estimator that was loaded from `source`, which is named in errors.

    Raises:
        LoadError: where it takes or gives what no call can have, or needs pandas, which is not installed.
        AttributeError, ImportError, KeyError, TypeError: where it does not work, as is so after a change of
            its library's release.
    """
    default, further = methods_of(estimator)
    if not default:
        raise LoadError(
            f"{source} holds a {type(estimator).__name__}, not an estimator that has a method to answer "
            "calls with (predict, transform, …); save the whole estimator or pipeline"
        )
    limit_threads(estimator, threads)
    columns = columns_of(estimator, source)
    program = Program(estimator, (*default, *further), threads)
    rows, read, inputs = _readable(estimator, columns, program, default, source)
    signature = Signature(rows.inputs, (), rows.ignored)
    methods: dict[str, str] = {}
    outputs: list[TensorSpec] = []
    on_request: list[TensorSpec] = []
    for method in (*default, *further):
        specs = _specs(program, method, read, inputs, source) if inputs else unproven_specs(method, estimator)
        for spec in specs:
            (outputs if method in default else on_request).append(spec)
            methods[spec.name] = method
    signature = replace(signature, outputs=tuple(outputs), on_request=tuple(on_request))
    return Prepared(
        signature,
        columns,
        read,
        program,
        methods,
        labels_of(estimator, signature.all_outputs),
        {name: values[:1] for name, values in inputs.items()},
        are_rows_independent(estimator),
        threads,
    )


def _readable(
    estimator: Any, columns: Columns, program: Program, methods: Sequence[str], source: object
) -> tuple[Rows, Read, Inputs]:
    """Return how rows are read for the estimator, and made-up inputs that it answers, {} where none is."""
    rows = Rows(columns)
    if columns.is_text:
        return rows, rows.texts, _answered(program, methods, rows.texts, rows)[0]
    if not columns.is_named:
        read: Read = rows.objects if columns.has_strings else rows.matrix
        return rows, read, _answered(program, methods, read, rows)[0]
    is_numeric = not columns.has_strings and all(each.categories is None for each in columns.columns)
    may_be_array = is_numeric and takes_arrays(estimator)
    try:
        read = rows.frame_reader(source)
    except LoadError:
        if not may_be_array:
            raise
        forget_names(estimator)
        inputs, _ = _answered(program, methods, rows.matrix, rows)
        if not inputs:
            raise
        return rows, rows.matrix, inputs
    has_guess = any(each.is_guess for each in columns.columns)
    try:
        inputs, results = _answered(program, methods, read, rows)
    except _BROKEN:
        inputs, results = {}, {}
        # Rows that are made up may be none for a function.
        if not rows.ignored and not calls_a_function(estimator):
            raise
    if not inputs and has_guess:
        numbers = [replace(each, datatype=Datatype.FP64, values=()) for each in columns.columns]
        changed = [
            other if each.is_guess else each for each, other in zip(columns.columns, numbers, strict=True)
        ]
        sure = replace(columns, columns=tuple(replace(each, is_guess=False) for each in changed))
        others = _readable(estimator, sure, program, methods, source)
        if others[2]:
            return others
    elif not inputs and rows.ignored:
        # Something reads the names of all columns after all.
        whole = replace(columns, columns=tuple(replace(each, is_read=True) for each in columns.columns))
        return _readable(estimator, whole, program, methods, source)
    if may_be_array and inputs and _is_array_as_good(estimator, program, methods, rows, inputs, results):
        return rows, rows.matrix, inputs
    return rows, read, inputs


def _is_array_as_good(
    estimator: Any, program: Program, methods: Sequence[str], rows: Rows, inputs: Inputs, results: Results
) -> bool:
    """Have an estimator take arrays; return whether it answers as with frames, else undo it."""
    remember = forget_names(estimator)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*feature names")
            others = program(rows.matrix(inputs), methods)
        if all(_is_same(method, results[method], others[method]) for method in methods):
            return True
    except Exception:  # noqa: S110  # then it needs a frame
        pass
    remember()
    return False


def _is_same(method: str, one: Result, other: Result) -> bool:
    arrays, others = arrays_of(method, one), arrays_of(method, other)
    # An array and a frame lie otherwise in memory, and linear algebra adds up in another order then.
    return arrays.keys() == others.keys() and all(
        array.dtype == others[name].dtype
        and (
            np.allclose(array, others[name], rtol=1e-9, atol=1e-12, equal_nan=True)
            if array.dtype.kind == "f"
            else np.array_equal(array, others[name])
        )
        for name, array in arrays.items()
    )


def _answered(program: Program, methods: Sequence[str], read: Read, rows: Rows) -> tuple[Inputs, Results]:
    """Return the first made-up inputs that are answered, with the results; {} and {} where none are."""
    for inputs in _made_up(rows):
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return inputs, program(read(inputs), methods)
        except _BROKEN:
            raise
        except Exception:  # noqa: S112  # the model may refuse such rows
            continue
    return {}, {}


def _made_up(rows: Rows) -> Iterator[Inputs]:
    numbers = np.random.default_rng(0)
    fills: tuple[Callable[[int], Array], ...] = (
        lambda count: numbers.uniform(0.1, 1.0, count),
        np.ones,
        np.zeros,
    )
    for fill in fills:
        yield rows.examples(_ROWS, fill)


def _specs(
    program: Program, method: str, read: Read, inputs: Inputs, source: object
) -> tuple[TensorSpec, ...]:
    """Return the outputs that a method gives; none where it fails. Raises LoadError for too large ones."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = program(read(inputs), (method,))[method]
    except Exception:
        # One that only some of the estimators inside have, say.
        return ()
    try:
        check_size(method, result)
    except LoadError as error:
        raise LoadError(f"{source}: {error}") from None
    return tuple(spec_of(name, array, _ROWS) for name, array in arrays_of(method, result).items())
