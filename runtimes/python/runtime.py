"""The runtime of a kit's own Python: a file with a class, which a process of its own runs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from runtimes.base import LoadedModel, Resources, Signature, TensorModel, TensorSpec
from runtimes.errors import LoadError, NoRuntime
from runtimes.formats import Format
from runtimes.python.child import PREDICT
from runtimes.python.environment import Note, interpreter_for
from runtimes.python.model import ProcessedModel, PythonModel
from runtimes.python.process import KitProcess, start
from runtimes.python.requirements import Sources, find_requirements

NAME = "python"


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """How a kit's Python is started."""

    name: str = ""
    """What the log calls the model."""
    class_name: str = ""
    """The class of the entry; "" for the only one that can be served."""
    root: Path | None = None
    """The directory of the kit, below which requirements are looked for; None: that of the entry."""
    model_path: Path | None = None
    """What `load` is given: the model's file or directory; None: the directory of the entry."""
    load_model: Callable[[], LoadedModel] | None = None
    """Loads the model that stands beside the entry, for a class around it; None where there is none."""
    stated: Signature = field(default_factory=lambda: Signature((), ()))
    """What the Kitfile or the config states, for a class that does not say it."""
    sources: Sources = Sources.KIT
    """Where the packages of its requirements may come from."""
    environments: Path | None = None
    """Where environments are kept; None: a kit with requirements is refused."""
    timeout: float = 60.0
    """How many seconds a call may take."""
    before_model: Callable[[], None] = field(default=lambda: None)
    """Called once the class is loaded in its process, before `load_model` reads the kit in this one."""
    note: Note = field(default=lambda _: None)
    """Told how far the start is."""


DEFAULT_OPTIONS = PythonOptions()


class PythonRuntime:
    """Runs the class in a file of Python that the kit names as its entry; no file is it by its content."""

    name: ClassVar[str] = NAME
    formats: ClassVar[tuple[Format, ...]] = (Format.PYTHON,)

    def load(self, path: Path, resources: Resources) -> LoadedModel:
        """Start the file's class with the default options. Raises LoadError."""
        return self.start(path, resources, DEFAULT_OPTIONS)

    def start(self, path: Path, resources: Resources, options: PythonOptions) -> PythonModel | ProcessedModel:
        """Start the file's class in a process of its own, in its environment.

        Raises:
            LoadError: its environment cannot be made, or the class cannot be loaded.
        """
        self.check(path)
        root = options.root or path.parent
        requirements = find_requirements(path, root)
        if requirements is not None and options.environments is None:
            raise LoadError(f"{requirements.file}: there is no directory for the environments of kits")
        python = interpreter_for(requirements, options.sources, options.environments or root, options.note)
        options.note("loading its Python")
        process = start(
            [str(python)],
            {
                "entry": str(path),
                "root": str(root),
                "class_name": options.class_name,
                "model_path": str(options.model_path or path.parent),
                "stated": {
                    "inputs": _documents(options.stated.inputs),
                    "outputs": _documents(options.stated.outputs),
                },
            },
            name=options.name,
            threads=resources.threads,
            timeout=options.timeout,
        )
        try:
            if PREDICT in process.methods:
                return PythonModel(process, "cuda:0" if resources.gpus else "cpu")
            return _around(path, process, options)
        except BaseException:
            process.close()
            raise

    def check(self, path: Path) -> None:
        """Raise LoadError where the file is missing or no Python; nothing of it is run."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise LoadError(f"{path} cannot be read: {error}") from error
        try:
            tree = ast.parse(text, path.name)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise LoadError(f"{path} is no Python that this interpreter reads: {error}") from error
        if not tree.body:
            raise LoadError(f"{path} is empty: write a class with `predict` in it")

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the class is loaded."""
        return


def _around(path: Path, process: KitProcess, options: PythonOptions) -> ProcessedModel:
    """Load the model that the class is around. Raises LoadError where there is none for it."""
    if options.load_model is None:
        raise LoadError(
            f"{path} has a class with {' and '.join(process.methods)}, and there is no model beside it that "
            "Kitserve runs: pack one, or write `predict`"
        )
    options.before_model()
    try:
        model = options.load_model()
    except NoRuntime as error:
        raise LoadError(
            f"{path} has a class with {' and '.join(process.methods)}, and no model beside it can be "
            f"served: {error}"
        ) from error
    if not isinstance(model, TensorModel):
        model.close()
        raise LoadError(
            f"{path}: preprocess and postprocess are for models of tensors, and this one has none"
        )
    try:
        return ProcessedModel(process, model)
    except BaseException:
        model.close()
        raise


def _documents(specs: Sequence[TensorSpec]) -> list[dict[str, object]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]
