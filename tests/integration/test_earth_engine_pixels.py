"""Pixels of the local Earth Engine through the real client, against numpy written from the documented rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyproj
import pytest
from numpy.typing import NDArray

from rsembed.testing.earth_engine import LocalEarthEngine, SyntheticBand, SyntheticImage

ee = pytest.importorskip("ee", reason="the official client is not installed: pip install 'rsembed[gee]'")

from tests.earth_engine_session import client_of, grid_of, only, pixels_of  # noqa: E402 - it imports ee

UTM = "EPSG:32631"
LEFT, TOP = 500_040.0, 4_700_040.0
SIZE = 24
RNG = np.random.default_rng(20)
# Three dates, the middle one the least cloudy. B8 has masked pixels, B5 is coarser, CLS has classes, FLT decibels.
B8 = RNG.integers(1, 12_000, (3, SIZE, SIZE)).astype(np.uint16)
VALID = RNG.random((3, SIZE, SIZE)) > 0.3
B5 = RNG.integers(1, 12_000, (3, SIZE // 2, SIZE // 2)).astype(np.uint16)
CLS = RNG.integers(1, 5, (3, SIZE // 2, SIZE // 2)).astype(np.uint8)
FLT = RNG.normal(-12, 4, (3, SIZE, SIZE)).astype(np.float32)


def band(values: NDArray[Any], pixel: float = 10, mask: NDArray[Any] | None = None, **more: Any) -> SyntheticBand:
    return SyntheticBand(values, UTM, (pixel, 0, LEFT, 0, -pixel, TOP), mask, **more)


def scenes() -> list[SyntheticImage]:
    return [
        SyntheticImage(
            f"scene{n}",
            f"2022-05-0{n + 1}T10:50:00",
            {
                "B8": band(B8[n], mask=VALID[n]),
                "B5": band(B5[n], 20),
                "CLS": band(CLS[n], 20, policy="sample"),
                "VOTE": band(CLS[n].repeat(2, 0).repeat(2, 1), policy="mode"),
                "FLT": band(FLT[n]),
            },
            {"CLOUD": (40, 5, 80)[n]},
        )
        for n in range(3)
    ]


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with LocalEarthEngine(images={"TEST/S2": scenes(), "TEST/EMPTY": []}) as server, client_of(server):
        yield


def grid(pixel: float = 10, height: int = 8, width: int = 8, east: float = 0, south: float = 0) -> dict[str, Any]:
    return grid_of(pixel=pixel, size=(height, width), origin=(LEFT + east, TOP - south), crs=UTM)


FULL = {"height": SIZE, "width": SIZE}


def collection(name: str = "B8") -> Any:
    return ee.ImageCollection("TEST/S2").select(name)


def scene(n: int, name: str = "B8") -> Any:
    return ee.Image(f"TEST/S2/scene{n}").select(name)


def masked(n: int | slice = slice(None)) -> np.ma.MaskedArray[Any, Any]:
    return np.ma.array(B8[n].astype(float), mask=~VALID[n])


# Reading


def test_image_when_read_on_its_own_grid_then_as_stored_and_zero_where_masked() -> None:
    found = only(scene(0), grid(**FULL))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.where(VALID[0], B8[0], 0))


def test_image_when_window_reaches_beyond_it_then_masked_there() -> None:
    found = only(scene(0, "FLT").unmask(-99, False), grid(east=SIZE * 10 - 20, south=-30))
    expected = np.full((8, 8), -99.0)
    expected[3:, :2] = FLT[0][:5, -2:]
    np.testing.assert_array_equal(found, expected)


def test_image_when_unmasked_by_a_sentinel_then_told_from_zero() -> None:
    found = only(scene(0).toInt32().unmask(-1, False), grid(**FULL))
    np.testing.assert_array_equal(found, np.where(VALID[0], B8[0].astype(int), -1))


def test_band_when_coarser_than_the_grid_then_replicated() -> None:
    np.testing.assert_array_equal(only(scene(0, "B5"), grid(**FULL)), B5[0].repeat(2, 0).repeat(2, 1))


def test_nearest_when_a_centre_lies_on_an_edge_then_refused() -> None:
    with pytest.raises(ee.EEException, match="on the edges of source pixels"):
        only(scene(0), grid(east=5))


def test_image_when_read_in_another_projection_then_pixel_under_each_centre() -> None:
    other = "EPSG:32632"
    x0, y0 = pyproj.Transformer.from_crs(UTM, other, always_xy=True).transform(LEFT + 60, TOP - 60)
    found = only(scene(0, "FLT"), grid_of(pixel=10, size=(6, 6), origin=(x0, y0), crs=other))
    back = pyproj.Transformer.from_crs(other, UTM, always_xy=True)
    expected = np.zeros((6, 6), np.float32)
    for row in range(6):
        for col in range(6):
            x, y = back.transform(x0 + (col + 0.5) * 10, y0 - (row + 0.5) * 10)
            expected[row, col] = FLT[0][int((TOP - y) // 10), int((x - LEFT) // 10)]
    np.testing.assert_array_equal(found, expected)


# Composites


def test_median_when_some_pixels_are_masked_then_of_the_valid_ones() -> None:
    found = only(collection().median().unmask(-1, False), grid(**FULL))
    np.testing.assert_array_equal(found, np.ma.median(masked(), axis=0).filled(-1))


def test_median_when_their_number_is_even_then_mean_of_the_middle_two() -> None:
    found = only(collection("FLT").limit(2).median(), grid(**FULL))
    np.testing.assert_array_equal(found, (FLT[0].astype(float) + FLT[1]) / 2)


def test_mosaic_when_images_overlap_then_last_on_top_where_valid() -> None:
    expected = np.full((SIZE, SIZE), -1)
    for n in range(3):
        expected = np.where(VALID[n], B8[n], expected)
    np.testing.assert_array_equal(only(collection().mosaic().toInt32().unmask(-1, False), grid(**FULL)), expected)


def test_mosaic_when_sorted_by_cloud_downward_then_least_cloudy_on_top() -> None:
    found = only(collection().sort("CLOUD", False).mosaic(), grid(**FULL))
    expected = np.zeros((SIZE, SIZE))
    for n in (2, 0, 1):
        expected = np.where(VALID[n], B8[n], expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["sum", "min", "max", "mean", "count"])
def test_composite_when_made_by_a_reducer_then_like_numpy_over_valid_pixels(name: str) -> None:
    found = only(getattr(collection(), name)(), grid(**FULL))
    np.testing.assert_allclose(found, np.ma.filled(getattr(masked(), name)(axis=0), 0), rtol=1e-15)


def test_reduce_when_bits_are_or_ed_then_suffix_and_union_of_bits() -> None:
    found = pixels_of(
        collection().map(lambda i: i.multiply(0).add(ee.Number(i.get("CLOUD"))).toInt32()).reduce("bitwiseOr"),
        grid(**FULL),
    )
    expected = np.bitwise_or.reduce(np.where(VALID, np.array([40, 5, 80])[:, None, None], 0), axis=0)
    np.testing.assert_array_equal(found["B8_bitwiseOr"], expected)


def test_composite_when_asked_for_its_projection_then_wgs84_of_one_degree() -> None:
    found = collection().median().getInfo()["bands"][0]
    assert (found["crs"], found["crs_transform"]) == ("EPSG:4326", [1, 0, 0, 0, 1, 0])
    own = scene(0).getInfo()["bands"][0]
    assert (own["crs"], own["crs_transform"]) == (UTM, [10, 0, LEFT, 0, -10, TOP])


@pytest.mark.parametrize("name", ["median", "mosaic", "mean"])
def test_composite_when_masks_are_fractions_then_refused(name: str) -> None:
    halves = collection().map(lambda image: image.reduceResolution("mean"))
    with pytest.raises(ee.EEException, match="mask is a fraction"):
        only(getattr(halves, name)(), grid(20))


# Masks, arithmetic, types


def test_update_mask_when_classes_are_coarser_then_each_covers_its_pixels() -> None:
    clear = scene(0, "CLS").remap([3, 4], [0, 0], 1)
    found = only(scene(0, "FLT").updateMask(clear).unmask(0, False), grid(**FULL))
    cloudy = np.isin(CLS[0].repeat(2, 0).repeat(2, 1), (3, 4))
    np.testing.assert_array_equal(found, np.where(cloudy, 0, FLT[0]))


def test_arithmetic_when_either_input_is_masked_then_result_is_masked() -> None:
    found = only(scene(0).toInt32().add(scene(1)).unmask(-1, False), grid(**FULL))
    np.testing.assert_array_equal(found, (masked(0) + masked(1)).filled(-1))


def test_comparison_when_computed_then_boolean_byte() -> None:
    found = only(scene(0, "B5").gt(scene(1, "B5")), grid(20))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, B5[0][:8, :8] > B5[1][:8, :8])


def test_arithmetic_when_float_meets_whole_number_then_float() -> None:
    found = only(scene(0, "FLT").multiply(2), grid())
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, FLT[0][:8, :8] * 2)


def test_arithmetic_when_result_leaves_the_union_of_types_then_refused() -> None:
    with pytest.raises(ee.EEException, match="cast to a type that holds them"):
        only(scene(0, "B5").multiply(1000), grid(20))


def test_division_when_by_zero_then_zero() -> None:
    found = only(scene(0, "FLT").divide(scene(0, "FLT").multiply(0)), grid())
    np.testing.assert_array_equal(found, np.zeros((8, 8)))


def test_division_when_both_are_whole_numbers_then_refused() -> None:
    with pytest.raises(ee.EEException, match="cast one to float"):
        only(scene(0).divide(10), grid())


def test_decibels_when_made_linear_and_back_then_the_same() -> None:
    power = scene(0, "FLT").multiply(0).add(10).pow(scene(0, "FLT").divide(10))
    np.testing.assert_allclose(only(power, grid()), 10 ** (FLT[0][:8, :8].astype(float) / 10), rtol=1e-6)
    np.testing.assert_allclose(only(power.log10().multiply(10), grid()), FLT[0][:8, :8], rtol=1e-6)


def test_cast_when_a_value_would_change_then_refused() -> None:
    with pytest.raises(ee.EEException, match="round and clamp first"):
        only(scene(0, "FLT").toInt16(), grid())


def test_cast_when_values_fit_then_exact() -> None:
    found = only(scene(0, "B5").toDouble().toInt16(), grid(20))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, B5[0][:8, :8])


def test_mask_when_read_then_numbers_valid_everywhere() -> None:
    np.testing.assert_array_equal(only(scene(0).mask().unmask(7, False), grid(**FULL)), VALID[0])


def test_blend_when_top_is_masked_then_bottom_shows() -> None:
    found = only(ee.Image(7).toUint16().rename("B8").blend(scene(0)), grid(**FULL))
    np.testing.assert_array_equal(found, np.where(VALID[0], B8[0], 7))


def test_image_reduce_when_max_of_bands_then_named_by_the_reducer() -> None:
    found = pixels_of(scene(0, "FLT").addBands(scene(1, "FLT")).reduce("max"), grid())
    np.testing.assert_array_equal(found["max"], np.maximum(FLT[0], FLT[1])[:8, :8])


# Coarser than native


def weights(n_out: int, ratio: float, n_in: int) -> NDArray[np.float64]:
    """Share of output pixel i that input pixel j covers, by stepping through sixtieths of an input pixel."""
    shares = np.zeros((n_out, n_in))
    for i in range(n_out):
        for at in np.arange(i * ratio, (i + 1) * ratio - 1e-9, 1 / 60) + 1 / 120:
            if at < n_in:
                shares[i, int(at)] += 1 / 60 / ratio
    return shares


@pytest.mark.parametrize(("name", "native", "pixel"), [("B8", 10, 20), ("B8", 10, 30), ("B5", 20, 30)])
def test_reduce_resolution_when_coarser_then_mean_by_area_of_valid_pixels(name: str, native: int, pixel: int) -> None:
    stored, valid = (B8[0], VALID[0]) if name == "B8" else (B5[0], np.ones_like(B5[0], dtype=bool))
    n_out = SIZE * 10 // pixel
    share = weights(n_out, pixel / native, stored.shape[0])
    total = share @ valid @ share.T
    expected = np.divide(share @ (stored * valid.astype(float)) @ share.T, total, where=total > 0, out=0 * total)
    found = only(scene(0, name).reduceResolution("mean"), grid(pixel, n_out, n_out))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_reduce_resolution_when_partly_masked_then_mask_is_the_covered_share() -> None:
    found = only(scene(0).reduceResolution("mean").mask(), grid(20, 12, 12))
    np.testing.assert_allclose(found, VALID[0].reshape(12, 2, 12, 2).mean(axis=(1, 3)))


def test_reduce_resolution_when_grid_is_off_the_lattice_then_shares_of_partly_covered_pixels() -> None:
    found = only(scene(0, "FLT").reduceResolution("mean"), grid(20, 3, 3, east=5, south=5))
    inner = FLT[0].astype(float)
    share = np.zeros((3, SIZE))
    for i in range(3):
        share[i, 2 * i : 2 * i + 3] = (0.25, 0.5, 0.25)
    np.testing.assert_allclose(found, share @ inner @ share.T, rtol=1e-6)


def test_reduce_resolution_when_made_binary_then_median_works() -> None:
    def coarse(image: Any) -> Any:
        mean = image.reduceResolution("mean")
        return mean.updateMask(mean.mask().gt(0))

    found = only(collection().map(coarse).median(), grid(20, 12, 12))
    blocks = masked().reshape(3, 12, 2, 12, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(found, np.ma.median(blocks, axis=0).filled(0), rtol=1e-12)


def test_reduce_resolution_when_across_projections_then_near_a_mean_of_fine_samples() -> None:
    other = "EPSG:32632"
    x0, y0 = pyproj.Transformer.from_crs(UTM, other, always_xy=True).transform(LEFT + 80, TOP - 100)
    found = only(scene(0, "FLT").reduceResolution("mean"), grid_of(pixel=20, size=(3, 3), origin=(x0, y0), crs=other))
    back = pyproj.Transformer.from_crs(other, UTM, always_xy=True)
    step = (np.arange(3 * 64) + 0.5) * 20 / 64
    x, y = back.transform(*np.meshgrid(x0 + step, y0 - step))
    fine = FLT[0].astype(float)[((TOP - y) // 10).astype(int), ((x - LEFT) // 10).astype(int)]
    np.testing.assert_allclose(found, fine.reshape(3, 64, 3, 64).mean(axis=(1, 3)), rtol=5e-3)


def test_reduce_resolution_when_too_many_pixels_then_error_says_how_many() -> None:
    with pytest.raises(ee.EEException, match=r"Too many input pixels per output pixel\. Need 144"):
        only(scene(0).reduceResolution("mean"), grid(120, 2, 2))
    assert only(scene(0).reduceResolution("mean", False, 144), grid(120, 2, 2)).shape == (2, 2)


def test_reduce_resolution_when_of_a_composite_then_refused_until_it_has_a_projection() -> None:
    composite = collection("FLT").median()
    with pytest.raises(ee.EEException, match="setDefaultProjection"):
        only(composite.reduceResolution("mean"), grid(20))
    found = only(composite.setDefaultProjection(scene(0).projection()).reduceResolution("mean"), grid(20, 12, 12))
    expected = np.median(FLT.astype(float), axis=0).reshape(12, 2, 12, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_pyramid_when_policy_is_mean_then_mean_of_four_rounded_half_up() -> None:
    found = only(scene(0, "B5"), grid(40, 6, 6))
    mean = B5[0].reshape(6, 2, 6, 2).astype(float).mean(axis=(1, 3))
    np.testing.assert_array_equal(found, np.floor(mean + 0.5))


def test_pyramid_when_between_two_levels_then_the_finer_one_by_nearest() -> None:
    found = only(scene(0, "FLT"), grid(30, 8, 8))
    level = FLT[0].reshape(12, 2, 12, 2).astype(float).mean(axis=(1, 3)).astype(np.float32)
    at = [int((30 * i + 15) // 20) for i in range(8)]
    np.testing.assert_allclose(found, level[np.ix_(at, at)], rtol=1e-6)


def test_pyramid_when_two_levels_up_then_made_level_by_level() -> None:
    found = only(scene(0, "B5"), grid(80, 3, 3))
    once = np.floor(B5[0].reshape(6, 2, 6, 2).astype(float).mean(axis=(1, 3)) + 0.5)
    np.testing.assert_array_equal(found, np.floor(once.reshape(3, 2, 3, 2).mean(axis=(1, 3)) + 0.5))


def test_pyramid_when_policy_is_sample_then_upper_left_pixel() -> None:
    np.testing.assert_array_equal(only(scene(0, "CLS"), grid(40, 6, 6)), CLS[0][::2, ::2])


def test_pyramid_when_policy_is_mode_then_most_frequent_value() -> None:
    np.testing.assert_array_equal(only(scene(0, "VOTE"), grid(20, 12, 12)), CLS[0])


def test_pyramid_when_pixels_are_masked_then_weighted_mean_and_mean_mask() -> None:
    blocks = masked(0).reshape(12, 2, 12, 2)
    found = only(scene(0), grid(20, 12, 12))
    np.testing.assert_array_equal(found, np.floor(blocks.mean(axis=(1, 3)) + 0.5).filled(0))
    share = only(scene(0).mask(), grid(20, 12, 12))
    np.testing.assert_array_equal(share, VALID[0].reshape(12, 2, 12, 2).mean(axis=(1, 3)))


def test_reproject_when_onto_its_own_pixels_then_full_resolution_is_sampled() -> None:
    own = scene(0, "FLT").reproject(scene(0, "FLT").projection())
    np.testing.assert_array_equal(only(own, grid(30, 8, 8)), FLT[0][1::3, 1::3])


def test_reproject_when_onto_a_coarser_lattice_then_computed_there_and_replicated() -> None:
    coarse = scene(0, "FLT").reduceResolution("mean").reproject(UTM, [20, 0, LEFT, 0, -20, TOP])
    blocks = FLT[0].astype(float).reshape(12, 2, 12, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(only(coarse, grid(**FULL)), blocks.repeat(2, 0).repeat(2, 1), rtol=1e-12)


def test_resample_when_asked_for_then_refused() -> None:
    with pytest.raises(ee.EEException, match=r"Image\.resample: this function"):
        only(scene(0).resample("bilinear"), grid())


# Nothing there


def test_empty_collection_when_composited_then_error_of_a_missing_band() -> None:
    with pytest.raises(ee.EEException, match=r"did not match any bands\. Available bands: \[\]"):
        only(ee.ImageCollection("TEST/EMPTY").median().select("B8"), grid())


def test_empty_collection_when_first_is_taken_then_parameter_is_required() -> None:
    with pytest.raises(ee.EEException, match="Parameter 'input' is required and may not be null"):
        only(ee.ImageCollection("TEST/EMPTY").first().select("B8"), grid())
