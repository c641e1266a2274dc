"""A model of transformers in this process, whatever it does: the checks and errors around its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from runtimes.base import Array, Signature
from runtimes.engines.task import Task
from runtimes.errors import ExecutionError, ModelError
from runtimes.input_check import InputCheck, unknown_output
from runtimes.torch_tensors import failure

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Makes all outputs of inputs that fit the signature."""


class TransformersModel:
    """A model with its run."""

    platform = "transformers_safetensors"
    # Measured on all-MiniLM-L6 with texts of 6 to 35 words: with 16 callers, 1.8 times the
    # embeddings for each second of a CPU, and no loss for a lone caller.
    pays_to_batch = True

    def __init__(self, signature: Signature, device: str, run: Run) -> None:
        self.signature = signature
        self.device = device
        self._run = run
        self._check = InputCheck(signature)
        self._outputs = tuple(spec.name for spec in signature.outputs)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        import torch

        self._check(inputs)
        for name in outputs:
            if name not in self._outputs:
                raise unknown_output(name, self._outputs)
        try:
            with torch.inference_mode():
                results = self._run(inputs)
        except ModelError:
            raise
        except Exception as error:
            raise failure(error) from error
        return {name: results[name] for name in outputs or self._outputs}

    def close(self) -> None:
        """Free the model."""
        self._run = _closed


class _TextRun(Protocol):
    """The run of a model of texts."""

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...

    def text_of(self, tokens: Sequence[int]) -> str: ...


class TransformersTextModel(TransformersModel):
    """A model that makes embeddings or scores, see `TextModel`.

    Args:
        dimensions: how many numbers an embedding has; 0 where there are none.
        shorter: the lengths to which an embedding may be cut; None: to any.
    """

    def __init__(
        self,
        signature: Signature,
        device: str,
        run: _TextRun,
        task: Task,
        dimensions: int = 0,
        shorter: frozenset[int] | None = frozenset(),
    ) -> None:
        super().__init__(signature, device, run)
        self.tasks = frozenset((task,))
        self.dimensions = dimensions
        self._shorter = shorter
        self._reader: _TextRun | None = run

    def may_shorten(self, dimensions: int) -> bool:
        """Tell whether the first `dimensions` numbers are an embedding; see `TextModel`."""
        return 0 < dimensions < self.dimensions and (self._shorter is None or dimensions in self._shorter)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; see `TextModel`."""
        if self._reader is None:
            raise ExecutionError("the model is closed")
        return self._reader.text_of(tokens)

    def close(self) -> None:
        """Free the model."""
        super().close()
        self._reader = None


def _closed(_inputs: Mapping[str, Array]) -> dict[str, Array]:
    raise ExecutionError("the model is closed")
