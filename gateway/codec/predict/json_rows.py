"""Rows in JSON, in each form that people and other servers' clients write, become the inputs of a model.

    {"rows": [{"age": 51, …}, …]}                       rows by name
    {"instances": […]}                                  KServe v1, TensorFlow Serving
    {"dataframe_records": […]}                          MLflow
    {"dataframe_split": {"columns": […], "data": […]}}  MLflow, pandas
    {"inputs": {"age": [51, …], …}}                     columns; TensorFlow Serving, MLflow
    {"inputs": […]}                                     MLflow
    […]                                                 rows alone
    {"age": 51, …}                                      one row

A row is an object by the names of the inputs, or a list of values in their order. Of a model with one input,
a row is that input's row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson

from gateway.codec.json_structure import check_objects, structure_of
from gateway.codec.non_finite import parse_json
from gateway.codec.predict.layout import Layout, check_lengths, listed
from gateway.codec.predict.values import tensor
from gateway.wording import counted
from runtimes.base import Array
from runtimes.errors import InputError

_ROWS = ("rows", "instances", "dataframe_records")
_SPLIT, _INPUTS = "dataframe_split", "inputs"
_FORMS = (*_ROWS, _SPLIT, _INPUTS)
# What may stand beside the rows. All but `outputs` means nothing here: it is of the other servers.
_OUTPUTS = "outputs"
_BESIDE = frozenset({_OUTPUTS, "signature_name", "params", "parameters", "id"})
_FORMS_TEXT = 'send {"rows": [{…}, …]}, or "instances", "inputs", "dataframe_split", "dataframe_records"'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Each takes a few hundred bytes, and may be three of the text.
_MAX_CONTAINERS = 2_000_000
_TENSOR = frozenset({"name", "shape", "datatype"})


@dataclass(frozen=True, slots=True)
class JsonCall:
    """What a body in JSON says."""

    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()
    """The outputs that are asked for by name; () for those of a call that names none."""
    is_columnar: bool = False
    """Whether the inputs came as columns, as `inputs`, rather than as rows."""


def read_json(text: bytes | memoryview, layout: Layout) -> JsonCall:
    """Read a body.

    Raises:
        InputError: naming the row and the column, or the member, that is wrong.
    """
    document = _document(text)
    if type(document) is list:
        return JsonCall(_rows(document, layout))
    if type(document) is not dict:
        raise InputError(f"the body must be a JSON object or a list; {_FORMS_TEXT}")
    is_row = document.keys() <= layout.specs.keys() and document.keys() >= set(layout.required)
    if document and is_row:
        return _row_or_form(document, layout)
    return _form(document, layout)


def _row_or_form(document: dict[str, Any], layout: Layout) -> JsonCall:
    """Read an object by the names of the inputs: one row, unless an input has the name of a form."""
    name, value = next(iter(document.items()))
    if len(document) == 1 and name in _FORMS and type(value) in (list, dict):
        try:
            return _form(document, layout)
        except InputError:
            with suppress(InputError):
                return JsonCall(_rows([document], layout))
            raise
    return JsonCall(_rows([document], layout))


def _form(document: dict[str, Any], layout: Layout) -> JsonCall:
    forms = [form for form in _FORMS if form in document]
    if len(forms) > 1:
        raise InputError(f"the body has both {forms[0]!r} and {forms[1]!r}; send one of them")
    if not forms:
        return JsonCall(_row(document, layout))
    unknown = [key for key in document if key not in _BESIDE and key != forms[0]]
    if unknown:
        raise InputError(f"{listed(unknown)} beside {forms[0]!r} means nothing here; leave it out")
    outputs = _outputs(document.get(_OUTPUTS))
    form, value = forms[0], document[forms[0]]
    if form == _SPLIT:
        return JsonCall(_split(value, layout), outputs)
    if form == _INPUTS:
        return JsonCall(_inputs(value, layout), outputs, is_columnar=True)
    if type(value) is not list:
        raise InputError(f"{form!r} must be a list of rows")
    return JsonCall(_rows(value, layout), outputs)


def _document(text: bytes | memoryview) -> Any:
    if len(text) > _MAX_CONTAINERS:
        structure = structure_of(text)
        if structure.lists + structure.objects > _MAX_CONTAINERS:
            raise InputError(f"the body has more than {_MAX_CONTAINERS:,} lists and objects; send .npy")
        check_objects(structure.object_bytes)
    if text[:3] == _BYTE_ORDER_MARK:
        text = text[3:]
    try:
        return parse_json(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from None


def _outputs(names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    if type(names) is not list or not all(type(name) is str for name in names):
        raise InputError("'outputs' must be a list of the names of outputs")
    return tuple(dict.fromkeys(names))


def _rows(rows: list[Any], layout: Layout) -> dict[str, Array]:
    if not rows:
        raise InputError("there are no rows")
    types = set(map(type, rows))
    if dict in types:
        if len(types) > 1:
            odd = next(index for index, row in enumerate(rows) if type(row) is not dict)
            raise InputError(f"row {odd + 1} is no object, but others are")
        return layout.tensors(_by_name(rows, layout))
    if layout.single is not None and len(layout.names) == 1:
        return {layout.single.name: tensor(layout.single, rows)}
    if types == {list}:
        widths = set(map(len, rows))
        if len(widths) > 1:
            width = len(rows[0])
            odd = next(index for index, row in enumerate(rows) if len(row) != width)
            raise InputError(f"row {odd + 1} has {counted(len(rows[odd]), 'value')}, and row 1 has {width}")
        if layout.single is None or len(rows[0]) == len(layout.names):
            names = layout.placed(len(rows[0]))
            return layout.tensors(dict(zip(names, zip(*rows, strict=True), strict=True)))
    if layout.single is not None:
        return {layout.single.name: tensor(layout.single, rows)}
    raise InputError(
        "a row must be an object, or a list of values in the order of the columns; "
        f"the model takes {listed(layout.names)}"
    )


def _by_name(rows: list[dict[str, Any]], layout: Layout) -> Mapping[str, Sequence[Any]]:
    """Return the columns of rows that are objects."""
    names = list(rows[0])
    others = set(map(len, rows)) != {len(names)} or not set(chain.from_iterable(rows)) <= set(names)
    if others:
        for number, row in enumerate(rows, 1):
            if row.keys() != rows[0].keys():
                try:
                    layout.check_names(row.keys())
                except InputError as error:
                    raise InputError(f"row {number}: {error}") from None
                name = next(iter(row.keys() ^ rows[0].keys()))
                raise InputError(f"row {number}: only some rows have {name!r}; send it in all, or in none")
    if _TENSOR.issubset(names) and not _TENSOR.issubset(layout.specs):
        raise InputError("these are tensors of the Open Inference Protocol; POST them to the path …/infer")
    layout.check_names(names)
    return {name: list(map(itemgetter(name), rows)) for name in layout.names if name in rows[0]}


def _row(document: dict[str, Any], layout: Layout) -> dict[str, Array]:
    """Read an object with no known form: one row, or nothing that can be read."""
    if not document.keys() & layout.specs.keys():
        raise InputError(f"the body has no rows; {_FORMS_TEXT}; the model takes {listed(layout.names)}")
    return _rows([document], layout)


def _inputs(value: Any, layout: Layout) -> dict[str, Array]:
    """Read columns by name; lists are rows."""
    if type(value) is list:
        return _rows(value, layout)
    if type(value) is not dict or not value:
        raise InputError("'inputs' must be an object with a list of values for each column")
    layout.check_names(value)
    for name, values in value.items():
        if type(values) is not list or not values:
            raise InputError(f"column {name!r} must be a list with a value for each row")
    check_lengths((name, len(values)) for name, values in value.items())
    return layout.tensors({name: value[name] for name in layout.names if name in value})


def _split(value: Any, layout: Layout) -> dict[str, Array]:
    """Read columns' names, and rows of values in their order."""
    data = value.get("data") if type(value) is dict else None
    if type(data) is not list or not all(type(row) is list for row in data):
        raise InputError("'dataframe_split' must be an object with 'columns', and 'data', a list of lists")
    if not data:
        raise InputError("there are no rows")
    names = value.get("columns")
    if names is None:
        return _rows(data, layout)
    if type(names) is not list or len(set(map(str, names))) != len(names):
        raise InputError("'columns' must be a list of different names")
    odd = next((index for index, row in enumerate(data) if len(row) != len(names)), None)
    if odd is not None:
        raise InputError(
            f"row {odd + 1} has {counted(len(data[odd]), 'value')} for {counted(len(names), 'column')}"
        )
    if layout.single is not None and not layout.is_table and names != [layout.single.name]:
        # The model knows no names of its columns.
        return {layout.single.name: tensor(layout.single, data)}
    columns = dict(zip(map(str, names), zip(*data, strict=True), strict=True))
    layout.check_names(columns)
    return layout.tensors({name: columns[name] for name in layout.names if name in columns})
