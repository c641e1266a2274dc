"""The results as a picture: for each workload, calls a second and CPU time a call, by contender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtests.contenders import BATCHING, KITSERVE
from loadtests.table import Results, number

# Seen well on white and on black.
_OURS, _OTHERS, _TEXT = "#2f81f7", "#8b949e", "#7d8590"
_BAR_INCHES = 0.21
_TITLE_INCHES = 0.62
_ROOM_FOR_LABELS = 1.18


def draw(found: Sequence[Results], connections: int, file: Path) -> None:
    """Write the picture at one number of connections; the file's ending says its format."""
    shown = [(each.title, _bars(each, connections)) for each in found]
    shown = [(title, bars) for title, bars in shown if bars]
    heights = [_TITLE_INCHES + _BAR_INCHES * len(bars) for _, bars in shown]
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "kitserve"}):
        figure = Figure(figsize=(8.5, sum(heights)), layout="constrained")
        grid = figure.subplots(len(shown), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (title, bars), (rates, costs) in zip(shown, grid, strict=True):
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


def _bars(found: Results, connections: int) -> list[tuple[str, float, float]]:
    names = dict.fromkeys(name for name, _ in found.figures)
    return [
        (name, figures.rate, figures.cpu_ms)
        for name in names
        if (figures := found.find(name, connections)) is not None
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
