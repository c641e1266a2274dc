"""The names of a pickle, found only where the allow-list has them."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from runtimes.errors import LoadError
from runtimes.extras import EXTRA_OF, install_command
from runtimes.pickles.known import Use, use_of
from runtimes.pickles.refusals import NotListed, Refused

# What a library's own releases called a module by mistake: scikit-learn 1.4 to 1.8.
_MISNAMED = {"_loss": "sklearn._loss._loss"}


@dataclass(frozen=True, slots=True)
class Reference:
    """A class or function of the list that a pickle may use in one way only, and cannot hold or call.

    It is no such thing itself: where a pickle puts it into a model, nothing can be done with it.
    """

    name: str
    use: Use

    @property
    def package(self) -> str:
        """The library that has it."""
        return self.name.partition(".")[0]

    def target(self) -> Any:
        """Return what it names. Raises LoadError where the library that is installed lacks it."""
        module_name, _, name = self.name.rpartition(".")
        try:
            return getattr(import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise LoadError(_missing(self, error)) from error


def reference(module: str, name: str, protocol: int) -> Reference:
    """Return what a pickle names. Raises NotListed for what is not on the list."""
    if protocol < 3:
        # Python 3 writes these protocols with the names of Python 2.
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        else:
            module = IMPORT_MAPPING.get(module, module)
    dotted = f"{_MISNAMED.get(module, module)}.{name}"
    use = None if "." in name else use_of(dotted)
    if use is None:
        raise NotListed(dotted)
    return Reference(dotted, use)


def class_of(value: object, package: str) -> Any:
    """Return the class that a reference names, of one library. Raises Refused for anything else."""
    if type(value) is not Reference or value.use in (Use.VALUE, Use.REBUILD) or value.package != package:
        raise Refused(f"a function of {package} rebuilds what is no known class of {package}")
    class_ = value.target()
    if not isinstance(class_, type):
        raise Refused(f"{value.name} is no class")
    return class_


def _missing(missing: Reference, error: Exception) -> str:
    package = missing.package
    if isinstance(error, ImportError) and error.name == package and package in EXTRA_OF:
        return f"it needs {package}: {install_command(EXTRA_OF[package])}"
    version = _version(package)
    return f"{missing.name} is not in the {package} {version} that is installed; install the one that made it"


def _version(package: str) -> str:
    try:
        return str(getattr(import_module(package), "__version__", ""))
    except ImportError:
        return "release"
