"""Options of one place and one window, and the values they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from rsembed.cli.options import together
from rsembed.core.specs import BBox, PointBuffer, Spatial, TemporalSpec


@dataclass(frozen=True)
class PlaceOptions:
    """One place, as given."""

    lon: float | None
    lat: float | None
    bbox: str | None
    pointbuffer: str | None
    buffer: float | None

    def spatial(self) -> Spatial:
        """The place; UsageError unless exactly one is given."""
        point = self.lon is not None or self.lat is not None
        if [point, self.bbox is not None, self.pointbuffer is not None].count(True) != 1:
            raise click.UsageError("give a place: either --lon and --lat, or --bbox, or --pointbuffer")
        if point:
            if self.lon is None or self.lat is None:
                raise click.UsageError("--lon and --lat need each other")
            return PointBuffer(self.lon, self.lat, self.buffer)
        if self.buffer is not None:
            raise click.UsageError("--buffer belongs to a point; --bbox and --pointbuffer say their own extent")
        if self.bbox is not None:
            minlon, minlat, maxlon, maxlat = numbers("--bbox", self.bbox, "MINLON,MINLAT,MAXLON,MAXLAT")
            return BBox(minlon, minlat, maxlon, maxlat)
        lon, lat, buffer_m = numbers("--pointbuffer", self.pointbuffer or "", "LON,LAT,METRES")
        return PointBuffer(lon, lat, buffer_m)


def numbers(option: str, text: str, form: str) -> list[float]:
    """``text`` as the numbers that ``form`` names, by commas; UsageError for anything else."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != form.count(",") + 1:
        raise click.UsageError(f"{option} takes {form.count(',') + 1} numbers {form}, got {text!r}")
    return found


place_options = together(
    click.option("--lon", type=float, help="Longitude of the place, degrees."),
    click.option("--lat", type=float, help="Latitude of the place, degrees."),
    click.option("--bbox", metavar="MINLON,MINLAT,MAXLON,MAXLAT", help="A box instead, degrees (--bbox=-1,2,3,4 where "
                 "the first number is negative)."),
    click.option("--pointbuffer", metavar="LON,LAT,METRES", help="--lon, --lat and --buffer in one."),
    click.option("--buffer", type=float, metavar="METRES", help="Half a side of the square around the point "
                 "[default: the model's own footprint]."),
)  # fmt: skip


def days_of(given: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """First day and day after the last one, from --start and --end or --range; None where they are not said."""
    if given["span"] is None:
        return given["start"], given["end"]
    if given["start"] is not None or given["end"] is not None:
        raise click.UsageError("give --range or --start and --end, not both")
    start, comma, end = given["span"].partition(",")
    if not (comma and start.strip() and end.strip()):
        raise click.UsageError(f"--range takes two days START,END, got {given['span']!r}")
    return start.strip(), end.strip()


range_option = click.option("--range", "span", metavar="START,END", help="--start and --end in one.")


def temporal_of(year: int | None, start: str | None, end: str | None) -> TemporalSpec | None:
    """The one window that these say; None for none."""
    if (start is None) != (end is None):
        raise click.UsageError("--start and --end need each other")
    if year is not None and start is not None:
        raise click.UsageError("give --year or --start and --end, not both")
    if year is not None:
        return TemporalSpec.year(year)
    return None if start is None or end is None else TemporalSpec.range(start, end)


window_options = together(
    click.option("--year", type=int, help="A calendar year [default: the last complete one]."),
    click.option("--start", metavar="DAY", help="First day, such as 2022-06-01."),
    click.option("--end", metavar="DAY", help="Day after the last one."),
    range_option,
)
