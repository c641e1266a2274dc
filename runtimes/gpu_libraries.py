"""What the engines here were built for, and the CUDA and cuDNN that are installed: found without a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from runtimes.cuda import driver_version

_CUDA_PROVIDER = "CUDAExecutionProvider"
# The packages on PyPI that carry CUDA's libraries, the newest first.
_PACKAGES = {
    "CUDA": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
    "cuDNN": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
}


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that computes on GPUs; "" for what it does not tell."""

    name: str
    version: str
    cuda: str
    """The CUDA that it was built for, such as "13.0"; "" where it was built without."""
    providers: tuple[str, ...] = ()
    """The execution providers of ONNX Runtime."""
    cudnn: str = ""
    """The cuDNN that it was built for."""

    @property
    def can_use_gpus(self) -> bool:
        """Whether it was built with CUDA."""
        return bool(self.cuda) and (not self.providers or _CUDA_PROVIDER in self.providers)


def engines() -> tuple[Engine, ...]:
    """Return the engines that are installed; each is imported, which takes seconds."""
    return tuple(_engines())


def libraries() -> Mapping[str, str]:
    """Return the versions of CUDA and cuDNN in the packages that are installed."""
    return {name: found for name, packages in _PACKAGES.items() if (found := _installed(packages))}


def wanted_and_found(wanted: Mapping[str, str]) -> str:
    """Return which versions an engine wants, by library, and which the driver and packages give.

    As in "wants CUDA 13.0 and cuDNN 9; found a driver for CUDA 12.4, CUDA 12.8.90, no package of cuDNN".
    """
    names = " and ".join(f"{name} {number}" for name, number in wanted.items() if number)
    driver, found = driver_version(), libraries()
    packages = [f"{name} {found[name]}" if name in found else f"no package of {name}" for name in _PACKAGES]
    supported = f"a driver for CUDA {driver}" if driver else "no driver"
    return f"wants {names or 'CUDA'}; found {', '.join((supported, *packages))}"


def cudnn_version() -> str:
    """Return the cuDNN that PyTorch was built for, "" without CUDA."""
    import torch

    if torch.version.cuda is None or not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        return ""
    number = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    return f"{number // 10_000}.{number % 10_000 // 100}.{number % 100}"


def _engines() -> Iterator[Engine]:
    try:
        import onnxruntime as ort
    except ImportError:
        pass
    else:
        providers = tuple(ort.get_available_providers())
        built = str(getattr(ort, "cuda_version", "") or "")
        yield Engine("ONNX Runtime", ort.__version__, built, providers)
    try:
        import torch
    except ImportError:
        return
    yield Engine("PyTorch", torch.__version__, torch.version.cuda or "", cudnn=cudnn_version())


def _installed(packages: tuple[str, ...]) -> str:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
