"""The call that a version answers before it is ready: the proof that calls can succeed, and its warm-up.

Its values are those of the kit's golden dataset, where the config names one, else those of the kit's example.
Without both they are made up by the signature, and a failure says little: an index may be out of range, two
axes may belong together. After an example that is not answered, values are made up as well. Only what
would fail whatever the values are (`Unsupported`) is the model's own fault; anything else is noted, and the
model is served.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from gateway.foreign_text import foreign_text
from gateway.serving import LOAD_SECONDS
from runtimes.base import (
    Array,
    Datatype,
    ExemplaryModel,
    InterruptibleModel,
    Signature,
    TensorModel,
    TensorSpec,
)
from runtimes.errors import InputError, Unsupported
from runtimes.stated import StatedModel

log = logging.getLogger(__name__)

SECONDS = 60.0
"""How long a worker waits for the answer. A call that takes longer goes on beside the calls that come."""
_FAILING_SECONDS = 10.0
"""After this long, a call that failed is not tried again with other sizes."""
_MIB = 1024 * 1024
_MAX_BYTES = 64 * _MIB
# The lengths of the first axis and of the others, where they may have any: tried until a call succeeds.
_SIZES = ((1, 1), (2, 2), (1, 8), (1, 28), (1, 32), (1, 64), (1, 224))
# How many axes an input has of which nothing is known, likewise.
_RANKS = (2, 1, 3, 4)
# Engines optimise a program after its first runs, so a quick one is run a few times.
_MORE_RUNS = 2
_QUICK_SECONDS = 1.0
# 0 is a valid index of any table; but a mask should let something through, and there is no length of 0.
_ONES = ("mask", "len", "size", "count", "num", "step", "scale")


def answer_first_call(
    model: TensorModel,
    inputs: Mapping[str, Array] | None = None,
    seconds: float = SECONDS,
    pass_over: Callable[[str], None] | None = None,
    end_seconds: float = LOAD_SECONDS,
) -> str:
    """Have the model answer a call; return why it was not answered, "" where it was.

    Without `inputs` the values are made up. They are as well where the model does not answer `inputs` and
    `pass_over` is given, which is told why. A call that still goes on after `end_seconds` is ended, where the
    model can end it.

    Raises:
        Unsupported: when no call would be answered, whatever its values.
    """
    outcome: Future[str] = Future()
    is_late = threading.Event()

    def run() -> None:
        try:
            outcome.set_result(_answered(model, inputs, pass_over, is_late))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="first-call", daemon=True).start()
    try:
        return outcome.result(seconds)
    except Unsupported:
        raise
    except TimeoutError:
        is_late.set()
        _end_later(model, outcome, end_seconds - seconds)
        return f"it was not answered within {seconds:g} s"
    except BaseException as error:
        return _reason(error)


def made_up(signature: Signature, sizes: tuple[int, int], rank: int = 2) -> dict[str, Array] | None:
    """Return a value for each input that a call must have; None where they would be too large.

    `sizes` are the length of the first axis, and of each other, where it may have any; `rank` is how many
    axes an input has of which nothing is known.
    """
    shapes = {spec.name: _shape(spec, sizes, rank) for spec in signature.inputs}
    itemsizes = {spec.name: spec.usual.numpy.itemsize for spec in signature.inputs}
    if sum(math.prod(shape) * itemsizes[name] for name, shape in shapes.items()) > _MAX_BYTES:
        return None
    return {spec.name: _values(spec, shapes[spec.name]) for spec in signature.inputs}


def _end_later(model: TensorModel, outcome: Future[str], seconds: float) -> None:
    """End the call that goes on beside others, once it has had so much more time."""

    def end() -> None:
        if isinstance(model, InterruptibleModel) and not outcome.done():
            log.warning("first_call.ended")
            model.interrupt()

    timer = threading.Timer(max(0.0, seconds), end)
    timer.daemon = True
    timer.start()


def _answered(
    model: TensorModel,
    inputs: Mapping[str, Array] | None,
    pass_over: Callable[[str], None] | None,
    is_late: threading.Event,
) -> str:
    """Return why no call was answered, "" where one was; see `answer_first_call`."""
    if inputs is not None:
        try:
            reason = _try(model, iter((inputs,)), is_late)
        except Unsupported as error:
            if pass_over is None:
                raise
            reason = _reason(error)
        if not reason or pass_over is None:
            return reason
        pass_over(reason)
    return _try(model, _calls(model), is_late)


def _try(model: TensorModel, calls: Iterator[Mapping[str, Array]], is_late: threading.Event) -> str:
    began = time.monotonic()
    reason = ""
    for inputs in calls:
        if is_late.is_set() or (reason and time.monotonic() - began > _FAILING_SECONDS):
            break
        try:
            _answer(model, inputs)
        except Unsupported:
            raise
        except Exception as error:
            reason = reason or _reason(error)
        else:
            for _ in range(_MORE_RUNS):
                if time.monotonic() - began < _QUICK_SECONDS:
                    _answer(model, inputs)
            return ""
    return reason or f"its inputs have more than {_MAX_BYTES // _MIB} MiB"


def _calls(model: TensorModel) -> Iterator[Mapping[str, Array]]:
    """Yield the inputs of calls until one succeeds: the model's own example, then others."""
    if isinstance(model, ExemplaryModel) and model.example:
        yield model.example
    signature = model.signature
    seen = set()
    for attempt, sizes in enumerate(_SIZES):
        inputs = made_up(signature, sizes, _RANKS[attempt % len(_RANKS)])
        if inputs is None:
            continue
        shapes = tuple(array.shape for array in inputs.values())
        if shapes not in seen:
            seen.add(shapes)
            yield inputs


def _answer(model: TensorModel, inputs: Mapping[str, Array]) -> None:
    """Run the model, and check that its answer could be sent."""
    with np.errstate(all="ignore"):
        outputs = model.infer(inputs)
    for name, array in outputs.items():
        try:
            Datatype.of(array.dtype)
        except InputError as error:
            raise Unsupported(f"output {name!r}: {error}") from error
    if isinstance(model, StatedModel):
        model.check_outputs(outputs)


def _shape(spec: TensorSpec, sizes: tuple[int, int], rank: int) -> tuple[int, ...]:
    shape = spec.likely_shape if spec.shape is None else spec.shape
    if shape is None:
        shape = (-1,) * rank
    return tuple(sizes[min(axis, 1)] if size < 0 else size for axis, size in enumerate(shape))


def _values(spec: TensorSpec, shape: Sequence[int]) -> Array:
    datatype = spec.usual
    kind = datatype.numpy.kind
    if kind == "O":
        # Text for some models, a number for those that parse it.
        return np.full(shape, b"0", object)
    if kind in "iu":
        is_one = any(word in spec.name.lower() for word in _ONES)
        return np.full(shape, int(is_one), datatype.numpy)
    return np.full(shape, 0.5 if kind in "fV" else True, datatype.numpy)


def _reason(error: BaseException) -> str:
    # Where there are several lines, PyTorch has the program's first, and what went wrong last.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return foreign_text((lines or [type(error).__name__])[-1])
