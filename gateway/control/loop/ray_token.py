"""Whether a Ray that this process starts asks each caller for its token (`ray._raylet`, not public)."""

from __future__ import annotations

from ray import __version__ as ray_version
from ray import _raylet

from gateway.errors import ControlError


def require_token(token: str) -> None:
    """Check that a Ray that this process starts takes no call without this token.

    Raises:
        ControlError: when it would.
    """
    loader = _raylet.AuthenticationTokenLoader.instance()  # type: ignore[attr-defined]
    # Ray reads the token once; this start may be another one of the same process.
    loader.reset_cache()
    is_asked_for = _raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN  # type: ignore[attr-defined]
    if not is_asked_for or loader.get_raw_token() != token:
        raise ControlError(
            "Ray would take calls of every user of this machine: it has not read the token of this start "
            f"(Ray {ray_version}); install the version of Ray that Kitserve was released with"
        )
