"""A picture of the results: for each workload, calls a second and CPU time of a call, by contender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtests.contenders import BATCHING, KITSERVE
from loadtests.table import Results, number

# Colours that show well on white and on black.
_OURS, _OTHERS, _TEXT = "#2f81f7", "#8b949e", "#7d8590"
_BAR_INCHES = 0.21
_TITLE_INCHES = 0.62
_ROOM_FOR_LABELS = 1.18


def draw(results: Sequence[Results], connections: int, file: Path) -> None:
    """Draw the results at one number of connections into `file`, whose suffix names the format."""
    panels = [(result.title, _bars(result, connections)) for result in results]
    panels = [(title, bars) for title, bars in panels if bars]
    heights = [_TITLE_INCHES + _BAR_INCHES * len(bars) for _, bars in panels]
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "kitserve"}):
        figure = Figure(figsize=(8.5, sum(heights)), layout="constrained")
        grid = figure.subplots(len(panels), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (title, bars), (rates, costs) in zip(panels, grid, strict=True):
            names = [name for name, _, _ in bars]
            _panel(
                rates,
                f"{title}\nrequests/s at {connections} connections",
                names,
                [rate for _, rate, _ in bars],
            )
            _panel(costs, "\nCPU seconds per 1,000 requests", names, [cpu for _, _, cpu in bars])
            costs.set_yticklabels([])
        figure.savefig(file, transparent=True, metadata={"Date": None} if file.suffix == ".svg" else None)


def _bars(result: Results, connections: int) -> list[tuple[str, float, float]]:
    names = dict.fromkeys(name for name, _ in result.figures)
    return [
        (name, figures.rate, figures.cpu_ms)
        for name in names
        if (figures := result.find(name, connections)) is not None
    ]


def _panel(axes: Any, title: str, names: Sequence[str], values: Sequence[float]) -> None:
    colours = [_OURS if name in (KITSERVE, BATCHING) else _OTHERS for name in names]
    bars = axes.barh(names, values, color=colours, height=0.72)
    axes.bar_label(bars, [number(value) for value in values], padding=3, color=_TEXT)
    axes.set_title(title, loc="left", color=_TEXT, fontsize=8)
    axes.set_xlim(0, max(values) * _ROOM_FOR_LABELS)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.tick_params(length=0, colors=_TEXT)
    axes.set_frame_on(False)
