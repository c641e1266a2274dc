"""What each release of ONNX Runtime reads, and what to do about a file that it refuses.

A file states the version of its format (the IR version) and of each operator set that it uses (the opset).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from runtimes.errors import LoadError
from runtimes.protobuf import Malformed, Reader, mapped


@dataclass(frozen=True, slots=True)
class Release:
    """A release of ONNX Runtime, and the newest versions that it reads."""

    number: tuple[int, int]
    ir: int
    opset: int
    """Of the domain ai.onnx."""
    ml_opset: int
    """Of the domain ai.onnx.ml."""

    def __str__(self) -> str:
        return ".".join(map(str, self.number))


# Measured: each release on PyPI from 1.20 to 1.32 was given models of rising versions. A release that is not
# listed reads what the one before it reads. The project's own table is often behind:
# https://onnxruntime.ai/docs/reference/compatibility.html
RELEASES = (
    Release((1, 20), ir=10, opset=21, ml_opset=5),
    Release((1, 21), ir=10, opset=22, ml_opset=5),
    Release((1, 23), ir=11, opset=23, ml_opset=5),
    Release((1, 24), ir=13, opset=25, ml_opset=5),
    Release((1, 25), ir=13, opset=26, ml_opset=5),
    Release((1, 32), ir=14, opset=28, ml_opset=5),
)

_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")
_NEWER_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEWER_OPSET = re.compile(
    r"Opset (\d+) is under development.*?(?:for domain (\S+) is till opset (\d+))", re.DOTALL
)
_LOCALE = re.compile(r"Failed to construct locale with name:(.*?):")
# The name comes from the model and goes into a command.
_LOCALE_NAME = re.compile(r"([a-z]{2,3}_[A-Z]{2})(?:\.([A-Za-z0-9-]{1,20}))?")
_UNKNOWN_OPERATOR = re.compile(r"No Op registered for (\S{1,80}) with domain_version of (\d+)")
_NO_KERNEL = re.compile(r"Could not find an implementation for (\S{1,80}) node")


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions that a file states; None where it states none."""

    ir: int | None
    opset: int | None
    ml_opset: int | None


def versions(path: Path) -> Versions:
    """Return the versions that the ONNX file at `path` states. Raises LoadError where it is broken."""
    try:
        with mapped(path) as data:
            reader = Reader(data)
            opsets: dict[str, int | None] = {}
            for _, span in reader.messages(reader.whole, 8):
                opsets[reader.string(span, 1)] = reader.integer(span, 2)
            ir = reader.integer(reader.whole, 1)
    except Malformed as error:
        raise LoadError(f"{path} is not a usable ONNX model: {error}") from error
    return Versions(ir, opsets.get("", opsets.get("ai.onnx")), opsets.get("ai.onnx.ml"))


def check(path: Path, installed: str | None = None) -> None:
    """Raise LoadError for a file that is too new for the ONNX Runtime that is installed.

    `installed` is its version; by default that of the package. Of one that is newer than all of `RELEASES`
    nothing is known.
    """
    installed = installed or _installed()
    release = None if installed is None else _release(installed)
    if release is None:
        return
    stated = versions(path)
    if stated.ir is not None and stated.ir > release.ir:
        raise LoadError(
            f"{path} {_too_new_ir(stated.ir, release.ir)} (ONNX Runtime {installed} is installed)"
        )
    if os.environ.get("ALLOW_RELEASED_ONNX_OPSET_ONLY") == "0":
        return
    for domain, opset, limit in (
        ("ai.onnx", stated.opset, release.opset),
        ("ai.onnx.ml", stated.ml_opset, release.ml_opset),
    ):
        if opset is not None and opset > limit:
            text = _too_new_opset(domain, opset, limit)
            raise LoadError(f"{path} {text} (ONNX Runtime {installed} is installed)")


def advice(error: str) -> str | None:
    """Return what an error of ONNX Runtime means and what to do, to follow the file's name.

    None where that is not known.
    """
    if match := _LOCALE.search(error):
        return _missing_locale(match[1])
    if match := _NEWER_IR.search(error):
        return _too_new_ir(int(match[1]), int(match[2]))
    if match := _NEWER_OPSET.search(error):
        return _too_new_opset(match[2], int(match[1]), int(match[3]))
    if match := _UNKNOWN_OPERATOR.search(error):
        return (
            f"uses the operator {match[1]}, which opset {match[2]} does not have: export it again, with an "
            "opset that has it or without the operator"
        )
    if match := _NO_KERNEL.search(error):
        return (
            f"uses the operator {match[1]} in a form that this ONNX Runtime cannot compute: install a newer "
            "onnxruntime, or export it again with a lower opset or as FP32"
        )
    return None


def _missing_locale(name: str) -> str:
    parts = _LOCALE_NAME.fullmatch(name)
    if parts is None:
        return (
            "needs a locale that this machine does not have: install it, or export it with another `locale`"
        )
    command = f"apt-get install locales && localedef -i {parts[1]} -f {parts[2] or 'UTF-8'} {name}"
    return (
        f"normalises text by the locale {name}, which this machine does not have: install it, on Debian and "
        f"Ubuntu with `{command}`"
    )


def _too_new_ir(ir: int, limit: int) -> str:
    return (
        f"has the IR version {ir}, and up to {limit} can be read: {_upgrade(_first(ir=ir))}, or lower the "
        f"version in the file (`ir_version = {limit}` between onnx.load and onnx.save)"
    )


def _too_new_opset(domain: str, opset: int, limit: int) -> str:
    first = _first(ml_opset=opset) if domain == "ai.onnx.ml" else _first(opset=opset)
    return (
        f"uses opset {opset} of {domain}, and up to {limit} can be read: {_upgrade(first)}, or export it "
        f"again with opset {limit} (`opset_version` of torch.onnx.export, `target_opset` of skl2onnx)"
    )


def _upgrade(first: Release | None) -> str:
    if first is None:
        return f"no onnxruntime up to {RELEASES[-1]} is known to read it, so install a newer one"
    return f"install onnxruntime {first} or newer"


def _first(ir: int = 0, opset: int = 0, ml_opset: int = 0) -> Release | None:
    """Return the first release that reads these versions."""
    for release in RELEASES:
        if release.ir >= ir and release.opset >= opset and release.ml_opset >= ml_opset:
            return release
    return None


def _release(version: str) -> Release | None:
    """Return what a version of ONNX Runtime reads; None where that is not known."""
    match = re.match(r"(\d+)\.(\d+)", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    if not RELEASES[0].number <= number <= RELEASES[-1].number:
        return None
    return [release for release in RELEASES if release.number <= number][-1]


def _installed() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
