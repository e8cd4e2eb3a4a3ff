"""Scenes of one bin into one image: datatakes merged, the median or the mosaic, with a count and the days as bits.

What ``compositing`` does to files. developers.google.com/earth-engine/guides/ic_composite_mosaic and ``joins``.
"""

from __future__ import annotations

from typing import Any

import ee

from rsembed.core.specs import Window
from rsembed.providers.gee_plan import BandGroup, GraphPlan
from rsembed.providers.gee_request import COUNT, DAYS_A_BAND, day_bands

Expression = Any  # the client's classes are made at run time and carry no types

DAY_MS = 86_400_000
SOLAR_DAY, ORDER, _TILES = "rsembed_solar_day", "rsembed_order", "rsembed_tiles"
"""Properties that a scene gets: its solar day, and the text by which it lies over others, the smallest on top."""
TIME = "system:time_start"


def composite(plan: GraphPlan, scenes: Expression, window: Window, *, mosaic: bool) -> Expression:
    """Median of the datatakes or mosaic of the scenes, with the count and the days; masked where nothing is."""
    if mosaic:
        return _mosaic(plan, scenes, window)
    bands, days = list(plan.bands), day_names(window)
    merged = _nothing(bands, days).merge(_datatakes(plan, scenes.map(lambda image: _dated(image, window))))
    return ee.Image.cat(
        [
            merged.select(bands).median().rename(bands),
            merged.select([COUNT]).sum().rename([COUNT]),
            # Datatakes of one day share their bit, so that a sum would not do.
            merged.select(days).reduce(ee.Reducer.bitwiseOr()).rename(days),
        ]
    )


def _mosaic(plan: GraphPlan, scenes: Expression, window: Window) -> Expression:
    """The scenes laid over each other, the last in order lowest; group by group, since their masks differ."""
    days = day_names(window)
    ordered = scenes.sort(ORDER, False)

    def mosaic(group: BandGroup) -> Expression:
        bands = list(group.bands)
        return _nothing(bands, days).merge(ordered.map(lambda image: _dated(image.select(bands), window))).mosaic()

    mosaics = [mosaic(group) for group in plan.groups]
    if len(mosaics) == 1:
        return mosaics[0]
    values = [found.select(list(group.bands)) for found, group in zip(mosaics, plan.groups, strict=True)]
    told = ee.ImageCollection([found.select([COUNT, *days]) for found in mosaics])
    told = told.reduce(ee.Reducer.bitwiseOr()).rename([COUNT, *days])
    return ee.Image.cat([ee.Image.cat(values).select(list(plan.bands)), told])


def _datatakes(plan: GraphPlan, scenes: Expression) -> Expression:
    """One image a datatake: of its tiles the first valid pixel in order shows."""
    keys = [SOLAR_DAY, *plan.properties.datatake]
    same = [ee.Filter.equals(leftField=key, rightField=key) for key in keys]
    condition = same[0] if len(same) == 1 else ee.Filter.And(*same)
    join = ee.Join.saveAll(_TILES, ORDER, False)
    groups = ee.ImageCollection(join.apply(scenes.distinct(keys), scenes, condition))
    return groups.map(lambda first: ee.ImageCollection.fromImages(first.get(_TILES)).mosaic())


def _nothing(bands: list[str], days: list[str]) -> Expression:
    """A collection of one image that is masked everywhere: a composite of no scenes at all would have no bands."""
    values = ee.Image.constant([0] * len(bands)).toFloat().rename(bands)
    extras = ee.Image.constant([0] * (1 + len(days))).toInt32().rename([COUNT, *days])
    return ee.ImageCollection([ee.Image.cat([values, extras]).updateMask(0)])


def day_names(window: Window) -> list[str]:
    return [f"days{i:02d}" for i in range(day_bands(window))]


def _dated(image: Expression, window: Window) -> Expression:
    """``image`` with a 1 to count, and its day in ``window`` as a bit, where any of its bands is valid.

    Day k is bit k mod 31 of band k div 31: 2 ** (k - first), which is no whole number below the band's
    own days and a multiple of 2 ** 31 above them.
    """
    start_ms = (window.start.toordinal() - 719_163) * DAY_MS  # 1970-01-01 is day 719163
    day = ee.Number(image.get(TIME)).subtract(start_ms).divide(DAY_MS).floor()
    bits = [
        ee.Number(2).pow(day.subtract(DAYS_A_BAND * i).min(DAYS_A_BAND)).mod(2**DAYS_A_BAND).floor()
        for i in range(day_bands(window))
    ]
    extras = ee.Image.constant([1, *bits]).toInt32().rename([COUNT, *day_names(window)])
    anywhere = image.mask().reduce(ee.Reducer.max())
    return image.addBands(extras.updateMask(anywhere))


def over(strict: Expression, relaxed: Expression) -> Expression:
    """``strict``, and ``relaxed`` where that has nothing at all, its count negative."""
    free = strict.select(COUNT).unmask(0, False).eq(0)
    signed = relaxed.addBands(relaxed.select(COUNT).multiply(-1).toInt32(), [COUNT], True)
    return ee.ImageCollection([signed.updateMask(free), strict]).mosaic()


_CASTS = {"float32": "toFloat", "uint16": "toUint16", "int16": "toInt16", "uint8": "toByte"}


def typed(image: Expression, dtype: str) -> Expression:
    return getattr(image, _CASTS[dtype])()
