"""A picture of starts: time and memory by the number of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtests.contenders import KITSERVE

# Colours that show well on white and on black.
_OURS, _OTHERS, _TEXT = "#2f81f7", "#8b949e", "#7d8590"


@dataclass(frozen=True, slots=True)
class Curve:
    """Of one server, by the number of models."""

    models: tuple[float, ...]
    first_seconds: tuple[float, ...]
    all_seconds: tuple[float, ...]
    pss_mib: tuple[float, ...]


def draw(curves: Mapping[str, Curve], file: Path) -> None:
    """Draw the curves of servers into `file`, whose suffix names the format."""
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "kitserve"}):
        figure = Figure(figsize=(8.5, 2.8), layout="constrained")
        times, memory = figure.subplots(1, 2)
        for name, curve in curves.items():
            colour = _OURS if name == KITSERVE else _OTHERS
            line = {"color": colour, "marker": "o", "markersize": 3}
            times.plot(curve.models, curve.all_seconds, label=f"{name}: all answer", **line)
            times.plot(
                curve.models, curve.first_seconds, linestyle="--", label=f"{name}: first answer", **line
            )
            memory.plot(curve.models, curve.pss_mib, label=name, **line)
        _finish(times, "seconds from the start")
        _finish(memory, "PSS of all processes, MiB")
        figure.savefig(file, transparent=True, metadata={"Date": None} if file.suffix == ".svg" else None)


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", color=_TEXT, fontsize=8)
    axes.set_xlabel("models", color=_TEXT)
    axes.set_ylim(bottom=0)
    axes.tick_params(length=0, colors=_TEXT)
    axes.legend(frameon=False, labelcolor=_TEXT)
    axes.set_frame_on(False)
    axes.grid(visible=True, color=_OTHERS, alpha=0.25)
