"""TorchScript programs on PyTorch."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Array, Resources, Signature
from runtimes.errors import ExecutionError, LoadError, ModelError, UnsafeFormat
from runtimes.formats import Format, identify, zip_names
from runtimes.input_check import InputCheck
from runtimes.torch_tensors import choose_outputs, failure, prepare, to_torch
from runtimes.torchscript_outputs import name_outputs
from runtimes.torchscript_signature import NUMBERS, signature_of

_FILE_OPERATORS = re.compile(rb"\b(?:from_file|load_tensor|save)\b")


class TorchScriptRuntime:
    """Loads archives of `torch.jit.save`, which PyTorch's C++ interpreter runs without Python code."""

    name: ClassVar[str] = "torchscript"
    formats: ClassVar[tuple[Format, ...]] = (Format.TORCHSCRIPT,)

    def load(self, path: Path, resources: Resources) -> TorchScriptModel:
        """Load the archive. Raises LoadError; a checkpoint that needs pickle never reaches PyTorch."""
        _check_format(path)
        import torch

        device = prepare(resources)
        try:
            _check(path)
            module = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
        except ModelError:
            raise
        except Exception as error:
            raise LoadError(f"PyTorch {torch.__version__} refuses {path}: {error}") from error
        return TorchScriptModel(module, signature_of(module, path), device)

    def check(self, path: Path) -> None:
        """Raise LoadError or UnsafeFormat for a file that cannot be served, without PyTorch."""
        _check_format(path)
        try:
            with path.open("rb") as file:
                names = zip_names(file)
                with zipfile.ZipFile(file) as archive:
                    for name in names:
                        _check_code(path, name.partition("/")[2], partial(archive.read, name))
        except (
            OSError,
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            EOFError,
            zlib.error,
        ) as error:
            raise LoadError(f"{path} is not a usable TorchScript archive: {error}; save it again") from error

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the archive is compiled."""
        return


class TorchScriptModel:
    """A compiled module. Inputs have the names of `forward`'s arguments; see `name_outputs` for outputs."""

    platform = "pytorch_torchscript"

    def __init__(self, module: Any, signature: Signature, device: str) -> None:
        self.signature = signature
        self.device = device
        self._forward: Callable[..., Any] = module
        self._check = InputCheck(signature)
        schema = module.forward.schema
        self._returned = schema.returns[0].type
        self._numbers = frozenset(a.name for a in schema.arguments if _is_number(a.type))
        self._left_out: dict[str, Any] = {
            argument.name: None
            for argument in schema.arguments[1:]
            if argument.type.kind() == "OptionalType" and not argument.has_default_value()
        }

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        import torch

        self._check(inputs)
        device = self.device
        numbers = self._numbers
        try:
            with torch.inference_mode():
                arguments = {
                    name: array.item() if name in numbers else to_torch(array, device)
                    for name, array in inputs.items()
                }
                result = self._forward(**{**self._left_out, **arguments})
                return choose_outputs(name_outputs(result, self._returned), outputs)
        except ModelError:
            raise
        except Exception as error:
            raise failure(error) from error

    def close(self) -> None:
        """Free the module."""
        self._forward = _closed


def _check_format(path: Path) -> None:
    format_ = identify(path)
    if format_ is not Format.TORCHSCRIPT:
        raise LoadError(f"{path} is not a whole TorchScript archive but {format_.title}; save it again")


def _check(path: Path) -> None:
    """Raise UnsafeFormat for a program that names an operator which reads or writes files."""
    import torch

    reader = torch._C.PyTorchFileReader(str(path))
    for name in reader.get_all_records():
        _check_code(path, name, partial(reader.get_record, name))


def _check_code(path: Path, name: str, read: Callable[[], bytes]) -> None:
    if name.startswith("code/") and name.endswith(".py"):
        match = _FILE_OPERATORS.search(read())
        if match:
            raise UnsafeFormat(
                f"{path}: {name} uses {match[0].decode()!r}, which reads or writes files; "
                "save the model without it"
            )


def _is_number(kind: Any) -> bool:
    """Tell whether an argument is a number, or one that may be None."""
    return (kind.getElementType() if kind.kind() == "OptionalType" else kind).kind() in NUMBERS


def _closed(**_tensors: object) -> Any:
    raise ExecutionError("the model is closed")
