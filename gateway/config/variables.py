"""Variables of the environment in a config file: `${NAME}`, and `${NAME:-default}`.

They are read where the file is read, by the user who reads it: what is sent to a gateway has their values in
it, and a gateway fills in nothing. They stand in values alone, so no variable can add a field. Nothing that
is a secret, or names one, is filled in: secrets have `*_env` and `*_file`, and are then in no config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.config.yaml_file import FieldPath

_MARK = "${"
_USE = re.compile(r"\$(?P<escape>\$\{)|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>.*))?", re.DOTALL)
_ENV = "_env"
_MAY_BE_SECRET = ("webhooks", "proxy")


class Variables:
    """Fills variables into the values of one config; `faults` has what could not be, by the field's path.

    Args:
        environment: the values by name; None where variables are not read.
    """

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        self._environment = environment
        self.faults: dict[FieldPath, str] = {}

    def fill(self, text: str, path: FieldPath) -> str:
        """Return a value with its variables filled in; as it is where one of them cannot be."""
        if _MARK not in text:
            return text
        problem = ""

        def replace(match: re.Match[str]) -> str:
            nonlocal problem
            if match["escape"]:
                return _MARK
            try:
                return self._value(match, path)
            except ValueError as error:
                problem = problem or str(error)
                return match[0]

        filled = _USE.sub(replace, text)
        if problem:
            self.faults[path] = problem
            return text
        return filled

    def _value(self, match: re.Match[str], path: FieldPath) -> str:
        """Return the value of one variable; raise ValueError, with advice, where it has none."""
        use = _INSIDE.fullmatch(match["inside"]) if match["end"] else None
        if use is None:
            raise ValueError(
                f"{match[0]!r} is not ${{NAME}} or ${{NAME:-default}}; write $${{ where ${{ is meant as text"
            )
        name = use["name"]
        field = next((step for step in reversed(path) if isinstance(step, str)), "")
        if field.endswith(_ENV):
            raise ValueError(
                f"write the name of the variable alone, {name}: its value, which is a secret, is read "
                "when it is needed, and is in no config"
            )
        if field in _MAY_BE_SECRET:
            raise ValueError(
                f"no variable is read into this, as it may hold a secret: write it out, not ${{{name}}}"
            )
        if self._environment is None:
            raise ValueError(
                f"${{{name}}}: variables are read only into a config that is a file; from standard input and "
                "pipes, have the shell put their values in; write $${ where ${ is meant as text"
            )
        value = self._environment.get(name)
        if use["has_default"] and not value:
            return use["default"]
        if value is None:
            raise ValueError(
                f"the environment variable {name} is not set; set it, or write what is used without it: "
                f"${{{name}:-default}}"
            )
        return value
