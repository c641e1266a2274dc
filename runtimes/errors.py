"""Every error a runtime raises on purpose, drawn once.

    ModelError
    ├── NoRuntime       nothing installed reads what was found, or more than one file could be meant
    ├── UnsafeFormat    a file that runs code when it is loaded
    ├── LoadError       the file is broken, or its engine refuses it
    ├── InputError      the caller's tensors are wrong
    └── ExecutionError  the model failed on inputs that looked right

Each message says what happened, to which file or tensor, and what to do.
"""


class ModelError(Exception):
    """Base of every error about a model."""


class NoRuntime(ModelError):
    """No installed runtime reads the files; the message says what was found and what is supported."""


class UnsafeFormat(ModelError):
    """Loading the file would run code that it carries; the message names the file and the rule."""


class LoadError(ModelError):
    """The file cannot be loaded; the message carries the engine's own words."""


class InputError(ModelError):
    """A tensor is missing, unknown, or of another datatype or shape; the message names it."""


class ExecutionError(ModelError):
    """The engine failed while it ran the model."""
