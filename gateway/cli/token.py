"""`kitserve token`: the token of the admin API."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import Home, out
from gateway.control.admin.token import make_token, read_token


def token(
    home: Home,
    new: Annotated[
        bool, typer.Option("--new", help="Make another one; the old one holds no longer.")
    ] = False,
) -> None:
    """Print the token of the admin API, or make another.

    Over TCP it is sent as `Authorization: Bearer`; the commands take it from $KITSERVE_TOKEN. It
    may change which kits are served, and their rollouts, but not what is trusted.
    """
    out.print(make_token(home) if new else read_token(home), markup=False)
