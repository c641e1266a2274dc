"""The check of a TorchScript program's text, before PyTorch compiles it.

`torch.jit.save` writes Python of a few forms: `torch.NAME(…)` and `ops.NAMESPACE.NAME(…)` are operators,
and `(x).NAME(…)` is a method of a class of the program. A person may write more, such as `x.NAME(…)` for an
operator of a tensor. What is compiled is checked once more (`torchscript_graph`), which knows the types; but
a `__setstate__` runs before that, so that a program which has one must have nothing but the written forms.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.torch_operators.known import is_known, refused_operators, refused_use

_RUNS_AT_LOADING = "__setstate__"
# Characters and forms that PyTorch's own reader may split otherwise than Python's.
_NOT_WRITTEN = re.compile(r"[^\n\x20-\x7e]|\\\n|'''|\"\"\"")
_ROOTS = ("torch", "ops")
# What the program's own classes and functions come after, and those of PyTorch in C++.
_OWN = "__torch__"
# No operators, and yet after `torch.`.
_VALUES = frozenset({"device"})
# Classes of PyTorch in C++, whose constructors check what they are given: the weights of quantized layers.
_CLASSES = re.compile(
    r"quantized\.(?:\w*PackedParamsBase|LinearPackedParams)|rnn\.CellParamsBase|sparse\.LinearPackedParamsBase"
)
# How a class of PyTorch is named, in text and in pickles.
_CLASS = re.compile(r"__torch__\.torch\.classes\.([\w.]+)")


def check_code(members: Mapping[str, bytes], path: Path) -> None:
    """Check the members of an archive that are code, by name.

    Raises:
        UnsafeFormat: for an operator or a class that is not on the list; the message names the member.
        LoadError: for a text that is no TorchScript.
    """
    texts = {name: _text(code, f"{path}: {name}") for name, code in members.items()}
    runs_at_loading = any(_RUNS_AT_LOADING in text for text in texts.values())
    for name, text in texts.items():
        where = f"{path}: {name}"
        if runs_at_loading and _NOT_WRITTEN.search(text):
            raise UnsafeFormat(f"{where} has text that PyTorch does not write; save the model again")
        for class_ in _CLASS.findall(text):
            check_class(class_, where)
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise LoadError(f"{where} is no TorchScript that PyTorch writes: {error}") from error
        for operator in _operators(tree, runs_at_loading=runs_at_loading):
            if not is_known(operator):
                raise UnsafeFormat(f"{where} {refused_use(operator)}")


def check_class(name: str, where: str) -> None:
    """Raise UnsafeFormat for a class of PyTorch's C++ that is not on the list; `where` begins the message."""
    if not _CLASSES.fullmatch(name):
        raise UnsafeFormat(
            f"{where} uses the class 'torch.classes.{name}', which may do more than hold weights; save the "
            "model without it"
        )


def _text(code: bytes, where: str) -> str:
    try:
        return code.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(f"{where} is no text: {error}; save the model again") from error


def _operators(tree: ast.AST, *, runs_at_loading: bool) -> Iterator[str]:
    """Yield each operator that a text names, as `aten::add`, and what may stand for one."""
    rest: list[ast.AST] = [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, ast.Attribute):
            root, *names = _chain(node)
            if root in _ROOTS:
                yield from _of_root(root, names)
                continue
            if root == _OWN:
                if runs_at_loading and names in (["torch"], ["torch", "classes"]):
                    yield f"{root}.{'.'.join(names)}"
                continue
            if runs_at_loading:
                yield from _of_method(node.attr)
        elif isinstance(node, ast.Name) and node.id in _ROOTS:
            # Under another name, what follows it would not be seen.
            yield node.id
        elif isinstance(node, ast.Name) and node.id == _OWN and runs_at_loading:
            yield node.id
        elif runs_at_loading and isinstance(node, ast.Call) and _is_getattr(node.func):
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (operator for value in values for operator in _of_method(str(value)))
        rest += ast.iter_child_nodes(node)


def _of_root(root: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the operator that `root.names` is, whether there is one of that name or not."""
    if root == "ops":
        yield "::".join(names)
    elif len(names) == 1 and names[0] not in _VALUES:
        yield f"aten::{names[0]}"
    elif len(names) > 1:
        yield ".".join([root, *names])


def _of_method(name: str) -> Iterator[str]:
    """Yield the operator that a method of a tensor would be, where it is one that is refused."""
    if f"aten::{name}" in refused_operators():
        yield f"aten::{name}"


def _is_getattr(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == "getattr"


def _chain(node: ast.expr) -> list[str]:
    """Return the names of `a.b.c`; what is before the first dot is "" where it is no name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "", *reversed(names)]
