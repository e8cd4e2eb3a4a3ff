from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import SpecError
from rsembed.core.fetching import FramePolicy
from rsembed.core.specs import Window
from rsembed.tools.temporal import (
    around,
    bins_in_hand,
    equal_bins,
    frame_bins,
    last_complete_year,
    median_date,
    parse_days,
)
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


POLICIES = {
    "28 days, equal": FramePolicy("auto", frame_days=28, max_frames=4),
    "30 days begun, equal": FramePolicy("auto", frame_days=30, max_frames=12, round_up=True),
    "30 days, fixed": FramePolicy("auto", frame_days=30, max_frames=12, bins="fixed"),
    "30 days begun, fixed": FramePolicy("auto", frame_days=30, max_frames=12, bins="fixed", round_up=True),
    "one": FramePolicy(),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@given(days=st.integers(1, 3653))
def test_frame_bins_when_one_day_to_ten_years_then_they_follow_the_policy(policy: FramePolicy, days: int) -> None:
    window = Window(YEAR.start, YEAR.start + dt.timedelta(days=days))
    bins = frame_bins(window, policy)
    assert len(bins) == policy.count(window)
    assert 1 <= len(bins) <= policy.max_frames
    assert bins[0].start == window.start
    assert all(a.end == b.start for a, b in zip(bins, bins[1:], strict=False))
    lost = (window.end - bins[-1].end).days
    lengths = [b.days for b in bins]
    if policy.fixed_bins(window):
        assert set(lengths[:-1]) == {policy.frame_days}
        assert lengths[-1] <= policy.frame_days
        assert 0 <= lost < policy.frame_days
        assert lost == 0 or lengths[-1] == policy.frame_days
    else:
        assert lost == 0
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("name", "days", "lengths"),
    [
        ("28 days, equal", 1, [1]),
        ("28 days, equal", 365, [91, 91, 91, 92]),
        ("30 days begun, equal", 92, [23, 23, 23, 23]),
        ("30 days begun, equal", 31, [15, 16]),
        ("30 days, fixed", 29, [29]),
        ("30 days, fixed", 45, [45]),
        ("30 days, fixed", 92, [30, 30, 30]),
        ("30 days begun, fixed", 92, [30, 30, 30, 2]),
        ("30 days begun, fixed", 30, [30]),
        ("30 days, fixed", 365, [30] * 12),
        ("30 days begun, fixed", 389, [30] * 12),
        ("30 days begun, fixed", 390, [32, 33] * 6),
        ("30 days, fixed", 3652, [304, 304, 305] * 4),
    ],
)
def test_frame_bins_when_computed_by_hand_then_the_same(name: str, days: int, lengths: list[int]) -> None:
    bins = frame_bins(Window(YEAR.start, YEAR.start + dt.timedelta(days=days)), POLICIES[name])
    assert [b.days for b in bins] == lengths


def test_bins_in_hand_when_as_many_as_wanted_then_the_models_own() -> None:
    window, policy = Window(YEAR.start, YEAR.start + dt.timedelta(days=92)), POLICIES["30 days begun, fixed"]
    assert bins_in_hand(window, policy, 4) == frame_bins(window, policy)
    assert bins_in_hand(window, policy, 3) == equal_bins(window, 3)


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
