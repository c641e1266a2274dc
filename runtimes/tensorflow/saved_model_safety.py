"""The check that a SavedModel computes and does nothing else.

Every operator must be on the list of `operators`, in every function of its library, as TensorFlow looks
into all of them while it loads the model. The functions that save and restore it are left, which nothing
calls; and the one that fills a table from a file of the model's own.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.tensorflow.operators import COMPUTING, FROM_FILE, SAVING
from runtimes.tensorflow.saved_model_file import Function, Node, SavedModelFile

# How TensorFlow names the functions that it makes, and none of its operators.
_OWN_FUNCTION = "__"


def check_program(path: Path, file: SavedModelFile) -> None:
    """Check the operators of the SavedModel at `path`.

    Raises:
        UnsafeFormat: for one that is not on the list, or that a file of the model's does not feed.
        LoadError: for a function that is missing.
    """
    called = {
        name for function in file.functions.values() for node in function.nodes for name in _calls(node)
    }
    for missing in (called | file.callable.keys()) - file.functions.keys():
        raise LoadError(f"{path} calls the function {missing[:80]!r}, which it lacks; export the model again")
    reached = _reached(file)
    for function in (file.graph, *file.functions.values()):
        for node in function.nodes:
            if node.operator in COMPUTING or _is_call(node):
                continue
            if node.operator in SAVING and function.name not in reached:
                continue
            if node.operator in FROM_FILE and _is_fed_by_asset(node, function, file, called):
                continue
            raise UnsafeFormat(
                f"{path}: {function.name[:80] or 'its graph'} has the operator {node.operator[:80]!r}, which "
                "is not on the list of those that only compute; export the model without it"
            )


def _calls(node: Node) -> tuple[str, ...]:
    """Return the functions that an operation may call; one can be called as if it were an operator."""
    return (*node.functions, node.operator) if _is_call(node) else node.functions


def _is_call(node: Node) -> bool:
    return node.operator.startswith(_OWN_FUNCTION)


def _reached(file: SavedModelFile) -> set[str]:
    """Return the functions that the objects name, all that these call, and what may run in their place."""
    reached: set[str] = set()
    left = [*file.callable, *(name for name, function in file.functions.items() if function.is_alternative)]
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += (called for node in file.functions[name].nodes for called in _calls(node))
    return reached


def _is_fed_by_asset(node: Node, function: Function, file: SavedModelFile, called: Collection[str]) -> bool:
    """Tell whether the name of a file is an argument that an asset is bound to, and nothing else can be."""
    if function.name in called or len(node.inputs) < 2 or node.inputs[1] not in function.arguments:
        return False
    bound = file.callable.get(function.name, ())
    index = function.arguments.index(node.inputs[1]) - len(function.arguments) + len(bound)
    return index >= 0 and bound[index] in file.asset_objects
