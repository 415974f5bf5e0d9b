"""Line charts as SVG, readable on a light and on a dark page, and the same for the same figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import matplotlib as mpl
from cycler import cycler
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

Points: TypeAlias = Sequence[tuple[float, float]]

# Neither black nor white, for pages in both themes. The salt makes the ids of the SVG reproducible.
_GREY: Final = "#7f8896"
_COLOURS: Final = ("#3b82f6", "#e08a1e", "#10a37f", "#a45ee5")
_STYLE: Final[Any] = {
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.prop_cycle": cycler(color=_COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "grid.alpha": 0.3,
    "grid.color": _GREY,
    "legend.frameon": False,
    "legend.labelcolor": _GREY,
    "svg.fonttype": "none",
    "svg.hashsalt": "openrouter_async",
    "text.color": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
}


@attrs.frozen(kw_only=True)
class Chart:
    """A chart of lines over one axis.

    Attributes:
        title: The title of the plot.
        x: The label of the horizontal axis.
        y: The label of the vertical axis, which starts at 0.
        lines: The points of each line.
        logarithmic: Whether the horizontal axis is.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    logarithmic: bool = False

    def svg(self) -> str:
        """The picture."""
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(7, 3.5), layout="constrained")
            FigureCanvasSVG(figure)
            axes = figure.subplots()
            for name, points in self.lines.items():
                axes.plot(*zip(*points, strict=True), label=name, marker="o", markersize=4)
            axes.set(title=self.title, xlabel=self.x, ylabel=self.y, ylim=(0, None))
            if self.logarithmic:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.grid(visible=True)
            if len(self.lines) > 1:
                axes.legend()
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        # Without the blanks at the ends of lines, which version control frowns upon.
        return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
