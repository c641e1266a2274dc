"""TorchScript programs on PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Array, Resources, Signature
from runtimes.errors import ExecutionError, LoadError, ModelError
from runtimes.formats import Format, identify, zip_names
from runtimes.input_check import InputCheck
from runtimes.torch_device import torch_device
from runtimes.torch_tensors import choose_outputs, failure, prepare
from runtimes.torchscript_code import check_code
from runtimes.torchscript_data import check_pickle
from runtimes.torchscript_graph import check_functions
from runtimes.torchscript_outputs import name_outputs
from runtimes.torchscript_signature import NUMBERS, signature_of
from runtimes.zip_members import DAMAGE, check_members

# The pickles of an archive that PyTorch reads, each with the tensors below its name.
_PICKLES = ("constants.pkl", "data.pkl")
# PyTorch reads the older layout, of 1.2 and before, by other code.
_OLD_LAYOUT = "model.json"
# In place of an argument that a call leaves out.
_DEFAULT = object()


class TorchScriptRuntime:
    """Loads archives of `torch.jit.save`, which PyTorch's C++ interpreter runs without Python code."""

    name: ClassVar[str] = "torchscript"
    formats: ClassVar[tuple[Format, ...]] = (Format.TORCHSCRIPT,)

    def __init__(self, *, runs_code: bool = False) -> None:
        self._runs_code = runs_code

    def with_code(self) -> TorchScriptRuntime:
        """Return the runtime that loads programs with any operators; see `CodeRuntime`."""
        return TorchScriptRuntime(runs_code=True)

    def load(self, path: Path, resources: Resources) -> TorchScriptModel:
        """Load the archive. Raises LoadError; a checkpoint that needs pickle never reaches PyTorch.

        Raises UnsafeFormat for a program with operators that are not on the list: as far as its text shows
        it, before PyTorch reads that, and in any case before its first call.
        """
        _check_format(path)
        import torch
        from torch.jit import _recursive

        device = prepare(resources)
        try:
            if not self._runs_code:
                _check(path)
            # What `torch.jit.load` does; it keeps for itself the unit that has all that was compiled.
            unit: Any = torch._C.CompilationUnit()
            compiled = torch._C.import_ir_module(unit, str(path), torch.device(device), {}, False)  # type: ignore[call-arg]
            if not self._runs_code:
                check_functions(unit.get_functions(), path)
            module = _recursive.wrap_cpp_module(compiled).eval()  # type: ignore[no-untyped-call]
        except ModelError:
            raise
        except Exception as error:
            raise LoadError(f"PyTorch {torch.__version__} refuses {path}: {error}") from error
        return TorchScriptModel(module, signature_of(module, path), device)

    def check(self, path: Path) -> None:
        """Raise LoadError or UnsafeFormat for a file that cannot be served, without PyTorch."""
        _check_format(path)
        if not self._runs_code:
            _check(path)

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the archive is compiled."""
        return


class TorchScriptModel:
    """A compiled module. Inputs have the names of `forward`'s arguments; see `name_outputs` for outputs."""

    platform = "pytorch_torchscript"

    def __init__(self, module: Any, signature: Signature, device: str) -> None:
        self.signature = signature
        self.device = device
        self._device = torch_device(device)
        self._module: Callable[..., Any] = module
        self._forward = self._device.repeated(self._run)
        self._check = InputCheck(signature)
        schema = module.forward.schema
        self._returned = schema.returns[0].type
        self._numbers = frozenset(a.name for a in schema.arguments if _is_number(a.type))
        self._arguments = [argument.name for argument in schema.arguments[1:]]
        self._left_out: dict[str, Any] = {
            argument.name: None
            for argument in schema.arguments[1:]
            if argument.type.kind() == "OptionalType" and not argument.has_default_value()
        }

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        self._check(inputs)
        device = self._device
        numbers = self._numbers
        try:
            with device.running():
                arguments = {
                    name: array.item() if name in numbers else device.upload(array)
                    for name, array in inputs.items()
                }
                results = self._forward([arguments.get(name, _DEFAULT) for name in self._arguments])
                return choose_outputs(device.download(results), outputs)
        except ModelError:
            raise
        except Exception as error:
            raise failure(error) from error

    def close(self) -> None:
        """Free the module."""
        self._module = self._forward = _closed

    def _run(self, values: Sequence[Any]) -> Mapping[str, Any]:
        """Run the module on the values of its arguments, in their order."""
        given = {
            name: value for name, value in zip(self._arguments, values, strict=True) if value is not _DEFAULT
        }
        return name_outputs(self._module(**{**self._left_out, **given}), self._returned)


def _check_format(path: Path) -> None:
    format_ = identify(path)
    if format_ is not Format.TORCHSCRIPT:
        raise LoadError(f"{path} is not a whole TorchScript archive but {format_.title}; save it again")


def _check(path: Path) -> None:
    """Check an archive's text and pickles, as far as that can be done before PyTorch reads them.

    Raises:
        UnsafeFormat: for what could read memory or files, or run code.
        LoadError: for an archive that cannot be read.
    """
    try:
        with path.open("rb") as file:
            names = zip_names(file)
            check_members(path, zipfile.ZipFile(file), names)
            roots = {name.partition("/")[0] for name in names}
            if len(roots) > 1:
                raise LoadError(f"{path} has several roots, {', '.join(sorted(roots)[:3])}; save it again")
            with zipfile.ZipFile(file) as archive:
                members = {name.partition("/")[2]: archive.getinfo(name) for name in names}
                if _OLD_LAYOUT in members:
                    raise LoadError(f"{path} has the layout of PyTorch 1.2; save it with a later one")
                code = [name for name in members if name.startswith("code/") and name.endswith(".py")]
                check_code({name: archive.read(members[name]) for name in code}, path)
                for name in _PICKLES:
                    if name in members:
                        text = archive.read(members[name])
                        check_pickle(text, name, lambda record: members[record].file_size, path)
    except DAMAGE as error:
        raise LoadError(f"{path} is not a usable TorchScript archive: {error}; save it again") from error


def _is_number(kind: Any) -> bool:
    """Tell whether an argument is a number, or one that may be None."""
    return (kind.getElementType() if kind.kind() == "OptionalType" else kind).kind() in NUMBERS


def _closed(*_values: object, **_tensors: object) -> Any:
    raise ExecutionError("the model is closed")
