"""A patch in numbers, and in words where something is odd about it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsembed.core.patch import Json, Patch
from rsembed.providers.collections import collection_info

PERCENTILES = (2, 25, 50, 75, 98)
FULL_DN = 10_000.0
"""Sentinel-2's digital number of reflectance 1: clouds and snow lie about here."""
LARGEST_STORED = 65_535.0
LIKELY_REFLECTANCE = 1.5
ODD_SHARE = 0.2
"""From this share of zero or saturated pixels on a band is spoken of."""


@dataclass(frozen=True)
class BandReport:
    """One band of one frame, over its valid pixels, in the provider's units; None where nothing is valid.

    ``percentiles``: :data:`PERCENTILES`. ``valid_fraction`` is of all pixels, ``zero_fraction`` and
    ``saturated_fraction`` of the valid ones (None where the collection's top is not known).
    """

    band: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    percentiles: Mapping[str, float] | None
    valid_fraction: float
    zero_fraction: float | None
    saturated_fraction: float | None


@dataclass(frozen=True)
class FrameReport:
    """One frame: its bin ``[start, end)``, what went into it, and its bands.

    ``valid_fraction``: pixels valid in every band.
    """

    index: int
    start: dt.date
    end: dt.date
    empty: bool
    date: dt.date | None
    n_images: int
    first_date: dt.date | None
    last_date: dt.date | None
    valid_fraction: float
    scene_ids: tuple[str, ...]
    bands: tuple[BandReport, ...]


@dataclass(frozen=True)
class PatchReport:
    """A patch in numbers. ``ok``: something is valid; ``transform``: affine (a, b, c, d, e, f) of the grid.

    ``unit``: what values are in. ``provenance``: what the provider says of how it came by them.
    """

    ok: bool
    collection: str
    unit: str
    epsg: int
    scale_m: float
    height: int
    width: int
    transform: tuple[float, ...]
    valid_fraction: float
    n_images: int
    n_empty: int
    frames: tuple[FrameReport, ...]
    provenance: Mapping[str, Json]
    warnings: tuple[str, ...]


def report_patch(patch: Patch, collection: str, *, value_range: tuple[float, float] | None = None) -> PatchReport:
    """Numbers about ``patch``, and what is odd about it. ``value_range``: where values are expected to lie."""
    unit = collection_info(collection).unit
    top = _top(collection)
    frames = tuple(_frame(patch, t, top) for t in range(len(patch.frames)))
    grid = patch.grid
    return PatchReport(
        ok=not patch.is_empty,
        collection=collection,
        unit=unit,
        epsg=grid.epsg,
        scale_m=grid.scale_m,
        height=grid.height,
        width=grid.width,
        transform=grid.transform,
        valid_fraction=patch.valid_fraction(),
        n_images=patch.n_images,
        n_empty=sum(frame.empty for frame in frames),
        frames=frames,
        provenance=patch.provenance,
        warnings=tuple(_warnings(patch, frames, unit, value_range)),
    )


def _top(collection: str) -> float | None:
    """The value from which on a pixel counts as saturated; None where none is known."""
    info = collection_info(collection)
    if info.unit == "dn":
        return FULL_DN
    return LARGEST_STORED if info.family == "landsat" else None


def _frame(patch: Patch, t: int, top: float | None) -> FrameReport:
    frame = patch.frames[t]
    return FrameReport(
        index=t,
        start=frame.window.start,
        end=frame.window.end,
        empty=not frame.n_images,
        date=frame.date,
        n_images=frame.n_images,
        first_date=frame.first_date,
        last_date=frame.last_date,
        valid_fraction=float(patch.valid_tchw[t].all(axis=0).mean()),
        scene_ids=frame.scene_ids,
        bands=tuple(
            _band(band, patch.values_tchw[t, c], patch.valid_tchw[t, c], top) for c, band in enumerate(patch.bands)
        ),
    )


def _band(name: str, values: NDArray[np.float32], valid: NDArray[np.bool_], top: float | None) -> BandReport:
    seen = values[valid].astype(np.float64)
    if not seen.size:
        return BandReport(name, None, None, None, None, None, 0.0, None, None)
    found = np.percentile(seen, PERCENTILES).tolist()
    return BandReport(
        name,
        float(seen.min()),
        float(seen.max()),
        float(seen.mean()),
        float(seen.std()),
        {f"p{p:02d}": value for p, value in zip(PERCENTILES, found, strict=True)},
        float(valid.mean()),
        float((seen == 0).mean()),
        None if top is None else float((seen >= top).mean()),
    )


def _warnings(
    patch: Patch, frames: Sequence[FrameReport], unit: str, value_range: tuple[float, float] | None
) -> Iterator[str]:
    if patch.is_empty:
        yield "nothing is valid: no imagery here in this window, or all of it is masked"
        return
    for frame in frames:
        name = f"frame {frame.index} ({frame.start}..{frame.end})"
        if frame.empty:
            yield f"{name} has no imagery"
            continue
        for band in frame.bands:
            yield from (f"{name}: {text}" for text in _band_warnings(band, unit, value_range))
    if patch.valid_fraction() < 0.5:
        yield f"only {patch.valid_fraction():.0%} of the pixels are valid in every band"


def _band_warnings(band: BandReport, unit: str, value_range: tuple[float, float] | None) -> Iterator[str]:
    low, high, name = band.minimum, band.maximum, band.band
    if low is None or high is None:
        yield f"nothing of {name} is valid"
        return
    if low == high:
        yield f"{name} is {low:g} everywhere"
    elif (band.zero_fraction or 0) >= ODD_SHARE:
        yield f"{name} is 0 in {band.zero_fraction:.0%} of its valid pixels: no-data that is not declared?"
    if (band.saturated_fraction or 0) >= ODD_SHARE:
        yield f"{name} is saturated in {band.saturated_fraction:.0%} of its valid pixels: clouds or snow?"
    if unit == "dn" and low < high <= LIKELY_REFLECTANCE:
        yield f"{name} reaches {high:g} only: reflectance, where digital numbers (0..10000) are expected?"
    if unit == "linear" and band.percentiles is not None and band.percentiles["p50"] < 0:
        yield f"{name} is mostly negative: decibels, where linear power is expected?"
    if value_range is not None and not (value_range[0] <= low and high <= value_range[1]):
        yield f"{name} lies in {low:g}..{high:g}, outside the expected {value_range[0]:g}..{value_range[1]:g}"


def frame_summary(frame: FrameReport) -> dict[str, Json]:
    """One frame without its bands."""
    return {
        "index": frame.index,
        "start": frame.start.isoformat(),
        "end": frame.end.isoformat(),
        "empty": frame.empty,
        "date": None if frame.date is None else frame.date.isoformat(),
        "n_images": frame.n_images,
        "valid_fraction": frame.valid_fraction,
    }


__all__ = ["PERCENTILES", "BandReport", "FrameReport", "PatchReport", "frame_summary", "report_patch"]
