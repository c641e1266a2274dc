"""What starts the kit's Python, by its path: `python -I launcher.py`.

The environment of a kit may not have Kitserve, so its few modules that the child needs are found beside this
file. They import the standard library and numpy alone, and are out of the way before the kit's own are
imported.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Serve the kit's class until the worker ends."""
    root = str(Path(__file__).parents[2])
    sys.path.insert(0, root)
    from runtimes.python import child

    sys.path.remove(root)
    for name in [name for name in sys.modules if name.partition(".")[0] == "runtimes"]:
        del sys.modules[name]
    child.main()


if __name__ == "__main__":
    main()
