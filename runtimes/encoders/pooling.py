"""What makes embeddings of a transformer's output, as sentence-transformers does.

Sources: the documentation of that library's modules Pooling, Dense and Normalize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtimes.errors import LoadError
from runtimes.hugging_face.modules import Dense, Modules, Normalize, Pooling, Step

if TYPE_CHECKING:
    import torch

_SMALLEST = 1e-9
_LOWEST = -1e9


def pool(states: torch.Tensor, mask: torch.Tensor, modes: Sequence[str]) -> torch.Tensor:
    """Return one vector of each row's token vectors.

    Args:
        states: FP32 of shape [rows, tokens, size].
        mask: INT64 of shape [rows, tokens], 1 for the tokens that count.
        modes: see `Pooling`; the vectors of several are joined.
    """
    import torch

    return torch.cat([_MODES[mode](states, mask) for mode in modes], dim=1)


def _first(states: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    import torch

    positions = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), positions]


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask.unsqueeze(-1) == 0, _LOWEST).amax(dim=1)


def _sum(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (states * weights.unsqueeze(-1)).sum(dim=1)


def _total(weights: torch.Tensor) -> torch.Tensor:
    return weights.sum(dim=1, keepdim=True).clamp(min=_SMALLEST)


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.to(states.dtype)
    return _sum(states, weights) / _total(weights)


def _mean_sqrt_len(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.to(states.dtype)
    return _sum(states, weights) / _total(weights).sqrt()


def _weighted_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    import torch

    places = torch.arange(1, mask.shape[1] + 1, device=states.device, dtype=states.dtype)
    weights = mask.to(states.dtype) * places
    return _sum(states, weights) / _total(weights)


_MODES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def load_steps(modules: Modules, device: str) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Return what follows the pooling, with its weights. Raises LoadError."""
    return [_load_step(step, device) for step in modules.steps[1:]]


def _load_step(step: Step, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    if isinstance(step, Normalize):
        return lambda vectors: torch.nn.functional.normalize(vectors, dim=1)
    if isinstance(step, Pooling):
        raise LoadError("modules.json pools twice; a model pools once, after its transformer")
    return _load_dense(step, device)


def _load_dense(dense: Dense, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch
    from safetensors.torch import load_file

    try:
        weights: Mapping[str, Any] = load_file(dense.weights)
        weight = weights["linear.weight"].float()
        bias = weights.get("linear.bias")
    except Exception as error:
        raise LoadError(f"{dense.weights} has no linear layer: {error}; save the model again") from error
    if tuple(weight.shape) != (dense.out_features, dense.in_features):
        raise LoadError(
            f"{dense.weights} has a layer of shape {list(weight.shape)}, and its config.json says "
            f"[{dense.out_features}, {dense.in_features}]; save the model again"
        )
    layer = torch.nn.Linear(dense.in_features, dense.out_features, bias=bias is not None)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.float(), requires_grad=False)
    return torch.nn.Sequential(layer, getattr(torch.nn, dense.activation)()).eval().to(device)
