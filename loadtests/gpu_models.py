"""The models of the measurement on a GPU, made here: one of ONNX, one of PyTorch, and a hungry one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from loadtests import models
from loadtests.models import Array


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model: its file in the kit, and one row of input."""

    name: str
    runtime: str
    path: str
    data: bytes
    inputs: Mapping[str, Array]
    output: str = ""
    """The name of its output, which has the shape of the input; "" where its file says it."""

    @property
    def stated(self) -> dict[str, object]:
        """What the config says of the tensors, so that calls can be batched: TorchScript does not say it."""
        if not self.output:
            return {}
        shape = [-1, *self.inputs["input"].shape[1:]]
        tensor = {"datatype": "FP32", "shape": shape}
        return {"inputs": [{"name": "input", **tensor}], "outputs": [{"name": self.output, **tensor}]}


class Layers(torch.nn.Module):
    """Layers of equal width, as in the middle of a language model."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            *(
                torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.LayerNorm(width))
                for _ in range(depth)
            )
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - what calls name it
        return self.layers(input)  # type: ignore[no-any-return]


class Hungry(torch.nn.Module):
    """Makes of each row a table of all its pairs, several times: 16 bytes for each pair of numbers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - what calls name it
        pairs = input.unsqueeze(2) * input.unsqueeze(1)
        return ((pairs + 1.0).sqrt() * pairs).sum(2)


def onnx_model(*, is_small: bool) -> GpuModel:
    """Make convolutions over an image; where it is to be small, the sample of flowers."""
    model = models.flowers() if is_small else models.image()
    return GpuModel("onnx", "onnx", "model/model.onnx", model.onnx, {"input": model.inputs[0]})


def torch_model(seed: int, *, is_small: bool) -> GpuModel:
    """Make layers with random weights, as TorchScript."""
    width, depth = (32, 2) if is_small else (2048, 12)
    torch.manual_seed(seed)
    row = np.random.default_rng(1).standard_normal((1, width)).astype(np.float32)
    return GpuModel(
        "torch", "torchscript", "model/model.pt", _script(Layers(width, depth)), {"input": row}, "output_0"
    )


def hungry_model() -> GpuModel:
    """Make a model of which a call of many rows needs more memory than any GPU has."""
    row = np.ones((1, 1024), np.float32)
    return GpuModel("hungry", "torchscript", "model/model.pt", _script(Hungry()), {"input": row}, "output_0")


def _script(module: torch.nn.Module) -> bytes:
    # TorchScript is saved by the same deprecated functions that its files are read with.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        data: bytes = torch.jit.script(module.eval()).save_to_buffer()  # type: ignore[no-untyped-call]
    return data
