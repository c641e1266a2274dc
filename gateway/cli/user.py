"""The user that Kitserve runs as, who may be a mere number, as in `docker run --user 12345`."""

from __future__ import annotations

import os
import pwd


def name_user() -> None:
    """Give a user whom the host does not know a name and a home: Python and its libraries ask for both."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", str(os.getuid()))
        # As Docker sets it; whatever has to write there says that it cannot.
        os.environ.setdefault("HOME", "/")
