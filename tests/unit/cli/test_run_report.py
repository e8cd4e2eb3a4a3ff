from __future__ import annotations

from pathlib import Path

from rsembed.cli.run_report import summary_lines
from rsembed.pipelines.exporter import ExportSummary


def summary(**changes: object) -> ExportSummary:
    counts = {"ok": 0, "low_quality": 0, "no_data": 0, "collection_gap": 0, "failed": 0}
    given: dict[str, object] = {
        "out": Path("out"),
        "fingerprint": "f",
        "n_rows": 3,
        "counts": {"m": {**counts, "ok": 3}},
        "failures": {"m": {}},
        "resumed_rows": 0,
        "requests": 3,
        "seconds": 1.0,
        "windows": "2022-01-01..2023-01-01",
    }
    return ExportSummary(**{**given, **changes})  # type: ignore[arg-type]


def test_summary_when_no_row_has_imagery_then_it_asks_the_likely_questions() -> None:
    text = "\n".join(summary_lines(summary(counts={"m": {"no_data": 3}})))
    assert "no row has imagery" in text
    assert "2022-01-01..2023-01-01" in text
    assert "lon and lat swapped" in text
    assert "no row has imagery" not in "\n".join(summary_lines(summary()))


def test_summary_when_rows_failed_then_the_commonest_reason_is_told() -> None:
    failed = summary(
        counts={"m": {"failed": 3}}, failures={"m": {"provider": 3}}, reasons={"m": ("ProviderError: no band B8", 2)}
    )
    assert "  2 of them: ProviderError: no band B8" in summary_lines(failed)
