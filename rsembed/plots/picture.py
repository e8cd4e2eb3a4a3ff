"""The figure that all our pictures are; loaded with matplotlib, when the first one is drawn."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

TIGHT: Any = {"bbox_inches": "tight", "pad_inches": 0.12}
"""How all pictures are saved: nothing cut off, little margin."""


def fixed_ids() -> contextlib.AbstractContextManager[None]:
    """SVG files name their parts; inside this context the same picture gives the same names."""
    return mpl.rc_context({"svg.hashsalt": "rsembed"})


class Picture(Figure):
    """A figure that pyplot knows nothing of: it draws into files, and shows itself in a notebook."""

    def __init__(self, width_in: float, height_in: float) -> None:
        super().__init__(figsize=(width_in, height_in), dpi=130, layout="constrained", facecolor="white")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        held = io.BytesIO()
        self.savefig(held, format="png", **TIGHT)
        return held.getvalue()


class DegreeFormatter(Formatter):
    """Degrees with a hemisphere, all ticks of an axis to the same number of digits. ``ends``: ``EW`` or ``NS``."""

    def __init__(self, ends: str) -> None:
        self._ends = ends

    def __call__(self, x: float, pos: int | None = None) -> str:
        """One tick by itself."""
        del pos
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """All ticks of the axis."""
        shown = [float(value) for value in values]
        if self._ends == "EW":
            shown = [(value + 180) % 360 - 180 for value in shown]
        digits = next((n for n in range(6) if all(abs(round(v, n) - v) < 1e-9 for v in shown)), 6)
        return [f"{abs(v):.{digits}f}°{'' if v in (0, -180) else self._ends[int(v < 0)]}" for v in shown]


def degree_locator() -> MaxNLocator:
    """Ticks at round numbers."""
    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
