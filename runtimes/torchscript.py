"""TorchScript programs on PyTorch."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Array, Datatype, InputCheck, Resources, Signature, TensorSpec
from runtimes.errors import ExecutionError, LoadError, ModelError, UnsafeFormat
from runtimes.formats import Format, identify, zip_names
from runtimes.torch_tensors import choose_outputs, name_outputs, prepare, to_torch

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
        return TorchScriptModel(module, _signature(module, path), device)

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
    """A compiled module. Inputs have the names of `forward`'s arguments; see `name_outputs` for outputs.

    The format does not record datatypes: an argument is taken for FP32, or for INT64 where the program uses
    it as the indices of an embedding. Shapes are unknown.
    """

    platform = "pytorch_torchscript"

    def __init__(self, module: Callable[..., Any], signature: Signature, device: str) -> None:
        self.signature = signature
        self.device = device
        self._forward: Callable[..., Any] = module
        self._check = InputCheck(signature)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        import torch

        self._check(inputs)
        device = self.device
        try:
            with torch.inference_mode():
                tensors = {name: to_torch(array, device) for name, array in inputs.items()}
                return choose_outputs(name_outputs(self._forward(**tensors)), outputs)
        except ModelError:
            raise
        except Exception as error:
            raise ExecutionError(f"the model failed: {error}") from error

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


def _signature(module: Any, path: Path) -> Signature:
    schema = module.forward.schema
    integers = _embedding_indices(module)
    inputs = []
    for argument in schema.arguments[1:]:
        kind = argument.type.kind()
        if kind == "TensorType":
            datatype = Datatype.INT64 if argument.name in integers else Datatype.FP32
            inputs.append(TensorSpec(argument.name, datatype.value))
        elif not argument.has_default_value():
            raise LoadError(
                f"{path}: forward takes {argument.name!r} of {argument.type}; only tensors can be served"
            )
    return Signature(tuple(inputs), _outputs(schema.returns[0].type))


def _outputs(returned: Any) -> tuple[TensorSpec, ...]:
    """Return the outputs where the type states their number; that of a list or dict is known after a run."""
    if returned.kind() == "TensorType":
        count = 1
    elif returned.kind() == "TupleType":
        count = len(returned.elements())
    else:
        return ()
    return tuple(TensorSpec(f"output_{index}", Datatype.FP32.value) for index in range(count))


def _embedding_indices(module: Any) -> set[str]:
    """Return the names of the arguments that are indices of an embedding."""
    graph = module.inlined_graph
    nodes = graph.findAllNodes("aten::embedding", recurse=True)
    return {list(node.inputs())[1].debugName().partition(".")[0] for node in nodes}


def _closed(**_tensors: object) -> Any:
    raise ExecutionError("the model is closed")
