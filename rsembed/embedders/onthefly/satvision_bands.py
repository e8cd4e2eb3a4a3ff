"""SatVision's bands: their order, the authors' calibration to 0..1, and stand-ins from surface products."""

from __future__ import annotations

import numpy as np

from rsembed.embedders import preprocess
from rsembed.embedders.base import Floats

BANDS = ("1", "2", "3", "26", "6", "20", "7", "27", "28", "29", "31", "32", "33", "34")
"""MODIS L1B numbers in the network's order."""
EMISSIVE = [5, 7, 8, 9, 10, 11, 12, 13]
"""Places of the thermal bands among them."""
# Brightness temperatures in kelvin that the authors' transform maps to 0 and to 1.
COLDEST = (223.1222, 178.9174, 204.3739, 204.7677, 194.8686, 202.1759, 201.3823, 203.3537)
HOTTEST = (352.7182, 261.2920, 282.5529, 319.0373, 295.0209, 324.0677, 321.5254, 285.9848)
PROXY_BANDS = (*(f"sur_refl_b0{i}" for i in (1, 2, 3, 4, 6, 7)), "LST_1KM")
_PROXY_PLACES = [0, 1, 2, 3, 4, 6]
"""Where the proxy's six reflectances go; green (b04) takes the place of cirrus (26)."""
_LST_SCALE = 0.02
"""Kelvin per stored unit of MOD21A1D."""


def calibrated(values_chw: Floats, full: float) -> Floats:
    """The 14 bands to about 0..1: reflectance over ``full``, temperatures in kelvin from coldest to hottest."""
    low, high = np.zeros((len(BANDS), 1, 1), np.float32), np.full((len(BANDS), 1, 1), full, np.float32)
    low[EMISSIVE, 0, 0], high[EMISSIVE, 0, 0] = COLDEST, HOTTEST
    units: Floats = (values_chw - low) / (high - low)
    return units


def from_proxy(values_chw: Floats) -> Floats:
    """The 14 bands to 0..1, not clipped where thermal, out of the 7 of :data:`PROXY_BANDS`.

    Reflectance is as stored (10000 is 1), the temperature as stored or in kelvin.
    """
    reflectance, kelvin = values_chw[:-1], values_chw[-1]
    if np.abs(kelvin).max() > 1000:
        kelvin = kelvin * np.float32(_LST_SCALE)
    made = np.broadcast_to(kelvin, (len(BANDS), *kelvin.shape)).copy()
    made[_PROXY_PLACES] = preprocess.unit_range(reflectance, 10000.0)
    return calibrated(made, 1.0)
