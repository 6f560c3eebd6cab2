"""Knows how a plot becomes an SVG file's bytes. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = "tableau-colorblind10"


def to_svg(draw: Callable[[Axes], None], height: float = 3.6) -> bytes:
    """What ``draw`` draws, ``height`` inches high; the same bytes every time."""
    import matplotlib
    from matplotlib import style
    from matplotlib.figure import Figure

    with (
        matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "pocketvlm"}),
        style.context(_STYLE),
    ):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        draw(figure.subplots())
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
