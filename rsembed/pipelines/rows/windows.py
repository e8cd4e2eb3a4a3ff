"""The windows of rows: from their own columns, or the run's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.core.specs import Window, parse_date
from rsembed.pipelines.rows.problems import Problems
from rsembed.pipelines.rows.source import find_column, plain
from rsembed.tools.temporal import last_complete_year

Days = NDArray[np.int64]

_EPOCH = dt.date(1970, 1, 1).toordinal()
_FIRST_DAY = dt.date.min.toordinal() - _EPOCH
_LAST_DAY = dt.date.max.toordinal() - _EPOCH


@dataclass(frozen=True)
class WindowPolicy:
    """Where windows come from.

    A row's own columns ``start,end`` come first, then ``date`` (only when ``around_days``
    is given: that many whole days on either side of it), then ``year``; else every window
    of ``default``, each making a row of its own; else the last complete year before
    ``today`` (None: the clock's, UTC).
    """

    default: tuple[Window, ...] = ()
    around_days: int | None = None
    today: dt.date | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", tuple(self.default))
        if len(set(self.default)) < len(self.default):
            raise SpecError(f"the default windows must differ, got {', '.join(map(str, self.default))}")
        days = self.around_days
        if days is not None and (isinstance(days, bool) or not isinstance(days, Integral)):
            raise SpecError(f"the days around a date must be a whole number, got {days!r}")
        if self.around_days is not None and self.around_days < 0:
            raise SpecError(f"the days around a date cannot be negative, got {self.around_days}")

    def columns(self, names: Sequence[str]) -> WindowColumns:
        """Which of the table's columns ``names`` give the windows.

        Raises SpecError for ``start`` without ``end`` and for ``around_days`` without ``date``.
        """
        start, end, date, year = (find_column(names, (name,)) for name in ("start", "end", "date", "year"))
        if (start is None) != (end is None):
            there, missing = (start, "end") if start else (end, "start")
            raise SpecError(f"the table has a column {there!r} but no {missing!r}; add it or rename the other")
        if start and end:
            if self.around_days is not None:
                raise SpecError("days around a date were asked for, but the table has start and end; drop one of them")
            return WindowColumns("range", (start, end))
        if self.around_days is not None:
            if date is None:
                raise SpecError(f"days around a date need a column 'date'; the table has {', '.join(names)}")
            return WindowColumns("date", (date,), around_days=self.around_days)
        if year:
            return WindowColumns("year", (year,))
        return WindowColumns("default", (), self.windows())

    def windows(self) -> tuple[Window, ...]:
        """The windows of rows that have none of their own."""
        return self.default or (last_complete_year(self.today or dt.datetime.now(dt.UTC).date()),)


@dataclass(frozen=True)
class WindowColumns:
    """The columns that windows are read from; ``windows`` of the kind default, ``around_days`` of the kind date."""

    kind: Literal["range", "date", "year", "default"]
    names: tuple[str, ...]
    windows: tuple[Window, ...] = ()
    around_days: int = 0


def read_windows(batch: pa.RecordBatch, columns: WindowColumns, *, problems: Problems) -> tuple[Days, Days]:
    """First day and day after the last one, days since 1970, each of shape (rows, windows a row).

    What is wrong with single rows goes into ``problems``; a column of a type that holds no
    dates raises SpecError.
    """
    if columns.kind == "default":
        bounds = np.array([(w.start.toordinal(), w.end.toordinal()) for w in columns.windows]) - _EPOCH
        shape = (batch.num_rows, len(bounds))
        return np.broadcast_to(bounds[:, 0], shape), np.broadcast_to(bounds[:, 1], shape)
    if columns.kind == "range":
        start, end = (_read_days(batch, name, problems) for name in columns.names)
        bad = problems.free & (start >= end)
        problems.add(bad, lambda i: f"start {_day(start[i])} is not before end {_day(end[i])}")
    elif columns.kind == "date":
        days = columns.around_days
        date = _read_days(batch, columns.names[0], problems)
        start, end = date - days, date + days + 1
        bad = problems.free & ((start < _FIRST_DAY) | (end > _LAST_DAY))
        problems.add(bad, lambda i: f"{days} days around {_day(date[i])} leave the calendar (years 1 to 9999)")
    else:
        year = _read_years(batch, columns.names[0], problems)
        start, end = _new_year(year), _new_year(year + 1)
    return start[:, None], end[:, None]


def _day(days: np.int64) -> str:
    return dt.date.fromordinal(int(days) + _EPOCH).isoformat()


def _new_year(year: NDArray[np.int64]) -> Days:
    return (year - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _read_days(batch: pa.RecordBatch, name: str, problems: Problems) -> Days:
    """Days since 1970, shape (rows,); 0 where the row has a problem. The day of a time stamp is its local one."""
    raw = plain(batch.column(name))
    given = raw
    if pa.types.is_timestamp(raw.type):
        # A column with a zone shows local times; "the day" is the one that the user sees.
        days = pc.floor_temporal(pc.local_timestamp(raw) if raw.type.tz else raw, unit="day").cast(pa.date32())
    elif pa.types.is_date(raw.type):
        days = raw.cast(pa.date32())
    elif _is_text(raw.type):
        days = _parse_days(raw.cast(pa.large_string()))
    elif pa.types.is_null(raw.type):
        days = raw.cast(pa.date32())
    else:
        raise SpecError(
            f"column {name!r} must hold dates (ISO text such as 2022-06-01, date or timestamp), it is {raw.type}"
        )
    missing = np.asarray(given.is_null())
    problems.add(missing, lambda i: f"{name} is missing")
    unread = np.asarray(days.is_null())
    problems.add(unread, lambda i: f"{name} must be an ISO date such as 2022-06-01, got {given[i].as_py()!r}")
    found: Days = days.cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    beyond = (found < _FIRST_DAY) | (found > _LAST_DAY)
    problems.add(beyond, lambda i: f"{name} lies outside the years 1 to 9999")
    return np.where(beyond, 0, found)


def _parse_days(text: pa.Array) -> pa.Array:
    """Text as date32, null where it is no ISO date; the day of a date-time is taken."""
    try:
        return text.cast(pa.date32())
    except pa.ArrowInvalid:
        # Something else than plain YYYY-MM-DD is there: read each distinct text once.
        encoded = text.dictionary_encode()
        days = pa.array([_parse_day(each) for each in encoded.dictionary.to_pylist()], pa.date32())
        return days.take(encoded.indices)


def _parse_day(text: str | None) -> dt.date | None:
    try:
        return None if text is None else parse_date(text.strip())
    except SpecError:
        return None


def _read_years(batch: pa.RecordBatch, name: str, problems: Problems) -> NDArray[np.int64]:
    """Years, shape (rows,); 2000 where the row has a problem."""
    raw = plain(batch.column(name))
    if _is_text(raw.type):
        text = pc.utf8_trim_whitespace(raw.cast(pa.large_string()))
        spelled = pc.match_substring_regex(text, r"^[0-9]{1,4}(\.0*)?$")
        number = pc.if_else(spelled, text, None).cast(pa.float64())
    elif pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type) or pa.types.is_null(raw.type):
        number = raw.cast(pa.float64(), safe=False)
    else:
        raise SpecError(f"column {name!r} must hold years as whole numbers, it is {raw.type}")
    problems.add(np.asarray(raw.is_null()), lambda i: f"{name} is missing")
    years = number.fill_null(np.nan).to_numpy(zero_copy_only=False)
    bad = ~((years >= 1) & (years <= 9998) & (years == np.floor(years)))
    problems.add(bad, lambda i: f"{name} must be a whole number from 1 to 9998, got {raw[i].as_py()!r}")
    found: NDArray[np.int64] = np.where(bad, 2000, years).astype(np.int64)
    return found
