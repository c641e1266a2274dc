"""What a program of torch.export may calculate of its sizes: plain arithmetic whose numbers stay small.

PyTorch gives the text of an expression to sympy, which evaluates it as Python while the program is loaded,
and runs the operators on sizes as Python. Their numbers are as long as they have to be: `9**9**8` has 41
million digits, and nothing ends the calculation. So each expression is measured before it is evaluated.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

IDENTIFIER = re.compile(r"(?:[A-Za-z_]\w*)?", re.ASCII)

_MAX_LENGTH = 4096
_MAX_DEPTH = 64
_MAX_NODES = 1024
_MAX_BITS = 4096
"""How long a number may become."""
_MAX_TERMS = 1024
"""How many terms an expression may have once it is multiplied out, as sympy may do."""
_NUMBER_BITS = 64
"""How long a number or a size may be that stands in the file."""
_MAX_EXPONENT = 16

_FUNCTIONS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|(?:Une|E)quality|(?:Strict)?(?:Greater|Less)Than|Max|Min|Abs|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Piecewise|ceiling|floor"
    r"|(?:Python)?Mod|(?:Floor|Clean|Ceil|IntTrue|FloatTrue)Div|ModularIndexing|Where|[LR]Shift|Identity"
    r"|(?:Ceil|Floor|Trunc|Round)ToInt|TruncToFloat|ToFloat|RoundDecimal|PowByNatural|FloatPow"
    r"|IsNonOverlappingAndDenseIndicator"
)
_POWERS = ("Pow", "PowByNatural", "FloatPow")
_SHIFTS = ("LShift", "RShift")
_SUMS = (ast.Add, ast.Sub)
_PRODUCTS = (ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


@dataclass(frozen=True, slots=True)
class _Size:
    """How large the value of an expression may become: its bits, and its terms when it is multiplied out."""

    bits: int = _NUMBER_BITS
    terms: int = 1


class _Refused(Exception):
    """The expression is none of plain arithmetic, or its numbers may become too large."""


def is_arithmetic(text: str) -> bool:
    """Tell whether an expression only calculates, with numbers that stay small."""
    try:
        if len(text) > _MAX_LENGTH:
            return False
        tree = ast.parse(text, mode="eval")
        if sum(1 for _ in ast.walk(tree)) > _MAX_NODES:
            return False
        _size(tree.body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, _Refused):
        return False
    return True


def large_operator(program: object) -> str:
    """Return the target of an operator on sizes, in a parsed `model.json`, whose number may become too large.

    "" where there is none.
    """
    bits: dict[str, int] = {}
    for node in _nodes(program):
        target = node["target"]
        arguments = [_number(entry.get("arg")) for entry in node.get("inputs", ()) if isinstance(entry, dict)]
        if not isinstance(target, str) or not target.startswith("_operator."):
            continue
        try:
            sizes = [
                _bits(a) if isinstance(a, int | float) else bits.get(a or "", _NUMBER_BITS) for a in arguments
            ]
            size = _operator_bits(target.removeprefix("_operator."), sizes, arguments)
        except _Refused:
            return target
        for name in _names(node.get("outputs")):
            bits[name] = size
    return ""


def _size(node: ast.AST, depth: int) -> _Size:
    """Return how large a value may become. Raises _Refused."""
    if depth > _MAX_DEPTH:
        raise _Refused
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, bool | int | float):
            raise _Refused
        return _Size(_bits(node.value))
    if isinstance(node, ast.Name):
        if not IDENTIFIER.fullmatch(node.id) or node.id.startswith("_"):
            raise _Refused
        return _Size()
    if isinstance(node, ast.Call):
        return _bounded(_call_size(node, depth))
    if isinstance(node, ast.BinOp):
        sizes = [_size(node.left, depth + 1), _size(node.right, depth + 1)]
        if isinstance(node.op, _SUMS):
            return _bounded(_sum(sizes))
        if isinstance(node.op, _PRODUCTS):
            return _bounded(_product(sizes))
        raise _Refused
    if isinstance(node, ast.UnaryOp):
        return _size(node.operand, depth + 1)
    if isinstance(node, ast.Compare):
        return _largest(_size(part, depth + 1) for part in (node.left, *node.comparators))
    if isinstance(node, ast.BoolOp):
        return _largest(_size(part, depth + 1) for part in node.values)
    raise _Refused


def _call_size(node: ast.Call, depth: int) -> _Size:
    if not isinstance(node.func, ast.Name) or not _FUNCTIONS.fullmatch(node.func.id):
        raise _Refused
    function, arguments = node.func.id, list(node.args)
    if any(keyword.arg is None for keyword in node.keywords):
        raise _Refused
    options = [_size(keyword.value, depth + 1) for keyword in node.keywords]
    if function == "Symbol" and arguments and isinstance(arguments[0], ast.Constant):
        name = arguments.pop(0).value  # type: ignore[attr-defined]
        if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
            raise _Refused
        return _Size()
    sizes = [_size(argument, depth + 1) for argument in arguments]
    if function in _POWERS:
        return _power(sizes, arguments)
    if function in _SHIFTS:
        return _shifted(sizes, arguments)
    if function == "Add":
        return _sum(sizes)
    if function == "Mul":
        return _product(sizes)
    # Others give no larger number than they are given, and are not multiplied out.
    return _Size(_largest(sizes + options).bits)


def _power(sizes: list[_Size], arguments: list[ast.expr]) -> _Size:
    if len(sizes) != 2:
        raise _Refused
    exponent = math.ceil(abs(_literal(arguments[1])))
    if exponent > _MAX_EXPONENT:
        raise _Refused
    return _Size(sizes[0].bits * max(1, exponent), sizes[0].terms ** max(1, exponent))


def _shifted(sizes: list[_Size], arguments: list[ast.expr]) -> _Size:
    if len(sizes) != 2:
        raise _Refused
    distance = _literal(arguments[1])
    if not 0 <= distance <= _NUMBER_BITS:
        raise _Refused
    return _Size(sizes[0].bits + math.ceil(distance))


def _literal(node: ast.expr) -> float:
    """Return a number that stands in the text as it is, or within `Integer`, `Float` or `Rational`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        if node.func.id in ("Integer", "Float"):
            return _literal(node.args[0])
        if node.func.id == "Rational" and len(node.args) == 2 and (below := _literal(node.args[1])):
            return _literal(node.args[0]) / below
    raise _Refused


def _sum(sizes: list[_Size]) -> _Size:
    return _Size(_largest(sizes).bits + len(sizes).bit_length(), sum(size.terms for size in sizes))


def _product(sizes: list[_Size]) -> _Size:
    return _Size(sum(size.bits for size in sizes), math.prod(size.terms for size in sizes))


def _largest(sizes: Iterable[_Size]) -> _Size:
    every = [_Size(1), *sizes]
    return _Size(max(size.bits for size in every), max(size.terms for size in every))


def _bounded(size: _Size) -> _Size:
    if size.bits > _MAX_BITS or size.terms > _MAX_TERMS:
        raise _Refused
    return size


def _bits(value: float) -> int:
    """Return how long a number is that stands in the file. Raises _Refused where it is too long."""
    if not math.isfinite(value) or (bits := int(value).bit_length()) > _NUMBER_BITS:
        raise _Refused
    return bits


def _operator_bits(name: str, sizes: list[int], arguments: list[str | float | None]) -> int:
    """Return how long the result of Python's operator may be. Raises _Refused."""
    if name in ("pow", "lshift"):
        right = arguments[1] if len(arguments) == 2 else None
        if isinstance(right, str) or right is None:
            raise _Refused
        if abs(right) > (_MAX_EXPONENT if name == "pow" else _NUMBER_BITS):
            raise _Refused
        bits = sizes[0] * max(1, math.ceil(abs(right))) if name == "pow" else sizes[0] + math.ceil(abs(right))
    elif name == "mul":
        bits = sum(sizes)
    else:
        bits = max(sizes, default=1) + 1
    if bits > _MAX_BITS:
        raise _Refused
    return bits


def _nodes(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the nodes of all graphs, in their order."""
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, dict):
        if "target" in value and "inputs" in value:
            yield value
        for item in value.values():
            yield from _nodes(item)


def _number(argument: object) -> str | float | None:
    """Return an argument that is a number, or the name of one; None for others."""
    if not isinstance(argument, dict):
        return None
    for key, value in argument.items():
        if key in ("as_int", "as_float", "as_name"):
            return value if isinstance(value, str | int | float) else None
        if key in ("as_sym_int", "as_sym_float"):
            return _number(value)
    return None


def _names(outputs: object) -> Iterator[str]:
    for output in outputs if isinstance(outputs, list) else ():
        name = _number(output)
        if isinstance(name, str):
            yield name
