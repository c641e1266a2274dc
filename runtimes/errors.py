"""The errors that runtimes raise on purpose.

    ModelError
    ├── NoRuntime       no installed runtime reads the files, or several files could be the model
    │   └── SeveralModels
    ├── UnsafeFormat    a file that runs code when it is loaded
    ├── LoadError       the file is broken, or its engine refuses it
    ├── InputError      the caller's tensors are wrong
    │   └── UnfitInput  only the run showed it: an index out of range, a shape that fits nothing
    └── ExecutionError  the model failed on inputs that looked right
        ├── Unsupported  it would fail on any: an output has no form, or the engine lacks an operator
        ├── OutOfMemory  it needed more memory than it may have, or than there is
        │   └── DeviceOutOfMemory  of a GPU, which others use as well
        ├── DeviceLost   its GPU answers nothing more in this process
        └── Interrupted  it was told to end the call

Each message says what happened, to which file or tensor, and what to do.
"""


class ModelError(Exception):
    """The base of every error about a model."""


class NoRuntime(ModelError):
    """No installed runtime reads the files, or several could be the model; the message lists them."""


class SeveralModels(NoRuntime):
    """Several files could be the model: `paths`."""

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class UnsafeFormat(ModelError):
    """Loading the file would run code that is in it; the message names the file and the rule."""


class LoadError(ModelError):
    """The file cannot be loaded; the message has the engine's own error."""


class InputError(ModelError):
    """A tensor is missing, unknown, or of another datatype or shape; the message names it."""


class UnfitInput(InputError):
    """The tensors are as the signature says, and yet the model cannot take them, see `unfit`."""


class ExecutionError(ModelError):
    """The engine failed while it ran the model."""


class Unsupported(ExecutionError):
    """Every call on the model fails: an output has no form in the protocol, or an operator is missing."""


class OutOfMemory(ExecutionError):
    """The model needed more memory for the call than it may have, or than there is."""


class DeviceOutOfMemory(OutOfMemory):
    """The GPU had too little memory free for the call; later it may have more."""


class DeviceLost(ExecutionError):
    """After this error, every call on the GPU fails in this process."""


class Interrupted(ExecutionError):
    """The call was ended from outside, see `runtimes.base.InterruptibleModel`."""
