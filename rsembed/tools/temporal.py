"""Windows, bins and dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from rsembed.core.errors import SpecError
from rsembed.core.fetching import FramePolicy
from rsembed.core.specs import Window

_LONGEST_YEAR = 366


def equal_bins(window: Window, n_bins: int) -> tuple[Window, ...]:
    """``window`` cut into ``n_bins`` parts with bounds ``start + floor(days * i / n_bins)``.

    Raises SpecError when the window has fewer days than bins.
    """
    if n_bins < 1 or n_bins > window.days:
        raise SpecError(f"a window of {window.days} days cannot be cut into {n_bins} frames; widen the window")
    bounds = [window.start + dt.timedelta(days=window.days * i // n_bins) for i in range(n_bins + 1)]
    return tuple(Window(a, b) for a, b in zip(bounds, bounds[1:], strict=False))


def frame_bins(window: Window, policy: FramePolicy) -> tuple[Window, ...]:
    """The bins that ``policy`` wants of ``window``, one a frame, in order; see :class:`FramePolicy`.

    Raises SpecError when the window has fewer days than frames, or its year is none of the policy's.
    """
    if policy.mode == "annual":
        return (covered_year(window, policy),)
    count = policy.count(window)
    if not policy.fixed_bins(window):
        return equal_bins(window, count)
    bounds = [window.start + dt.timedelta(days=policy.frame_days * i) for i in range(count)]
    ends = [*bounds[1:], min(window.end, bounds[-1] + dt.timedelta(days=policy.frame_days))]
    return tuple(Window(a, b) for a, b in zip(bounds, ends, strict=True))


def covered_year(window: Window, policy: FramePolicy) -> Window:
    """The calendar year that stands for ``window``; SpecError where the product has none such."""
    first, last = min(policy.years), max(policy.years)
    there = f"{first}" if first == last else f"{first} to {last}"
    if policy.year_of == "middle" and window.days > _LONGEST_YEAR:
        raise SpecError(
            f"the window {window} is longer than a year, and embeddings are there by the year ({there}); name one year"
        )
    year = (window.midpoint if policy.year_of == "middle" else window.start).year
    if year not in policy.years:
        raise SpecError(f"the window {window} stands for {year}, but there are embeddings for {there} only")
    return Window(dt.date(year, 1, 1), dt.date(year + 1, 1, 1))


def bins_in_hand(window: Window, policy: FramePolicy, n_frames: int) -> tuple[Window, ...]:
    """The bins of ``n_frames`` that somebody has already: the policy's own where they are as many, else equal parts."""
    return frame_bins(window, policy) if policy.count(window) == n_frames else equal_bins(window, n_frames)


def last_complete_year(today: dt.date) -> Window:
    """The window used when none is given: the calendar year before ``today``'s."""
    return Window(dt.date(today.year - 1, 1, 1), dt.date(today.year, 1, 1))


def around(day: dt.date, days: int) -> Window:
    """``[day - days, day + days + 1)``: ``days`` whole days on either side of ``day``."""
    if days < 0:
        raise SpecError(f"the days around a date cannot be negative, got {days}")
    try:
        return Window(day - dt.timedelta(days=days), day + dt.timedelta(days=days + 1))
    except OverflowError as exc:
        raise SpecError(f"{days} days around {day} leave the calendar (years 1 to 9999)") from exc


def parse_days(text: str) -> int:
    """Days out of ``45d`` or ``45``."""
    digits = text.strip().lower().removesuffix("d")
    if not digits.isdecimal():
        raise SpecError(f"a number of days such as 45d was expected, got {text!r}")
    return int(digits)


def median_date(days: Sequence[dt.date]) -> dt.date:
    """Median of ``days``; the earlier of the middle two's mid-point, rounded down, when even."""
    ordered = sorted(days)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return ordered[middle - 1] + (ordered[middle] - ordered[middle - 1]) // 2
