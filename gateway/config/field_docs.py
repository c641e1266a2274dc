"""What the fields of a config mean: the docstrings below them, read from the source."""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field of a model, those that it inherits too.

    Pydantic can do this too (`use_attribute_docstrings`), but would read the source at each start of each
    process, which costs a command line a twentieth of a second.
    """
    docs: dict[str, str] = {}
    for base in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        docs |= _docs_of(base)
    return docs


def _docs_of(model: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = text
    return docs
