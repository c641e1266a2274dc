"""The check that a compiled TorchScript program has no operator that is not on the list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runtimes.errors import UnsafeFormat
from runtimes.torch_operators.known import known_operators, refused_use


def check_functions(functions: Iterable[Any], path: Path) -> None:
    """Check every function of a compilation unit, which has all methods of all classes among them.

    Raises:
        UnsafeFormat: for an operator that is not on the list; the message names the function.
    """
    known = known_operators()
    for function in functions:
        for kind in _kinds(function.graph):
            if kind not in known:
                raise UnsafeFormat(f"{path}: {function.qualified_name} {refused_use(kind)}")


def _kinds(graph: Any) -> Iterator[str]:
    """Yield the kind of each node, those in branches, loops and what is forked included."""
    blocks = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            yield node.kind()
            blocks.extend(node.blocks())
            for name in node.attributeNames():
                kind = node.kindOf(name)
                if kind == "g":
                    blocks.append(node.g(name))
                elif kind == "gs":
                    blocks.extend(node.gs(name))
