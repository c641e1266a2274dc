"""The check that a torch.export program has nothing in it that PyTorch would run as code while it loads it.

PyTorch writes Python source with the names in `model.json`, evaluates its shape expressions, looks its
operators up by attribute, imports what its pytrees name, and falls back to a full unpickling. So each string
must have a form that can mean nothing but what it should. The schema is torch/_export/serde/schema.py; it is
read by serialize.py there and by torch/export/pt2_archive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.pt2_expressions import IDENTIFIER, is_arithmetic, large_operator
from runtimes.torch_operators.known import is_known, refused_use

_DOTTED = re.compile(r"[\w.@-]*", re.ASCII)
_KEY = re.compile(r"[\w. @-]*", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.quantized_decomposed\.[a-z]\w*\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|map_impl|scan|associative_scan"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_(?:int|float|max|min|ite|not|sum|sqrt)|torch\._sym_sqrt"
    r"|torch\._C\._set_grad_enabled|torch\.amp\.autocast_mode\._(?:enter|exit)_autocast"
    r"|math\.(?:ceil|floor|trunc|sqrt)"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|lshift|rshift"
    r"|and_|or_|not_|eq|ne|lt|le|gt|ge)",
    re.ASCII,
)
_OF_PYTORCH = re.compile(r"torch\.ops\.(?P<namespace>aten|prims)\.(?P<name>\w+)\.[A-Za-z]\w*", re.ASCII)
_ANY_OPERATOR = re.compile(r"torch\.ops\.[A-Za-z]\w*\.\w+\.[A-Za-z]\w*", re.ASCII)
_CONTAINERS = (
    None,
    "builtins.tuple",
    "builtins.list",
    "builtins.dict",
    "collections.OrderedDict",
    "torch.fx.immutable_collections.immutable_list",
    "torch.fx.immutable_collections.immutable_dict",
)

_TARGETS = ("target", "as_operator")
# nothing evaluates these: annotations for people, and guards that a module made without them never meets
_UNREAD = ("metadata", "guards_code", "torch_version")


def check_program(program: object, path: Path, *, any_operator: bool = False) -> None:
    """Raise UnsafeFormat, which names `path`, for a string in a parsed `model.json` that could run code.

    With `any_operator`, operators need not be on the list.
    """
    for field, text in _strings(program, "name"):
        if field in _TARGETS:
            if any_operator and _ANY_OPERATOR.fullmatch(text):
                continue
            if match := _OF_PYTORCH.fullmatch(text):
                operator = f"{match['namespace']}::{match['name']}"
                if is_known(operator):
                    continue
                raise UnsafeFormat(f"{path}: the program {refused_use(operator)}")
        if not _is_harmless(field, text):
            raise UnsafeFormat(
                f"{path}: an exported program may not have the {field} {text[:80]!r}, which PyTorch could "
                "run as code, or calculate without end; export the model again with plain tensors and "
                "without custom operators"
            )
    if target := large_operator(program):
        raise UnsafeFormat(
            f"{path}: an exported program may not apply {target} to sizes so that the number may become too "
            "long to calculate; export the model again without it"
        )


def check_payloads(config: object, path: Path) -> None:
    """Raise UnsafeFormat for weights or constants stored as a pickle, LoadError for a broken table."""
    try:
        payloads: dict[str, Any] = config["config"]  # type: ignore[index]
        pickled = [
            name
            for name, payload in payloads.items()
            if payload["use_pickle"] or not payload["path_name"].startswith(("weight_", "tensor_"))
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise LoadError(
            f"{path} has a table of weights that cannot be parsed: {error!r}; export it again"
        ) from error
    if pickled:
        raise UnsafeFormat(
            f"{path}: {pickled[0]!r} is stored as a pickle, which runs code when it is loaded; "
            "export the model again with plain tensors"
        )


def check_members(names: Iterable[str], path: Path) -> None:
    """Raise UnsafeFormat for members (without the archive's root) that are native code or a pickle."""
    for name in names:
        if name.startswith("data/aotinductor/"):
            raise UnsafeFormat(f"{path}: {name} is native code; save the exported program itself instead")
        if re.fullmatch(r"data/(?:weights|constants)/[^/]*\.pt", name):
            raise UnsafeFormat(f"{path}: {name} is a pickle; export the model again with torch 2.9 or later")


def _strings(value: object, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, field)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield "key", key
            if key not in _UNREAD:
                yield from _strings(item, key)


def _is_harmless(field: str, text: str) -> bool:
    if field in _TARGETS:
        return bool(_OPERATOR.fullmatch(text))
    if field == "expr_str":
        return is_arithmetic(text)
    if field in ("in_spec", "out_spec"):
        return _is_plain_tree(json.loads(text)[1])
    if field in ("as_string", "as_strings"):
        return True
    if field == "as_float":
        return text in ("Infinity", "-Infinity", "NaN")
    if field in ("key", "fqn", "parameter_name", "buffer_name", "tensor_constant_name"):
        return bool(_DOTTED.fullmatch(text))
    return bool(IDENTIFIER.fullmatch(text))


def _is_plain_tree(spec: Any) -> bool:
    """Tell whether a pytree is of containers that import nothing, with keys that are plain words."""
    if spec["type"] not in _CONTAINERS:
        return False
    context = json.loads(spec["context"] or "null")
    keys = [] if context is None else context
    plain = isinstance(keys, list) and all(
        isinstance(key, int) or (isinstance(key, str) and bool(_KEY.fullmatch(key))) for key in keys
    )
    return plain and all(map(_is_plain_tree, spec["children_spec"]))
