from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import SpecError
from rsembed.core.fetching import FramePolicy
from rsembed.core.specs import Window
from rsembed.tools.temporal import around, equal_bins, frame_bins, last_complete_year, median_date, parse_days
from tests.builders import YEAR


@given(st.integers(1, 800), st.integers(1, 40))
def test_equal_bins_when_cut_then_they_cover_the_window_without_gaps(days: int, n: int) -> None:
    window = Window(dt.date(2020, 1, 1), dt.date(2020, 1, 1) + dt.timedelta(days=days))
    if n > days:
        with pytest.raises(SpecError, match=f"{days} days cannot be cut into {n} frames"):
            equal_bins(window, n)
        return
    bins = equal_bins(window, n)
    assert len(bins) == n
    assert (bins[0].start, bins[-1].end) == (window.start, window.end)
    assert all(a.end == b.start for a, b in zip(bins, bins[1:], strict=False))
    assert max(b.days for b in bins) - min(b.days for b in bins) <= 1


def test_frame_bins_when_the_policy_is_single_then_the_window_itself() -> None:
    assert frame_bins(YEAR, FramePolicy()) == (YEAR,)


def test_last_complete_year_when_it_is_new_years_eve_then_the_year_before() -> None:
    assert last_complete_year(dt.date(2022, 12, 31)) == Window(dt.date(2021, 1, 1), dt.date(2022, 1, 1))


def test_around_when_45_days_then_half_open_and_91_days_long() -> None:
    window = around(dt.date(2022, 6, 15), 45)
    assert window == Window(dt.date(2022, 5, 1), dt.date(2022, 7, 31))
    assert window.days == 91
    assert around(dt.date(2022, 6, 15), 0).days == 1


def test_around_when_days_are_negative_then_refused() -> None:
    with pytest.raises(SpecError, match="cannot be negative"):
        around(dt.date(2022, 6, 15), -1)


@pytest.mark.parametrize("days", [800_000, 10**12])
def test_around_when_days_leave_the_calendar_then_refused(days: int) -> None:
    with pytest.raises(SpecError, match="leave the calendar"):
        around(dt.date(2022, 6, 15), days)


@pytest.mark.parametrize(("text", "days"), [("45d", 45), (" 7D ", 7), ("0", 0)])
def test_parse_days_when_readable_then_days(text: str, days: int) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5d", "4w", "²"])
def test_parse_days_when_unreadable_then_refused(text: str) -> None:
    with pytest.raises(SpecError, match="a number of days such as 45d"):
        parse_days(text)


def test_median_date_when_even_then_the_middle_rounded_down() -> None:
    days = [dt.date(2022, 1, d) for d in (9, 1, 2, 5)]
    assert median_date(days) == dt.date(2022, 1, 3)
    assert median_date(days[:3]) == dt.date(2022, 1, 2)
