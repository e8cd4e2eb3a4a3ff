from __future__ import annotations

import io

from rsembed.pipelines.progress import SilentProgress
from rsembed.progress_bars import BarProgress, LineProgress, duration, progress_for


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_when_rows_come_fast_then_one_line_in_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = LineProgress(stream, clock=clock)
    lines.start({"fetch": 100, "embed": 0})
    for second in range(1, 26):
        clock.now = float(second)
        lines.advance("fetch", 2)
        lines.advance("embed", 2)
    lines.finish()
    said = stream.getvalue().splitlines()
    assert said[0] == "fetch: 20/100 rows (20%), 2.0 rows/s, 40 s left"
    assert len(said) == 3  # at 10 s, at 20 s, and the end


def test_lines_when_a_stage_ends_then_it_is_told_once() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = LineProgress(stream, clock=clock)
    lines.start({"fetch": 4})
    clock.now = 2.0
    lines.advance("fetch", 4)
    lines.finish()
    assert stream.getvalue().splitlines() == ["fetch: 4/4 rows (100%), 2.0 rows/s"]


def test_bars_when_used_then_they_count_and_close() -> None:
    bars = BarProgress()
    bars.start({"fetch": 3, "embed": 0})
    bars.advance("fetch", 3)
    bars.advance("embed", 3)
    bars.note("a line")
    bars.finish()
    bars.finish()


def test_progress_for_when_not_shown_then_silent() -> None:
    assert isinstance(progress_for(show=False), SilentProgress)


def test_duration_when_printed_then_for_people() -> None:
    assert [duration(s) for s in (4.2, 185, 7260)] == ["4 s", "3:05 min", "2:01 h"]
