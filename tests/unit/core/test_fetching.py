from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from rsembed.core.errors import SpecError
from rsembed.core.fetching import FramePolicy
from rsembed.core.specs import Window
from tests.builders import grid


def days(n: int) -> Window:
    return Window(dt.date(2022, 1, 1), dt.date(2022, 1, 1) + dt.timedelta(days=n))


@pytest.mark.parametrize(
    ("policy", "n_days", "frames"),
    [
        (FramePolicy(), 365, 1),
        (FramePolicy("multi", n_frames=4), 5, 4),
        (FramePolicy("auto", 28, 3), 10, 1),
        (FramePolicy("auto", 28, 3), 27, 1),
        (FramePolicy("auto", 28, 3), 56, 2),
        (FramePolicy("auto", 28, 3), 365, 3),
    ],
)
def test_frame_policy_when_asked_for_a_window_then_it_counts_its_frames(
    policy: FramePolicy, n_days: int, frames: int
) -> None:
    assert policy.count(days(n_days)) == frames


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FramePolicy("multi", n_frames=8), FramePolicy("multi", frame_days=11, max_frames=8, n_frames=8)),
        (FramePolicy(), FramePolicy("single", max_frames=4)),
        (FramePolicy("auto", 30, 12), FramePolicy("auto", 30, 12, n_frames=3)),
    ],
)
def test_frame_policy_when_two_mean_the_same_then_they_are_equal(one: FramePolicy, other: FramePolicy) -> None:
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (FramePolicy(), "one composite of the window"),
        (FramePolicy("multi", n_frames=8), "always 8"),
        (FramePolicy("auto", 30, 12, round_up=True), "one per 30 days begun, at most 12"),
        (
            FramePolicy("auto", 30, 12, bins="fixed"),
            "one per 30 days, at most 12, as bins of that length from the first day",
        ),
    ],
)
def test_frame_policy_when_told_then_in_words(policy: FramePolicy, words: str) -> None:
    assert str(policy) == words


def test_grid_when_asked_then_transform_and_bounds_agree() -> None:
    found = grid(height=4, width=6)
    assert found.transform == (10.0, 0.0, 480_000.0, 0.0, -10.0, 4_700_000.0)
    assert found.bounds == (480_000.0, 4_699_960.0, 480_060.0, 4_700_000.0)


def test_offset_when_inner_is_a_crop_then_it_gives_row_and_column() -> None:
    outer = grid(height=8, width=8)
    inner = replace(outer, x_min=outer.x_min + 20, y_max=outer.y_max - 10, height=2, width=3)
    assert outer.offset_of(inner) == (1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"epsg": 32632}, {"scale_m": 20.0}, {"x_min": 480_005.0}, {"y_max": 4_700_010.0}, {"x_min": 479_990.0},
        {"height": 9}, {"width": 9},
    ],
)  # fmt: skip
def test_offset_when_inner_is_no_crop_then_refused(changes: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="is not a crop of"):
        grid().offset_of(replace(grid(), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(10, 8), (8, 10), (7, 8), (8, 5)])
def test_centre_crop_when_margins_are_not_whole_then_refused(height: int, width: int) -> None:
    with pytest.raises(SpecError, match="is not a central crop"):
        grid().centre_crop(height, width)
