"""A request as an Earth Engine expression: every bin composed on the server, all of them in one image.

The steps are those of ``assembly`` and ``compositing``, which do the same to files: scene filter, mask,
resampling, datatakes merged, then the composite. Semantics: developers.google.com/earth-engine/guides
(``projections``, ``resample``, ``ic_composite_mosaic``, ``joins``).
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from functools import lru_cache

import ee

from rsembed.core.fetching import FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.collections import SCENE_CLASSES
from rsembed.providers.gee_composite import (
    DAY_MS,
    ORDER,
    SOLAR_DAY,
    TIME,
    Expression,
    composite,
    day_names,
    over,
    typed,
)
from rsembed.providers.gee_plan import COMPANIONS, BandGroup, GraphPlan
from rsembed.providers.gee_request import ASCENDING, COUNT, FLAGS, RELAXED_MODE
from rsembed.providers.masks import SCL_DROPPED
from rsembed.providers.selection import whole_window

_CLEAR_CLASSES = [code for code in range(12) if code not in SCL_DROPPED]
_INDEX, _CLOUDLESS = "system:index", "101"

# Stand in a template for what differs from row to row: odd numbers, that occur nowhere else.
_MARKED_BOUNDS = (12.345678901231, 23.456789012341, 12.345678901242, 23.456789012352)
_MARKED_CENTRE = (34.567890123461, 45.678901234571)
_MARKED_EDGES = (567_890.1234567, 678_901.2345678)
_MARKED_AHEAD_MS = 98_765_432_109


class _Building:
    """Who makes a template."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_building = _Building()
# A lock that another thread held at the fork would stay locked in the child for ever.
os.register_at_fork(after_in_child=lambda: setattr(_building, "lock", threading.Lock()))


def graph_json(request: FetchRequest, plan: GraphPlan, bins: range) -> str:
    """The expression of :func:`build_graph` as JSON: made once for all places that are asked for alike.

    Building an expression takes tens of milliseconds, for a year of frames ten times that.
    """
    grid = request.grid
    marked = replace(request, grid=Grid(grid.epsg, *_MARKED_EDGES, grid.scale_m, 1, 1))
    anywhere = replace(plan, bounds=_MARKED_BOUNDS, centre=_MARKED_CENTRE, solar_ahead_ms=_MARKED_AHEAD_MS)
    with _building.lock:  # at the start of a run all threads want the same one
        text = _template(marked, anywhere, bins)
    here = (*plan.bounds, *plan.centre, grid.x_min, grid.y_max, plan.solar_ahead_ms)
    marks = (*_MARKED_BOUNDS, *_MARKED_CENTRE, *_MARKED_EDGES, _MARKED_AHEAD_MS)
    for mark, value in zip(marks, here, strict=True):
        text = text.replace(json.dumps(mark), json.dumps(value))
    return text


@lru_cache(maxsize=64)
def _template(request: FetchRequest, plan: GraphPlan, bins: range) -> str:
    return json.dumps(ee.serializer.encode(build_graph(request, plan, bins)), separators=(",", ":"))


def build_graph(request: FetchRequest, plan: GraphPlan, bins: range) -> Expression:
    """The image of ``bins`` with the bands of ``plan.layout``; no request is made.

    What is decided for the whole window (orbit pass, instrument mode) is the same whichever bins are asked for.
    """
    graph = _Graph(request, plan)
    images, flags = graph.scenes()
    layout = plan.layout
    found = [graph.frame(images, layout.bins[t], t) for t in bins]
    if layout.flagged:
        found.append(ee.Image.constant(flags).toByte().rename([FLAGS]))
    return ee.Image.cat(found)


class _Graph:
    """The expressions of one request."""

    def __init__(self, request: FetchRequest, plan: GraphPlan) -> None:
        self.request, self.plan, self.recipe = request, plan, request.recipe

    # Which scenes -----------------------------------------------------------------------------------

    def scenes(self) -> tuple[Expression, Expression]:
        """The scenes that serve the request, reduced to what is needed of them, and the flags (a number)."""
        plan, bins = self.plan, self.request.bins
        found = ee.ImageCollection(plan.info.name).filterBounds(ee.Geometry.BBox(*plan.bounds))
        whole = whole_window(bins)
        if sum(b.days for b in bins) == whole.days:
            found = _between(found, whole)
        else:
            found = found.filter(ee.Filter.Or(*(ee.Filter.date(b.start.isoformat(), b.end.isoformat()) for b in bins)))
        lender, band = COMPANIONS.get(plan.info.name, ("", ""))
        if band in plan.bands:
            found = found.map(lambda image: _with_lent(image, lender, band))
        found = found.map(self._with_order)
        flags: Expression = ee.Number(0)
        if plan.info.family == "sentinel-1":
            for band in plan.bands:
                found = found.filter(ee.Filter.listContains("transmitterReceiverPolarisation", band))
            found, relaxed = self._wide(found)
            found, ascending = self._one_pass(found)
            flags = ee.Number(relaxed).multiply(RELAXED_MODE).add(ee.Number(ascending).multiply(ASCENDING))
        return found.map(self._scene), flags

    def _wide(self, found: Expression) -> tuple[Expression, Expression]:
        recipe = self.recipe
        if not recipe.s1_require_iw:
            return found, 0
        wide = found.filter(ee.Filter.eq("instrumentMode", "IW"))
        if not recipe.s1_relax_iw_on_empty:
            return wide, 0
        none = wide.size().eq(0)
        relaxed = none.multiply(found.size().gt(0))
        return ee.ImageCollection(ee.Algorithms.If(none, found, wide)), relaxed

    def _one_pass(self, found: Expression) -> tuple[Expression, Expression]:
        """One orbit pass: the one with more datatakes at the centre, then anywhere; ascending on a tie."""
        orbit, name = self.recipe.orbit, "orbitProperties_pass"
        if orbit == "any":
            return found, 0
        if orbit != "most_images":
            return found.filter(ee.Filter.eq(name, orbit)), int(orbit == "ASCENDING")
        up, down = (found.filter(ee.Filter.eq(name, way)) for way in ("ASCENDING", "DESCENDING"))
        centre = ee.Geometry.Point(list(self.plan.centre))

        def images(mine: Expression) -> Expression:
            def datatakes(some: Expression) -> Expression:
                return some.distinct([SOLAR_DAY, *self.plan.properties.datatake]).size()

            return datatakes(mine.filterBounds(centre)).multiply(100_000).add(datatakes(mine))

        ascending = images(up).gte(images(down))
        return ee.ImageCollection(ee.Algorithms.If(ascending, up, down)), ascending

    def _with_order(self, image: Expression) -> Expression:
        """``image`` with its solar day, and the text by which it is laid over others: the smallest lies on top."""
        properties, info = self.plan.properties, self.plan.info
        time = ee.Number(image.get(TIME))
        index = ee.String(image.get(_INDEX))
        if self.recipe.composite == "mosaic":
            cloud: Expression = _CLOUDLESS
            if info.cloud_property:
                cloud = ee.Number(image.get(info.cloud_property)).format("%012.7f")
            order = ee.String(cloud).cat(time.divide(DAY_MS).floor().format("%07.0f")).cat(index)
        elif properties.baseline:
            baseline = ee.Number.parse(ee.String(image.get(properties.baseline)))
            order = ee.Number(100).subtract(baseline).format("%07.2f").cat(index)
        else:
            order = index
        return image.set(SOLAR_DAY, time.add(self.plan.solar_ahead_ms).divide(DAY_MS).floor()).set(ORDER, order)

    # One scene ----------------------------------------------------------------------------------------

    def _scene(self, image: Expression) -> Expression:
        """The bands of a scene, masked and on the grid, with its properties."""
        clear = None
        if self.plan.mask == "scl":
            classes = image.select(SCENE_CLASSES)
            if self.plan.pin_classes:
                classes = classes.reproject(classes.projection())
            clear = classes.remap(_CLEAR_CLASSES, [1] * len(_CLEAR_CLASSES), 0)
        parts = [self._resampled(image, group, clear) for group in self.plan.groups]
        names = list(self.plan.bands)
        values = ee.Image.cat(parts).select(names) if len(parts) > 1 else parts[0]
        return ee.Image(values.copyProperties(image, self._kept()))

    def _kept(self) -> list[str]:
        kept = [TIME, SOLAR_DAY, ORDER, *self.plan.properties.datatake]
        return [*kept, self.plan.info.cloud_property] if self.plan.info.cloud_property else kept

    def _resampled(self, image: Expression, group: BandGroup, clear: Expression | None) -> Expression:
        part = image.select(list(group.bands))
        if clear is not None:
            part = part.updateMask(clear)
        power = self.plan.info.unit
        if power == "linear":
            part = part.updateMask(part.gt(0))
        if group.average:
            if power == "dB":  # a mean of decibels is none
                # The ten comes out of the band itself: a constant's own pixels are one degree wide.
                part = part.toDouble()
                part = part.multiply(0).add(10).pow(part.divide(10))
            grid = self.request.grid
            part = part.reduceResolution(ee.Reducer.mean(), False, group.max_pixels)
            part = part.reproject(f"EPSG:{grid.epsg}", list(grid.transform))
            part = _whole(part)
            if power == "dB":
                part = part.log10().multiply(10)
        elif group.coarser:
            part = _whole(ee.Image.cat([self._pinned(part, band) for band in group.bands]))
        return part if self.recipe.composite == "mosaic" and not group.average else part.toFloat()

    def _pinned(self, part: Expression, band: str) -> Expression:
        """A band of classes at its own resolution, since a pyramid holds others; any other band as it is."""
        known, one = self.plan.info.band(band), part.select(band)
        return one.reproject(one.projection()) if known is not None and known.categorical else one

    # One bin -------------------------------------------------------------------------------------------

    def frame(self, images: Expression, window: Window, t: int) -> Expression:
        """Bin ``t`` with its bands, count and days; what only the relaxed filter lets in counts negative."""
        layout, info = self.plan.layout, self.plan.info
        mine = _between(images, window)
        step, *relaxed = self.plan.cloud_steps
        mosaic = self.recipe.composite == "mosaic"
        if step is None:
            image = composite(self.plan, mine, window, mosaic=mosaic)
        else:
            name = info.cloud_property
            image = composite(self.plan, mine.filter(ee.Filter.lte(name, step)), window, mosaic=mosaic)
            for wider in relaxed:
                others = mine.filter(ee.Filter.And(ee.Filter.gt(name, step), ee.Filter.lte(name, wider)))
                image = over(image, composite(self.plan, others, window, mosaic=mosaic))
        columns = [
            typed(image.select(column.name).unmask(column.sentinel, False), column.dtype).rename([name])
            for column, name in zip(layout.columns, layout.value_names(t), strict=True)
        ]
        count = image.select(COUNT).unmask(0, False).toInt16().rename([layout.count_name(t)])
        days = image.select(day_names(window)).unmask(0, False).toInt32().rename(layout.day_names(t))
        return ee.Image.cat([*columns, count, days])


def _between(images: Expression, window: Window) -> Expression:
    return images.filterDate(window.start.isoformat(), window.end.isoformat())


def _whole(part: Expression) -> Expression:
    """``part`` valid wherever it has anything: the share, which the mask tells now, must not weigh on what follows."""
    return part.updateMask(part.mask().gt(0))


def _with_lent(image: Expression, lender: str, band: str) -> Expression:
    """``image`` with ``band`` of the lender's image of the same index; masked everywhere where there is none."""
    none = ee.ImageCollection([ee.Image.constant(0).toFloat().rename([band]).updateMask(0)])
    same = ee.ImageCollection(lender).filter(ee.Filter.eq(_INDEX, image.get(_INDEX))).select([band])
    return image.addBands(ee.Image(same.merge(none).first()))
