"""A call as people write it becomes a call on a model, whatever the form of its body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.codec.call import IN_JSON, Call
from gateway.codec.predict.csv_rows import read_csv
from gateway.codec.predict.image_settings import ImageSettings
from gateway.codec.predict.images import ImageReader
from gateway.codec.predict.json_rows import JsonCall, read_json
from gateway.codec.predict.layout import Layout, listed
from gateway.codec.predict.media import Media, charset_of, media_of
from gateway.codec.predict.numpy_files import read_npy, read_npz
from gateway.codec.predict.paths import Style
from runtimes.base import Array, Signature
from runtimes.errors import InputError

_BEGINNING = 64
_PREDICT = "predict"


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded call, and what its answer depends on besides."""

    call: Call
    is_columnar: bool = False
    """Whether its inputs came as columns."""


class Reader:
    """Reads the calls on one model; a file of several arrays may take `max_bytes` in memory."""

    def __init__(self, signature: Signature, image: ImageSettings | None, max_bytes: int) -> None:
        self._layout = Layout(signature)
        self._image = ImageReader(signature, image)
        self._max_bytes = max_bytes
        self._first = first_output([spec.name for spec in signature.outputs])

    def __call__(self, pieces: Sequence[bytes | memoryview], content_type: str, style: Style) -> Request:
        """Read a body that came in `pieces`.

        Raises:
            InputError: naming the row and the column that are wrong.
            UnknownMedia: for a type of body that is not read.
        """
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        media = media_of(content_type, bytes(body[:_BEGINNING]))
        if not len(body):
            raise InputError("the body is empty; send the rows to predict")
        if media is Media.JSON:
            read = read_json(body, self._layout)
        else:
            read = JsonCall(self._inputs(body, media, content_type))
        if not read.inputs:
            raise InputError(f"the call has no values; the model takes {listed(self._layout.names)}")
        outputs = read.outputs or ((self._first,) if self._first and style is not Style.NAMED else ())
        return Request(Call("", read.inputs, dict.fromkeys(outputs, IN_JSON)), read.is_columnar)

    def _inputs(self, body: bytes | memoryview, media: Media, content_type: str) -> dict[str, Array]:
        if media is Media.CSV:
            return read_csv(body, charset_of(content_type), self._layout)
        if media is Media.IMAGE:
            return self._image(body)
        if media is Media.NPY:
            return read_npy(body, self._layout)
        return read_npz(body, self._layout, self._max_bytes)


def first_output(names: Sequence[str]) -> str:
    """Return the output that other servers' clients mean: `predict`, else the first, "" of none."""
    return _PREDICT if _PREDICT in names else next(iter(names), "")
