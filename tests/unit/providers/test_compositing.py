"""Layers into frames."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np

from rsembed.core.specs import Window
from rsembed.providers.compositing import Layer, frame_of, lay_under, median, merge_datatakes, mosaic_order
from rsembed.providers.scenes import Scene

WINDOW = Window(dt.date(2020, 1, 1), dt.date(2021, 1, 1))


def scene(name: str = "a", day: int = 1, *, platform: str = "", cloud: float | None = 0, baseline: float = 0) -> Scene:
    time = dt.datetime(2020, 1, day, 10, tzinfo=dt.UTC)
    return Scene(name, "c", time, (0, 0, 1, 1), {}, cloud_pct=cloud, platform=platform, baseline=baseline)


def layer(pixels: list[float | None], of: Scene) -> Layer:
    values = np.array([[[0 if p is None else p for p in pixels]]], np.float32)
    return Layer(values, np.array([[[p is not None for p in pixels]]]), (of,))


def pixels_of(found: Layer | None) -> list[float | None]:
    assert found is not None
    pairs = zip(found.values_chw[0, 0].tolist(), found.valid_chw[0, 0].tolist(), strict=True)
    return [value if valid else None for value, valid in pairs]


def test_median_when_counts_differ_by_pixel_then_each_has_its_own() -> None:
    layers = [layer([1, 1, None, None], scene("a", 1)), layer([4, None, None, 7], scene("b", 2))]
    layers.append(layer([2, 3, None, None], scene("c", 3)))
    assert pixels_of(median(layers)) == [2, 2, None, 7]


def test_median_when_many_random_layers_then_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 5000, (9, 2, 6, 7)).astype(np.float32)
    valid = rng.random(values.shape) > 0.4
    layers = [
        Layer(np.where(m, v, 0), m, (scene(str(i), i + 1),)) for i, (v, m) in enumerate(zip(values, valid, strict=True))
    ]
    found = median(layers)
    expected = np.ma.median(np.ma.array(values.astype(np.float64), mask=~valid), axis=0)
    assert found is not None
    np.testing.assert_array_equal(found.valid_chw, ~np.ma.getmaskarray(expected))
    np.testing.assert_allclose(found.values_chw, expected.filled(0), rtol=1e-6)


def test_merge_datatakes_when_tiles_overlap_then_newest_baseline_shows_and_counts_once() -> None:
    old = layer([1, 1, None], scene("a", baseline=4.0))
    new = layer([None, 5, 5], scene("b", baseline=5.0))
    merged = merge_datatakes([old, new])
    assert [pixels_of(m) for m in merged] == [[1, 5, 5]]
    assert [s.id for s in merged[0].scenes] == ["b", "a"]


def test_merge_datatakes_when_order_of_input_changes_then_result_does_not() -> None:
    layers = [layer([1, 1], scene("a")), layer([2, 2], scene("b")), layer([3, None], scene("c", 2))]
    expected = [pixels_of(m) for m in merge_datatakes(layers)]
    assert expected == [[1, 1], [3, None]]
    assert [pixels_of(m) for m in merge_datatakes(layers[::-1])] == expected


def test_merge_datatakes_when_tile_is_wholly_hidden_then_its_scene_is_not_named() -> None:
    merged = merge_datatakes([layer([1, 1], scene("a")), layer([2, None], scene("b"))])
    assert [s.id for s in merged[0].scenes] == ["a"]


def test_merge_datatakes_when_platforms_differ_then_two() -> None:
    assert len(merge_datatakes([layer([1], scene("a", platform="x")), layer([1], scene("b", platform="y"))])) == 2


def test_lay_under_when_full_then_reads_no_further() -> None:
    def source() -> Iterator[Layer]:
        yield layer([1, None], scene("a"))
        yield layer([9, 2], scene("b"))
        raise AssertionError("read on although every pixel was there")

    assert pixels_of(lay_under(source())) == [1, 2]


def test_mosaic_order_when_sorted_then_least_cloudy_first_ties_by_date_then_id() -> None:
    scenes = [scene("d", 1, cloud=None), scene("c", 1, cloud=5), scene("b", 2, cloud=1), scene("a", 2, cloud=1)]
    assert [s.id for s in sorted([*scenes, scene("z", 1, cloud=1)], key=mosaic_order)] == ["z", "a", "b", "c", "d"]


def test_frame_of_when_two_tiles_of_a_day_then_one_image_and_median_date_of_datatakes() -> None:
    used = [scene("a", 1), scene("b", 1), scene("c", 5), scene("d", 20)]
    frame = frame_of(used, WINDOW, "median")
    assert (frame.n_images, frame.date, frame.scene_ids) == (3, dt.date(2020, 1, 5), ("a", "b", "c", "d"))
    assert (frame.first_date, frame.last_date) == (dt.date(2020, 1, 1), dt.date(2020, 1, 20))
    assert frame_of(used, WINDOW, "midpoint").date == WINDOW.midpoint


def test_frame_of_when_nothing_contributes_then_empty() -> None:
    frame = frame_of([], WINDOW, "median")
    assert (frame.n_images, frame.date, frame.scene_ids) == (0, None, ())
