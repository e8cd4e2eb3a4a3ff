"""Dates and ranges of dates, all in UTC."""

from __future__ import annotations

import datetime as dt
import re

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import Date, DateRange


@function("Date")
def _date(value: object) -> Date:
    if isinstance(value, Date):
        return value
    if isinstance(value, (int, float)):
        return Date(int(value))
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError as exc:
        raise EarthEngineError(f"Date: Bad date/time '{value}'.") from exc
    return Date(round((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000))


@function("DateRange")
def _date_range(start: object, end: object = None) -> DateRange:
    """Description of DateRange: a millisecond long where no end is given."""
    first = _date(start)
    last = Date(first.millis + 1) if end is None else _date(end)
    if last.millis <= first.millis:
        raise EarthEngineError("DateRange: the range is empty: its end must be after its start.")
    return DateRange(first, last)


@function("Date.millis")
def _millis(date: Date) -> int:
    return date.millis


_UNIT_MILLIS = {"week": 604_800_000, "day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1000}


@function("Date.advance")
def _advanced(date: Date, delta: float, unit: str) -> Date:
    unit = unit.removesuffix("s")
    if unit in _UNIT_MILLIS:
        return Date(date.millis + round(delta * _UNIT_MILLIS[unit]))
    moment = date.moment()
    if unit not in ("month", "year") or delta != int(delta) or moment.day > 28:
        raise NotModelledError(f"Date.advance of {moment.isoformat()} by {delta} {unit}")
    months = moment.year * 12 + moment.month - 1 + int(delta) * (12 if unit == "year" else 1)
    return Date(round(moment.replace(year=months // 12, month=months % 12 + 1).timestamp() * 1000))


@function("Date.difference")
def _difference(date: Date, start: Date, unit: str) -> float:
    length = _UNIT_MILLIS.get(unit.removesuffix("s"))
    if length is None:
        raise NotModelledError(f"Date.difference in {unit}s, of an average length")
    return (date.millis - start.millis) / length


@function("Date.get")
def _unit_of(date: Date, unit: str) -> int:
    if unit not in ("year", "month", "day", "hour", "minute", "second"):
        raise NotModelledError(f"Date.get('{unit}')")
    return int(getattr(date.moment(), unit))


_JODA = {"YYYY": "%Y", "yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S", "DDD": "%j"}


@function("Date.format")
def _date_text(date: Date, format: str | None = None) -> str:  # noqa: A002
    """Description of Date.format: a Joda-Time pattern, ISO 8601 where none is given."""
    if format is None:
        return date.moment().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made = ""
    for found in re.finditer(r"'([^']*)'|([A-Za-z])\2*|[^A-Za-z']", format):
        piece = found.group()
        if found.group(2) and piece not in _JODA:
            raise NotModelledError(f"Date.format with the pattern {format!r}")
        made += date.moment().strftime(_JODA[piece]) if found.group(2) else found.group(1) or piece
    return made
