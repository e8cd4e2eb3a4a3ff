"""Progress that a person can watch: bars on a terminal or in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rsembed.pipelines.progress import ProgressListener, SilentProgress

if TYPE_CHECKING:
    from tqdm import tqdm as Bar


def progress_for(show: bool = True, *, short_runs: bool = False) -> ProgressListener:
    """The listener that suits where we run: bars for a terminal or a notebook, else lines; silent unless ``show``.

    ``short_runs``: lines also for a run of a few seconds.
    """
    if not show:
        return SilentProgress()
    if in_notebook():
        return BarProgress(widgets=True) if _has_widgets() else LineProgress(short_runs=short_runs)
    return BarProgress() if sys.stderr.isatty() else LineProgress(short_runs=short_runs)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (a terminal's IPython is none)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _has_widgets() -> bool:
    return importlib.util.find_spec("ipywidgets") is not None


class BarProgress:
    """A :class:`ProgressListener` with one tqdm bar per stage; stages without work get none.

    ``widgets``: the bars of a notebook instead of a terminal's.
    """

    def __init__(self, *, widgets: bool = False) -> None:
        self._widgets = widgets
        self._bars: dict[str, Bar[Any]] = {}
        self._lock = threading.Lock()

    def start(self, totals: Mapping[str, int]) -> None:
        """See :class:`ProgressListener`."""
        with self._lock:
            for stage, total in totals.items():
                if total:
                    self._bars[stage] = self._new_bar(stage, total)

    def _new_bar(self, stage: str, total: int) -> Bar[Any]:
        if self._widgets:
            from tqdm.notebook import tqdm as widget

            return widget(desc=stage, total=total, unit=" rows", smoothing=0.1)
        from tqdm import tqdm

        position = len(self._bars)
        return tqdm(desc=stage, total=total, unit=" rows", position=position, smoothing=0.1, ncols=_columns())

    def advance(self, stage: str, rows: int) -> None:
        """See :class:`ProgressListener`."""
        with self._lock:
            if stage in self._bars:
                self._bars[stage].update(rows)

    def note(self, message: str) -> None:
        """See :class:`ProgressListener`."""
        from tqdm import tqdm

        if self._widgets:
            sys.stderr.write(f"{message}\n")
        else:
            tqdm.write(message, file=sys.stderr)

    def finish(self) -> None:
        """See :class:`ProgressListener`."""
        with self._lock:
            for bar in self._bars.values():
                bar.close()
            self._bars.clear()


def _columns() -> int | None:
    """80 on a terminal that says it has no width, where a bar would be nothing; None: tqdm finds out."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else 80
    except (OSError, ValueError):
        return None


@dataclass
class _Stage:
    total: int
    done: int = 0
    said_at: float = 0.0
    said_done: int = 0


class LineProgress:
    """A :class:`ProgressListener` for logs: at most one line a stage in ``every_s`` seconds, and one at its end.

    ``short_runs``: tell also of what takes less than ``every_s``.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every_s: float = 10.0,
        short_runs: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._every_s = every_s
        self._short_runs = short_runs
        self._clock = clock
        self._began = clock()
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    def start(self, totals: Mapping[str, int]) -> None:
        """See :class:`ProgressListener`."""
        with self._lock:
            self._began = self._clock()
            self._stages = {stage: _Stage(total, said_at=self._began) for stage, total in totals.items() if total}

    def advance(self, stage: str, rows: int) -> None:
        """See :class:`ProgressListener`."""
        with self._lock:
            known = self._stages.get(stage)
            if known is None:
                return
            known.done += rows
            now = self._clock()
            ended = known.done >= known.total and (self._short_runs or now - self._began >= self._every_s)
            if ended or now - known.said_at >= self._every_s:
                self._say(stage, known, now)

    def note(self, message: str) -> None:
        """See :class:`ProgressListener`."""
        print(message, file=self._stream or sys.stderr, flush=True)

    def finish(self) -> None:
        """See :class:`ProgressListener`."""
        with self._lock:
            for stage, known in self._stages.items():
                if known.done != known.said_done and self._short_runs:
                    self._say(stage, known, self._clock())
            self._stages.clear()

    def _say(self, stage: str, known: _Stage, now: float) -> None:
        rate = known.done / max(now - self._began, 1e-3)
        left = max(0, known.total - known.done)
        text = f"{stage}: {known.done}/{known.total} rows ({known.done / known.total:.0%}), {rate:.1f} rows/s"
        if left and rate > 0:
            text += f", {duration(left / rate)} left"
        known.said_at, known.said_done = now, known.done
        self.note(text)


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``3:05 min`` or ``2:00 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
