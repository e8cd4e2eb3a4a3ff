"""Windows of rows."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from rsembed.core.errors import SpecError
from rsembed.core.specs import Window
from rsembed.pipelines.rows.problems import Problems
from rsembed.pipelines.rows.windows import WindowPolicy, read_windows

TODAY = dt.date(2024, 5, 5)
JUNE = Window(dt.date(2022, 6, 1), dt.date(2022, 7, 1))
JULY = Window(dt.date(2022, 7, 1), dt.date(2022, 8, 1))


def windows(policy: WindowPolicy, **columns: object) -> tuple[list[list[str]], list[str | None]]:
    batch = pa.record_batch({"lon": [0.0] * len(next(iter(columns.values()))), **columns})  # type: ignore[arg-type]
    problems = Problems(batch.num_rows)
    start, end = read_windows(batch, policy.columns(batch.schema.names), problems=problems)
    text = [
        [f"{a}..{b}" for a, b in zip(row_a, row_b, strict=True)]
        for row_a, row_b in zip(start.astype("datetime64[D]"), end.astype("datetime64[D]"), strict=True)
    ]
    return text, problems.reasons.tolist()


def test_windows_when_nothing_is_given_then_the_last_complete_year() -> None:
    assert windows(WindowPolicy(today=TODAY), other=[1])[0] == [["2023-01-01..2024-01-01"]]


def test_windows_when_the_run_has_several_then_each_row_has_all() -> None:
    found, _ = windows(WindowPolicy((JUNE, JULY)), other=[1, 2])
    assert found == [["2022-06-01..2022-07-01", "2022-07-01..2022-08-01"]] * 2


def test_windows_when_the_run_names_one_twice_then_it_is_refused() -> None:
    with pytest.raises(SpecError, match="must differ"):
        WindowPolicy((JUNE, JUNE))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (["2022-06-01"], ["2022-07-01"]),
        (["2022-06-01T12:30:00Z"], [" 20220701 "]),
        ([dt.date(2022, 6, 1)], [dt.date(2022, 7, 1)]),
        (np.array(["2022-06-01T23:59"], "datetime64[s]"), np.array(["2022-07-01"], "datetime64[ns]")),
        (pa.array(["2022-06-01"]).dictionary_encode(), pa.array(["2022-07-01"], pa.large_string())),
        (pa.array([dt.date(2022, 6, 1)], pa.date64()), pa.array(["2022-07-01"], pa.string_view())),
    ],
)
def test_windows_when_start_and_end_are_columns_then_any_spelling_of_a_day_is_read(start: object, end: object) -> None:
    assert windows(WindowPolicy((JULY,)), start=start, end=end) == ([["2022-06-01..2022-07-01"]], [None])


def test_windows_when_a_time_stamp_has_a_zone_then_its_local_day_counts() -> None:
    late = dt.datetime(2022, 6, 2, 3, 0, tzinfo=dt.UTC)
    start = pa.array([late], pa.timestamp("us", "America/New_York"))
    assert windows(WindowPolicy(), start=start, end=["2022-07-01"])[0] == [["2022-06-01..2022-07-01"]]


def test_windows_when_single_rows_are_wrong_then_each_gets_its_reason() -> None:
    _, reasons = windows(
        WindowPolicy(),
        start=["2022-06-01", None, "soon", "2022-07-01", "2022-02-30", "2022-07-02"],
        end=["2022-07-01", "2022-07-01", "2022-07-01", None, "2022-07-01", "2022-07-02"],
    )
    assert reasons == [
        None,
        "start is missing",
        "start must be an ISO date such as 2022-06-01, got 'soon'",
        "end is missing",
        "start must be an ISO date such as 2022-06-01, got '2022-02-30'",
        "start 2022-07-02 is not before end 2022-07-02",
    ]


def test_windows_when_a_date_column_goes_beyond_the_calendar_then_the_row_is_wrong() -> None:
    start = pa.array([-5_000_000], pa.int32()).cast(pa.date32())
    assert windows(WindowPolicy(), start=start, end=["2022-01-01"])[1] == ["start lies outside the years 1 to 9999"]


def test_windows_when_only_start_is_there_then_end_is_asked_for() -> None:
    with pytest.raises(SpecError, match="a column 'start' but no 'end'"):
        windows(WindowPolicy(), start=["2022-06-01"])


def test_windows_when_the_column_holds_no_dates_then_its_type_is_named() -> None:
    with pytest.raises(SpecError, match=r"column 'start' must hold dates .* it is double"):
        windows(WindowPolicy(), start=[1.5], end=["2022-07-01"])


@pytest.mark.parametrize(
    "year",
    [[2020], [2020.0], ["2020"], [" 2020 "], pa.array([2020], pa.uint16()), pa.array(["2020"]).dictionary_encode()],
)
def test_windows_when_year_is_a_column_then_the_calendar_year(year: object) -> None:
    assert windows(WindowPolicy((JUNE,)), year=year) == ([["2020-01-01..2021-01-01"]], [None])


def test_windows_when_years_are_wrong_then_rows_get_reasons() -> None:
    _, reasons = windows(WindowPolicy(), year=[2020.5, None, 0, 9999, np.nan, np.inf])
    assert reasons[1] == "year is missing"
    assert all(str(reasons[i]).startswith("year must be a whole number from 1 to 9998, got") for i in (0, 2, 3, 4, 5))
    _, reasons = windows(WindowPolicy(), year=["MMXX", "-3"])
    assert reasons[0] == "year must be a whole number from 1 to 9998, got 'MMXX'"


def test_windows_when_around_a_date_then_whole_days_on_either_side() -> None:
    found, reasons = windows(WindowPolicy(around_days=45), date=["2022-06-15", "9999-12-30"], year=[2020, 2020])
    assert found[0] == ["2022-05-01..2022-07-31"]
    assert reasons == [None, "45 days around 9999-12-30 leave the calendar (years 1 to 9999)"]


def test_windows_when_a_date_has_no_days_around_then_the_default_is_taken() -> None:
    assert windows(WindowPolicy((JUNE,)), date=["2020-02-02"])[0] == [["2022-06-01..2022-07-01"]]


def test_windows_when_around_has_no_date_then_the_columns_are_named() -> None:
    with pytest.raises(SpecError, match="need a column 'date'; the table has lon, other"):
        windows(WindowPolicy(around_days=3), other=[1])


def test_windows_when_around_meets_start_and_end_then_it_is_refused() -> None:
    with pytest.raises(SpecError, match="drop one of them"):
        windows(WindowPolicy(around_days=3), start=["2022-06-01"], end=["2022-07-01"], date=["2022-06-01"])


def test_windows_when_around_is_negative_then_it_is_refused() -> None:
    with pytest.raises(SpecError, match="cannot be negative"):
        WindowPolicy(around_days=-1)
