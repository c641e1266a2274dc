"""Programs of torch.export on PyTorch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runtimes import pt2_file, pt2_safety
from runtimes.base import Array, Resources, Signature
from runtimes.errors import ExecutionError, InputError, LoadError, ModelError, UnsafeFormat
from runtimes.formats import Format, zip_names
from runtimes.input_check import InputCheck
from runtimes.torch_device import torch_device
from runtimes.torch_tensors import choose_outputs, failure, prepare

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MAX_SHAPES = 1_024

_SAMPLES = "data/sample_inputs/model.pt"


class TorchExportRuntime:
    """Loads archives of `torch.export.save` of torch 2.9 and later, without a full unpickling."""

    name: ClassVar[str] = "torch-export"
    formats: ClassVar[tuple[Format, ...]] = (Format.TORCH_EXPORT,)

    def __init__(self, *, runs_code: bool = False) -> None:
        self._runs_code = runs_code

    def with_code(self) -> TorchExportRuntime:
        """Return the runtime that loads programs with any operators; see `CodeRuntime`."""
        return TorchExportRuntime(runs_code=True)

    def load(self, path: Path, resources: Resources) -> TorchExportModel:
        """Load the program. Raises UnsafeFormat where it could run code, LoadError where it is broken."""
        import torch

        device = prepare(resources)
        try:
            signature = _check(path, any_operator=self._runs_code)
            with path.open("rb") as file:
                program = torch.export.load(file)
            if device != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            return TorchExportModel(program, signature, device)
        except ModelError:
            raise
        except Exception as error:
            raise LoadError(f"PyTorch {torch.__version__} refuses {path}: {error}") from error

    def signature(self, path: Path) -> Signature:
        """Return the signature in the archive's `model.json`. Raises LoadError and UnsafeFormat."""
        return pt2_file.read(path, any_operator=self._runs_code)


class TorchExportModel:
    """An exported program. For the names of inputs and outputs see `pt2_file.parse`."""

    platform = "pytorch_export"

    def __init__(self, program: ExportedProgram, signature: Signature, device: str) -> None:
        from torch.export.graph_signature import InputKind
        from torch.utils import _pytree as pytree

        self.signature = signature
        self.device = device
        self._device = torch_device(device)
        # Guards are Python text in the file; the module's own hook checks sizes and ranges without them.
        module = program.module(check_guards=False)
        self._checked_module: Callable[..., Any] = module
        self._module: Callable[..., Any] = module.forward
        self._forward = self._device.repeated(self._run)
        self._accepted_shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._tree = program.call_spec.in_spec
        self._check = InputCheck(signature)
        out_spec = program.call_spec.out_spec
        tree = json.loads(pytree.treespec_dumps(out_spec))[1]
        self._outputs = pt2_file.output_names(tree, out_spec.num_leaves)
        specs = program.graph_signature.input_specs
        self._leaves = [
            (s.arg.name, getattr(s.arg, "value", None)) for s in specs if s.kind is InputKind.USER_INPUT
        ]
        names = {spec.name for spec in signature.inputs}
        self._tensors = [index for index, (name, _) in enumerate(self._leaves) if name in names]

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        self._check(inputs)
        device = self._device
        try:
            with device.running():
                leaves = [device.upload(inputs[n]) if n in inputs else value for n, value in self._leaves]
                return choose_outputs(device.download(self._forward(leaves)), outputs)
        except ModelError:
            raise
        except Exception as error:
            if str(error).startswith("Expected input at"):
                raise InputError(f"the program was exported for other sizes: {error}") from error
            raise failure(error, has_datatypes=True) from error

    def close(self) -> None:
        """Free the module."""
        self._checked_module = self._module = self._forward = _closed

    def _run(self, leaves: Sequence[Any]) -> Mapping[str, Any]:
        """Run the module on its inputs, tensors and other values, in the order of the program."""
        from torch.utils import _pytree as pytree

        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        # The hook takes longer than a small model, and depends only on the shapes.
        shapes = tuple(leaves[index].shape for index in self._tensors)
        module = self._module if shapes in self._accepted_shapes else self._checked_module
        results = pytree.tree_leaves(module(*args, **kwargs))
        if len(self._accepted_shapes) < _MAX_SHAPES:
            self._accepted_shapes.add(shapes)
        return dict(zip(self._outputs, results, strict=True))


def _check(path: Path, *, any_operator: bool) -> Signature:
    """Check an archive through PyTorch's own reader, which sees what `torch.export.load` will load.

    A member called `version` outside of the root would make that read an older layout.
    """
    import torch
    from torch.export.pt2_archive._package import PT2ArchiveReader

    with path.open("rb") as file:
        if "version" in zip_names(file):
            raise LoadError(
                f"{path} has the layout of an older torch; export it again with torch 2.9 or later"
            )
        file.seek(0)
        reader = PT2ArchiveReader(file)
        names = reader.get_file_names()
        pt2_safety.check_members(names, path)
        if [name for name in names if name.startswith("models/")] != [pt2_file.MODEL]:
            raise LoadError(f"{path} must have one program, {pt2_file.MODEL}; export it again")
        signature = pt2_file.parse(reader.read_bytes(pt2_file.MODEL), path, any_operator=any_operator)
        for table in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
            pt2_safety.check_payloads(json.loads(reader.read_bytes(table)), path)
        samples = reader.read_bytes(_SAMPLES)
    try:
        if samples:
            torch.load(io.BytesIO(samples), weights_only=True)
    except Exception as error:
        raise UnsafeFormat(f"{path}: {_SAMPLES} needs a full unpickling, which runs code: {error}") from error
    return signature


def _closed(*_args: object, **_kwargs: object) -> Any:
    raise ExecutionError("the model is closed")
