"""The allow-list: the operators that a TorchScript or torch.export program may have.

Each computes on tensors, numbers, texts and containers that it is given, and checks what it is given. The
names are in `known_operators.txt`, which `python -m runtimes.torch_operators.listing` writes by rule.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

KNOWN, REFUSED = "known", "refused"
"""What a line of the list begins with."""
_OF_FILES = ("aten::from_file", "aten::load_tensor", "aten::save")


@cache
def known_operators() -> frozenset[str]:
    """Return the operators of the list, each with its namespace: `aten::add`."""
    return _names(KNOWN)


@cache
def refused_operators() -> frozenset[str]:
    """Return the operators of PyTorch's own that a reviewer left out, each with its namespace."""
    return _names(REFUSED)


def is_known(operator: str) -> bool:
    """Tell whether a program may have an operator, such as `aten::add`."""
    return operator in known_operators()


def refused_use(operator: str) -> str:
    """Return what is wrong with an operator that is not on the list, as the rest of a sentence."""
    reason = (
        "reads or writes files"
        if operator in _OF_FILES
        else "is not on the list of operators that only compute with what they are given"
    )
    return f"uses {operator.removeprefix('aten::')!r}, which {reason}; save the model without it"


def _names(word: str) -> frozenset[str]:
    text = files("runtimes.torch_operators").joinpath("known_operators.txt").read_text("utf-8")
    lines = [line.split(" ") for line in text.splitlines() if not line.startswith("#")]
    return frozenset(name for kind, name in lines if kind == word)
