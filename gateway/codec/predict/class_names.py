"""The names of classes in predictions: of an output's columns, and of an output that is a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from runtimes.base import Array

_NUMBERS = "fViu"
_WHOLE = "iu"


class ClassNames:
    """The names of one version's classes.

    `labels` are those of each output's columns, by output; those under "" are of every other output. `own`
    are those that the model itself has, which may be other names of the same classes.
    """

    def __init__(self, labels: Mapping[str, Sequence[str]], own: Mapping[str, Sequence[str]]) -> None:
        self._labels = {name: _unique(names) for name, names in labels.items()}
        all_labels = self._labels.get("", ())
        self._all_labels = all_labels
        self._by_class: dict[str, str] | None = None
        if own:
            # The model's classes need not be 0, 1, 2: what it gives is looked up among its own names.
            name, classes = next(iter(own.items()))
            names = self._labels.get(name, all_labels)
            has_others = len(names) == len(classes) and tuple(names) != tuple(classes)
            self._by_class = dict(zip(classes, names, strict=True)) if has_others else {}

    def of_columns(self, name: str, output: Array) -> Sequence[str]:
        """Return the names of an output's columns, () where they have none."""
        labels = self._labels.get(name, self._all_labels)
        fits = output.ndim == 2 and output.shape[1] == len(labels) and output.dtype.kind in _NUMBERS
        return labels if fits else ()

    def is_class(self, output: Array) -> bool:
        """Tell whether an output can be one class for each row."""
        is_flat = output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)
        return is_flat and output.dtype.kind in "iuOSU"

    def of_values(self, name: str, output: Array) -> list[object] | None:
        """Return the names of an output that is one class for each row, None where they have none.

        Whole numbers are indices of the names, unless the model has classes of its own. A value that is no
        class stays as it is.
        """
        if not self.is_class(output):
            return None
        values = output.reshape(-1).tolist()
        by_class = self._by_class
        if by_class is not None:
            return [by_class.get(_text(value), _shown(value)) for value in values] if by_class else None
        labels = self._labels.get(name, self._all_labels)
        if not labels or output.dtype.kind not in _WHOLE:
            return None
        return [labels[value] if 0 <= value < len(labels) else value for value in values]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shown(value: object) -> object:
    return _text(value) if isinstance(value, bytes) else value


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of which no two are the same; some data sets have one twice."""
    counts = Counter(names)
    return tuple(
        name if name and counts[name] == 1 else f"{name} ({index})".lstrip()
        for index, name in enumerate(names)
    )
