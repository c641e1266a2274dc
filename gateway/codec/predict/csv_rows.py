"""Rows as CSV become the inputs of a model: by a header, or in the order of its columns.

A first line that is not all numbers is a header. An empty cell is a missing value. Format: RFC 4180, with the
separator `,`.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from gateway.codec.elements import ELEMENTS, FLOATS
from gateway.codec.predict.layout import Layout
from gateway.codec.predict.values import place, shaped, shown
from gateway.wording import counted
from runtimes.base import Array, Datatype, TensorSpec
from runtimes.errors import InputError
from runtimes.tables import cast

# A cell takes tens of bytes while a text is read, and may be a single byte of it.
_MAX_CELLS = 4_000_000
_STRETCH_BYTES = 1024 * 1024
# Floats up to here are each whole number.
_EXACT = 2.0**53
# So much of a line is looked at for its separator.
_LINE = 10_000
_CHARSETS: Mapping[str, str] = {
    "": "utf-8-sig",
    "utf-8": "utf-8-sig",
    "utf8": "utf-8-sig",
    "us-ascii": "utf-8-sig",
    "ascii": "utf-8-sig",
    "utf-16": "utf-16",
    "iso-8859-1": "latin-1",
    "latin-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
}
_NO_ROWS = "there are no rows below the header"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_TRUTHS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


def read_csv(body: bytes | memoryview, charset: str, layout: Layout) -> dict[str, Array]:
    """Read a body.

    Raises:
        InputError: naming the row, counted from 1 without the header, and the column that are wrong.
    """
    body = bytes(body)
    encoding = _encoding(body, charset)
    _check_text(body, charset, encoding)
    try:
        return _read(body, encoding, layout)
    except InputError as error:
        raise InputError(f"{error}{_advice(body[:_LINE].decode(encoding, 'replace'))}") from None


def _read(body: bytes, encoding: str, layout: Layout) -> dict[str, Array]:
    rows = _cells(body, encoding)
    if not rows:
        raise InputError("there are no rows")
    is_data = all(map(_is_number, rows[0])) and set(rows[0]) != set(layout.names)
    header = None if is_data else rows.pop(0)
    if layout.single is not None and not layout.is_table:
        if header is not None and any(cell and _is_number(cell) for cell in header):
            wrong = next(cell for cell in header if not _is_number(cell))
            raise InputError(
                f"line 1 is neither a row nor a header: {shown(wrong)} is no number, and others are; "
                "what is missing is an empty cell"
            )
        if not rows:
            raise InputError(_NO_ROWS)
        width = len(rows[0])
        flat = _column(layout.single, [cell for row in rows for cell in row], width)
        return {layout.single.name: shaped(layout.single, flat, (len(rows), width))}
    return _table(header, rows, layout)


def _table(header: list[str] | None, rows: list[list[str]], layout: Layout) -> dict[str, Array]:
    """Read the cells of columns with names; a header may have them in another order."""
    skipped = 0
    if header is None:
        names: Sequence[str] = layout.placed(len(rows[0]))
    else:
        names = [name.strip() for name in header]
        if names[:1] == [""] and "" not in layout.specs:
            # The index of a table that pandas wrote.
            skipped, names = 1, names[1:]
        if not set(names) & layout.specs.keys() and len(header) in (len(layout.names), len(layout.required)):
            # No header, but strings: the columns are in the model's order.
            rows, names, skipped = [header, *rows], layout.placed(len(header)), 0
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"column {twice!r} is there twice")
        layout.check_names(names)
    if not rows:
        raise InputError(_NO_ROWS)
    cells = dict(zip(names, list(zip(*rows, strict=True))[skipped:], strict=True))
    inputs = {}
    for name in layout.names:
        if name in cells:
            spec = layout.specs[name]
            inputs[name] = shaped(spec, _column(spec, list(cells[name]), 1), (len(rows),))
    return inputs


def _advice(text: str) -> str:
    """Return what to do about a text whose values seem to have another separator, "" where they do not."""
    line = text.lstrip().partition("\n")[0]
    for separator, name in ((";", "';'"), ("\t", "tabs")):
        if line.count(separator) > line.count(","):
            return f"; the values seem to be separated by {name}: put ',' between them, and '.' in numbers"
    return ""


def _encoding(body: bytes, charset: str) -> str:
    encoding = "utf-16" if not charset and body[:2] in _UTF_16 else _CHARSETS.get(charset)
    if encoding is None:
        raise InputError(f"the encoding {charset!r} is not read; send UTF-8")
    return encoding


def _check_text(body: bytes, charset: str, encoding: str) -> None:
    """Raise InputError for a body in another encoding, or with too many cells.

    It is looked at in stretches: a text may take four times its size in memory.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    separators = 0
    for start in range(0, len(body), _STRETCH_BYTES):
        undecoded = len(decoder.getstate()[0])
        stretch = body[start : start + _STRETCH_BYTES]
        try:
            text = decoder.decode(stretch, start + _STRETCH_BYTES >= len(body))
        except UnicodeDecodeError as error:
            name = charset or ("UTF-16" if encoding == "utf-16" else "UTF-8")
            position = max(0, start - undecoded) + error.start
            raise InputError(
                f"the body is not {name} from byte {position} on; send UTF-8, or `charset` in Content-Type"
            ) from None
        separators += text.count(",") + text.count("\n") + text.count("\r")
        if separators > _MAX_CELLS:
            raise InputError(f"the body has more than {_MAX_CELLS:,} cells; send raw tensors, or .npy")


def _cells(body: bytes, encoding: str) -> list[list[str]]:
    """Return the cells by row; lines that are empty are left out."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(body), encoding, newline=""), strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is not CSV: {error}") from None
    if rows and len(set(map(len, rows))) > 1:
        odd = next(index for index, row in enumerate(rows) if len(row) != len(rows[0]))
        raise InputError(
            f"line {odd + 1} has {counted(len(rows[odd]), 'value')}, and line 1 has {len(rows[0])}"
        )
    return rows


def _column(spec: TensorSpec, cells: list[str], width: int) -> Array:
    """Return cells, `width` of a row, as a flat array of the input's datatype."""
    datatype = spec.usual
    if datatype is Datatype.BYTES:
        texts = np.empty(len(cells), object)
        missing = None if spec.may_be_missing else b""
        try:
            texts[:] = [cell.encode() if cell else missing for cell in cells]
        except UnicodeEncodeError:
            raise InputError(f"column {spec.name!r}: a string that is no Unicode") from None
        return texts
    try:
        return _numbers(spec.name, cells, datatype)
    except (ValueError, OverflowError):
        wrong = _first_wrong(cells, datatype)
        raise _refusal(spec, cells[wrong], wrong // width) from None


def _numbers(name: str, cells: list[str], datatype: Datatype) -> Array:
    """Return cells as numbers. Raises ValueError or OverflowError for others."""
    if datatype is Datatype.BOOL:
        return np.array([_truth(cell) for cell in cells], np.bool_)
    kind, dtype = datatype.numpy.kind, datatype.numpy
    if "_" in "".join(cells):
        # Python reads 1_000 as a number, and nobody else does.
        raise ValueError
    if kind in "iu":
        try:
            wide = np.array(list(map(int, cells)), np.uint64 if kind == "u" else np.int64)
        except (ValueError, OverflowError):
            wide = np.fromiter(map(float, cells), np.float64, len(cells))
            if not (np.abs(wide) < _EXACT).all():
                # A float has not all of these, so each is read as what it is.
                return np.array(list(map(_whole, cells)), dtype)
        return _exactly(name, wide, dtype)
    if "" in cells:
        cells = [cell or "nan" for cell in cells]
    numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    with np.errstate(over="ignore"):
        return numbers.astype(dtype)


def _exactly(name: str, numbers: Array, dtype: np.dtype[np.generic]) -> Array:
    try:
        return cast(name, numbers, dtype)
    except InputError as error:
        raise ValueError from error


def _truth(cell: str) -> bool:
    try:
        return _TRUTHS[cell.strip().lower()]
    except KeyError:
        raise ValueError from None


def _whole(cell: str) -> int:
    """Return a cell as a whole number. Raises ValueError or OverflowError for others."""
    try:
        return int(cell)
    except ValueError:
        number = float(cell)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _first_wrong(cells: list[str], datatype: Datatype) -> int:
    """Return the index of the first cell that is no element of a datatype, where one is not."""
    start, end = 0, len(cells)
    while end - start > 1:
        middle = (start + end) // 2
        if _are_of(cells[start:middle], datatype):
            start = middle
        else:
            end = middle
    return start


def _are_of(cells: list[str], datatype: Datatype) -> bool:
    """Tell whether cells can be elements of a datatype."""
    try:
        _numbers("", cells, datatype)
    except (ValueError, OverflowError):
        return False
    return True


def _is_number(cell: str) -> bool:
    return not cell or _are_of([cell], Datatype.FP64)


def _refusal(spec: TensorSpec, cell: str, row: int) -> InputError:
    where, datatype = place(row, spec.name), spec.usual
    if not cell:
        return InputError(f"{where}: {datatype} cannot be empty; only {FLOATS} have missing values")
    elements = ELEMENTS[datatype.value]
    span = f" ({elements.minimum} to {elements.maximum})" if elements.kind in "iu" else ""
    return InputError(f"{where}: {shown(cell)} is no {datatype}{span}")
