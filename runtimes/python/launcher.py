"""What starts the kit's Python, by its path: `python -I launcher.py`.

The environment of a kit may not have Kitserve, so its few modules that the child needs are found beside this
file. They import the standard library and numpy alone, and are out of the way before the kit's own are
imported.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_PACKAGE = "runtimes"


def main() -> None:
    """Serve the kit's class until the worker ends."""
    _find_own_package()
    from runtimes.python import child

    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    child.main()


def _find_own_package() -> None:
    """Have this file's package be found, and nothing beside it.

    Where Kitserve was installed from a wheel, all its libraries are there, and the kit has others of its own.
    """
    directory = Path(__file__).parents[1]
    spec = spec_from_file_location(
        _PACKAGE, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[_PACKAGE] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
