"""Stored numbers to Earth Engine's units.

Sentinel-2: harmonised digital numbers, reflectance x 10 000 without the offset that baseline 04.00
brought (developers.google.com/earth-engine/datasets/catalog/COPERNICUS_S2_SR_HARMONIZED). Sentinel-1:
decibel or linear power. The stored form is told by each asset, never by its collection's name.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError
from rsembed.providers.collections import CollectionInfo
from rsembed.providers.scenes import Asset, Scene

Floats = NDArray[np.float64]
Power = Literal["dB", "linear"]

DN_PER_REFLECTANCE = 10_000.0
BASELINE_WITH_OFFSET = 4.0
BASELINE_OFFSET_DN = -1000.0
FIRST_DAY_WITH_OFFSET = dt.date(2022, 1, 25)

_DECIBEL = {"db", "decibel", "decibels"}
_LINEAR = {"linear", "power", "natural", "1", "linear power", "m2/m2", "m^2/m^2"}


@dataclass(frozen=True)
class Conversion:
    """How one asset's stored numbers become values: ``stored * factor + term``, at least ``floor``.

    ``nodata`` is the stored number that means nothing is there (None or NaN: only NaN does).
    ``stored_power`` and ``wanted_power`` are set for radar alone. ``note`` says in words what is done.
    """

    factor: float = 1.0
    term: float = 0.0
    floor: float | None = None
    nodata: float | None = None
    stored_power: Power | None = None
    wanted_power: Power | None = None
    note: str = "as stored"

    def working(self, stored: NDArray[np.generic], *, averaging: bool) -> tuple[Floats, NDArray[np.bool_]]:
        """Values that may be averaged, and where they are valid; same shape as ``stored``.

        Radar to be averaged becomes linear power, since a mean of decibels is none.
        """
        valid = np.ones(stored.shape, dtype=np.bool_)
        if np.issubdtype(stored.dtype, np.floating):
            valid = np.isfinite(stored)
        if self.nodata is not None and not np.isnan(self.nodata):
            valid &= stored != self.nodata
        values = stored.astype(np.float64)
        if self.stored_power is not None:
            values = np.where(valid, values, np.nan)
            if self.stored_power == "linear":
                valid &= values > 0
            if averaging:
                values = _power(values, self.stored_power, "linear")
            return np.where(valid, values, 0.0), valid
        if self.factor != 1.0 or self.term != 0.0:
            values = values * self.factor + self.term
        if self.floor is not None:
            values = np.maximum(values, self.floor)
        return values if valid.all() else np.where(valid, values, 0.0), valid

    def finished(self, values: Floats, valid: NDArray[np.bool_], *, averaging: bool) -> Floats:
        """``values`` of :meth:`working`, averaged or not, in the collection's unit; 0 where not valid."""
        if self.stored_power is None or self.wanted_power is None:
            return values
        now: Power = "linear" if averaging else self.stored_power
        return np.where(valid, _power(np.where(valid, values, 1.0), now, self.wanted_power), 0.0)


def _power(values: Floats, stored: Power, wanted: Power) -> Floats:
    if stored == wanted:
        return values
    if wanted == "linear":
        return np.asarray(10.0 ** (values / 10.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10.0 * np.log10(values))


def conversion(info: CollectionInfo, scene: Scene, band: str, asset: Asset, *, file_unit: str | None) -> Conversion:
    """How ``asset`` of ``scene`` is brought to the units of ``info``.

    ``file_unit``: the unit tag of the file itself, used where the asset states none. Raises
    ProviderError where the stored form is not stated and would have to be guessed.
    """
    known = info.band(band)
    if known is not None and known.categorical:
        return Conversion(note="classes")
    if info.family == "sentinel-2":
        return _sentinel2(scene, asset)
    if info.family == "sentinel-1":
        return _sentinel1(info, scene, band, asset, file_unit)
    return Conversion(nodata=asset.nodata)


def _sentinel2(scene: Scene, asset: Asset) -> Conversion:
    nodata = 0.0 if asset.nodata is None else asset.nodata
    factor, term = _dn_factor(asset), declared_offset(scene, asset)
    if scene.offset_applied:
        why = "offset already in the numbers"
    elif scene.offset_seen and term:
        term, why = 0.0, "offset already in the numbers, as the pixels show"
    else:
        why = "offset by processing baseline" if asset.offset is None else "offset of the asset"
    return Conversion(factor, term + 0.0, floor=0.0, nodata=nodata, note=f"DN x {factor:g} + {term + 0.0:g} ({why})")


def declared_offset(scene: Scene, asset: Asset) -> float:
    """What the metadata want added to digital numbers of ``asset``. Raises ProviderError where they do not say."""
    if scene.offset_applied:
        return 0.0
    return _baseline_offset(scene) if asset.offset is None else round(asset.offset * DN_PER_REFLECTANCE, 6)


def _dn_factor(asset: Asset) -> float:
    if asset.scale is None:
        return 1.0
    return round(asset.scale * DN_PER_REFLECTANCE, 9)


def _baseline_offset(scene: Scene) -> float:
    if scene.baseline is not None:
        return BASELINE_OFFSET_DN if scene.baseline >= BASELINE_WITH_OFFSET else 0.0
    if scene.date is not None and scene.date >= FIRST_DAY_WITH_OFFSET:
        raise ProviderError(
            f"scene {scene.id} ({scene.date}) states neither raster:bands offset nor processing baseline, so whether "
            f"its numbers carry the offset of baseline 04.00 cannot be known; add raster:bands to its assets"
        )
    return 0.0


def _sentinel1(info: CollectionInfo, scene: Scene, band: str, asset: Asset, file_unit: str | None) -> Conversion:
    unit = power_unit(asset.unit) or power_unit(file_unit)
    if unit is None:
        said = asset.unit or file_unit
        raise ProviderError(
            f"{band} of scene {scene.id} ({asset.href}) states "
            + (f"the unit {said!r}" if said else "no unit")
            + ", neither decibel nor linear power: digital numbers of an uncalibrated GRD product are not "
            "backscatter. Use calibrated data and state its unit in raster:bands or in the file"
        )
    wanted: Power = "linear" if info.unit == "linear" else "dB"
    return Conversion(nodata=asset.nodata, stored_power=unit, wanted_power=wanted, note=f"{unit} to {wanted}")


def power_unit(unit: str | None) -> Power | None:
    """``dB`` or ``linear`` out of a unit as files and catalogues spell it; None when it is neither."""
    word = (unit or "").strip().lower()
    if word in _DECIBEL:
        return "dB"
    return "linear" if word in _LINEAR else None
