"""Pictures as PNG, without a display. The same drawing gives the same bytes, whatever the user's settings of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_png(draw: Callable[[Figure], None], size: tuple[float, float], dpi: int) -> bytes:
    """What `draw` puts on an empty figure of `size` inches."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})  # else matplotlib's version stands in it
    return content.getvalue()


def log_scale_in_numbers(axes: Axes) -> None:
    """A logarithmic y axis for what is drawn, whose ticks say 0.6 and not 6 x 10^-1, and are enough of them to read values from."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    within_a_decade, subs = high < 10 * low, (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
    axes.yaxis.set_major_locator(MaxNLocator(6) if within_a_decade else LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
