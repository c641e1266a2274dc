"""What a person is told of how workers are contained."""

from __future__ import annotations

import os

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
