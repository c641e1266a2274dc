"""The user that Kitserve runs as, who may be a mere number, as in `docker run --user 12345`."""

from __future__ import annotations

import os
import pwd

from runtimes.containment.containment import lacking


def containment_warnings() -> list[str]:
    """Return what keeps workers from being contained as well as they can be, each with what to do."""
    warnings = []
    if os.getuid() == 0:
        warnings.append(
            "Kitserve runs as root. Its workers give up root's capabilities before they load a kit, but "
            "root's files are theirs: run it as a user of its own (`sudo -u USER kitserve serve …`, or "
            "`User=` in a systemd unit)"
        )
    if missing := lacking():
        warnings.append(
            f"this kernel cannot contain workers in full: no {' or '.join(missing)} (docs/security.md says "
            "what that means; files need Linux 5.13 or later with Landlock)"
        )
    return warnings


def name_user() -> None:
    """Give a user whom the host does not know a name and a home: Python and its libraries ask for both."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", str(os.getuid()))
        # As Docker sets it; whatever has to write there says that it cannot.
        os.environ.setdefault("HOME", "/")
