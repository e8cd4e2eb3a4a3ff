"""What people see of results on a console and in a notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsembed import Embedding, load_export
from rsembed.core.display import Facts
from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRequest
from rsembed.testing.null import NullProvider
from tests.builders import places, run_export

META = {
    "model": "null",
    "recipe": "authors",
    "status": "ok",
    "temporal": {"start": "2022-01-01", "end": "2023-01-01"},
    "n_images": 3,
    "valid_fraction": 0.875,
    "grid": {"epsg": 32631, "transform": [20.0, 0.0, 480_000.0, 0.0, -20.0, 4_700_000.0]},
}


def test_embedding_when_shown_then_facts_and_not_its_numbers() -> None:
    text = repr(Embedding(np.arange(60_000, dtype=np.float32).reshape(6, 100, 100), META))
    assert text.splitlines() == [
        "Embedding 6 x 100 x 100, float32",
        "  model    null, authors",
        "  status   ok",
        "  window   2022-01-01..2023-01-01",
        "  images   3, 88% valid",
        "  cells    20 wide, EPSG:32631",
        "  numbers  0, 1, 2, 3, ...",
    ]


def test_embedding_when_nothing_is_known_of_it_then_shown_all_the_same() -> None:
    assert repr(Embedding(np.ones(2, np.float32))).splitlines() == ["Embedding 2, float32", "  numbers  1, 1, ..."]


def test_embedding_when_it_failed_then_the_reason_is_shown() -> None:
    meta = {"status": "failed", "error": {"stage": "fetch", "message": "no answer"}}
    assert "  error    no answer" in repr(Embedding(np.full(2, np.nan, np.float32), meta))


def test_embedding_when_shown_in_a_notebook_then_a_table_of_escaped_text() -> None:
    shown = Embedding(np.ones(2, np.float32), {"model": "<script>"})._repr_html_()
    assert "<td style='text-align:left'>&lt;script&gt;</td>" in shown
    assert "<script>" not in shown


def test_facts_when_nothing_is_known_then_the_heading_alone() -> None:
    assert Facts("One", {"a": ""}).text() == "One"


def refuse_some(request: FetchRequest) -> None:
    if int(request.grid.x_min) % 3 == 0:
        raise ProviderError("no answer")


def test_summary_when_shown_then_rows_by_status_and_why_some_failed(tmp_path: Path) -> None:
    summary = run_export(tmp_path / "run", places(12), provider=NullProvider(fault=refuse_some))
    failed = summary.counts["null"]["failed"]
    assert 0 < failed < 12
    lines = repr(summary).splitlines()
    assert lines[0] == f"Export of 12 rows to {tmp_path / 'run'}"
    assert lines[1] == "  window  2022-01-01..2023-01-01"
    assert lines[2].startswith(f"  null    {12 - failed} ok, {failed} failed (most often: ")
    assert "no answer" in lines[2]
    again = run_export(tmp_path / "run", places(12))
    assert f"  kept    {12 - failed} results of an earlier run" in repr(again)
    assert "12 ok" in again._repr_html_()


def test_result_when_shown_then_its_models(tmp_path: Path) -> None:
    run_export(tmp_path / "run", places(3), "null@one", "null@two")
    shown = repr(load_export(tmp_path / "run"))
    assert shown.splitlines() == [f"3 items in {tmp_path / 'run'} (dataset)", "  one  ok", "  two  ok"]
