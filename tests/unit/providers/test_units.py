"""Stored numbers to Earth Engine's units."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from rsembed.core.errors import ProviderError
from rsembed.providers.collections import collection_info
from rsembed.providers.scenes import Asset, Scene
from rsembed.providers.units import Conversion, conversion, power_unit

S2 = collection_info("COPERNICUS/S2_SR_HARMONIZED")
GRD = collection_info("COPERNICUS/S1_GRD")
GRD_FLOAT = collection_info("COPERNICUS/S1_GRD_FLOAT")
SCENE = Scene("s", "sentinel-2-c1-l2a", dt.datetime(2020, 6, 1, tzinfo=dt.UTC), (0, 0, 1, 1), {})
DN = Asset("a.tif", scale=0.0001, offset=0.0, nodata=0)


def s2(asset: Asset, scene: Scene = SCENE) -> Conversion:
    return conversion(S2, scene, "B4", asset, file_unit=None)


def values_of(use: Conversion, stored: np.ndarray) -> tuple[list[float], list[bool]]:
    values, valid = use.working(stored, averaging=False)
    return use.finished(values, valid, averaging=False).tolist(), valid.tolist()


def test_conversion_when_offset_declared_then_nodata_before_offset_and_clamped_at_zero() -> None:
    stored = np.array([0, 500, 1000, 1800], np.uint16)
    values, valid = values_of(s2(replace(DN, offset=-0.1)), stored)
    assert values == [0, 0, 0, 800]
    assert valid == [False, True, True, True]


def test_conversion_when_offset_already_applied_then_none_again() -> None:
    use = s2(replace(DN, offset=-0.1), replace(SCENE, offset_applied=True))
    assert values_of(use, np.array([0, 100], np.uint16)) == ([0, 100], [False, True])


def test_conversion_when_reflectance_then_digital_numbers() -> None:
    use = s2(Asset("a.tif", scale=1.0, offset=0.0))
    assert values_of(use, np.array([0.0, 0.25, np.nan], np.float32)) == ([0, 2500, 0], [False, True, False])


@pytest.mark.parametrize(("baseline", "expected"), [(3.01, 1500), (4.0, 500), (5.09, 500)])
def test_conversion_when_offset_is_not_stated_then_processing_baseline_tells(baseline: float, expected: float) -> None:
    use = s2(Asset("a.tif"), replace(SCENE, baseline=baseline))
    assert values_of(use, np.array([1500], np.uint16)) == ([expected], [True])


def test_conversion_when_nothing_tells_the_offset_then_refused() -> None:
    late = replace(SCENE, time=dt.datetime(2023, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(ProviderError, match="cannot be known"):
        s2(Asset("a.tif"), late)


def test_conversion_when_decibel_is_averaged_then_mean_is_of_linear_power() -> None:
    use = conversion(GRD, SCENE, "VV", Asset("a", unit="dB", nodata=float("nan")), file_unit=None)
    values, valid = use.working(np.array([-10.0, -20.0, np.nan], np.float32), averaging=True)
    mean = np.array([values[valid].mean()])
    assert valid.tolist() == [True, True, False]
    assert use.finished(mean, np.array([True]), averaging=True) == pytest.approx(10 * np.log10((0.1 + 0.01) / 2))


def test_conversion_when_linear_is_stored_then_what_the_collection_wants() -> None:
    stored = np.array([0.1, 0.0], np.float32)
    asset = Asset("a", unit="linear")
    assert values_of(conversion(GRD, SCENE, "VV", asset, file_unit=None), stored)[0] == pytest.approx([-10, 0])
    assert values_of(conversion(GRD_FLOAT, SCENE, "VV", asset, file_unit=None), stored)[0] == pytest.approx([0.1, 0])


def test_conversion_when_only_the_file_states_the_unit_then_that_counts() -> None:
    use = conversion(GRD, SCENE, "VV", Asset("a"), file_unit="decibel")
    assert use.stored_power == "dB"


def test_conversion_when_radar_has_no_unit_then_refused_with_the_reason() -> None:
    with pytest.raises(ProviderError, match=r"states no unit.*uncalibrated GRD"):
        conversion(GRD, SCENE, "VV", Asset("a"), file_unit=None)


def test_conversion_when_unknown_collection_then_as_stored() -> None:
    use = conversion(collection_info("MY/OWN"), SCENE, "x", Asset("a", scale=0.5, offset=3, nodata=-1), file_unit=None)
    assert values_of(use, np.array([-1, 7], np.int16)) == ([0, 7], [False, True])


@pytest.mark.parametrize(
    ("text", "unit"), [("dB", "dB"), (" Decibel", "dB"), ("1", "linear"), ("m", None), (None, None)]
)
def test_power_unit_when_spelt_differently_then_understood(text: str | None, unit: str | None) -> None:
    assert power_unit(text) == unit
