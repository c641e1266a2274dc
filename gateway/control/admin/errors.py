"""What the admin API answers where a model is asked for that it cannot show."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.exceptions import HTTPException

from gateway.wording import listed

_NAMED = 20


def no_such_model(name: str, names: Iterable[str], status: int = 404) -> HTTPException:
    """Return the error for a model that is not there; it names the models that are."""
    models = sorted(names)
    others = f"the models are {listed(models, _NAMED)}" if models else "there are none"
    return HTTPException(status, f"no model is named {name}; {others}")
