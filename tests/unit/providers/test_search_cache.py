"""Answers of searches on disk."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import geopandas
import pytest
from shapely.geometry import box

from rsembed.core.specs import Window
from rsembed.providers.scenes import Asset, Scene
from rsembed.providers.search_cache import SearchCache

QUARTER = Window(dt.date(2022, 1, 1), dt.date(2022, 4, 1))
NOW = dt.datetime(2023, 6, 1, tzinfo=dt.UTC).timestamp()
CELL = (2.0, 42.0)
SCENES = [
    Scene(
        "a", "c1", dt.datetime(2022, 2, 1, 10, 50, 3, tzinfo=dt.UTC), (2.0, 42.0, 3.0, 43.0),
        {"B4": Asset("https://example.org/B4.tif", scale=0.0001, offset=-0.1, nodata=0.0, checksum="1220ab")},
        box(2, 42, 3, 43), 12.5, "sentinel-2a", "051", "", "31TDG", 5.0, "", "sentinel-2", offset_applied=True,
    ),
    Scene("b", "c1", None, (179.0, 0.0, -179.0, 1.0), {}),
]  # fmt: skip


def cache(folder: Path, *, later_s: float = 0.0) -> SearchCache:
    return SearchCache(folder, "https://example.org/v1", now=lambda: NOW + later_s)


def kept(folder: Path, window: Window = QUARTER) -> Path:
    cache(folder).put(("c1", "l2a"), CELL, window, SCENES)
    (path,) = folder.glob("*/*.parquet")
    os.utime(path, (NOW, NOW))
    return path


def test_get_when_kept_before_then_the_same_scenes(tmp_path: Path) -> None:
    kept(tmp_path)
    assert cache(tmp_path).get(("c1", "l2a"), CELL, QUARTER) == SCENES


@pytest.mark.parametrize(
    ("collections", "cell", "window"),
    [(("c1",), CELL, QUARTER), (("c1", "l2a"), (3.0, 42.0), QUARTER),
     (("c1", "l2a"), CELL, Window(dt.date(2022, 4, 1), dt.date(2022, 7, 1)))],
)  # fmt: skip
def test_get_when_something_else_is_asked_then_nothing(
    tmp_path: Path, collections: tuple[str, ...], cell: tuple[float, float], window: Window
) -> None:
    kept(tmp_path)
    assert cache(tmp_path).get(collections, cell, window) is None


def test_get_when_another_service_is_asked_then_nothing(tmp_path: Path) -> None:
    kept(tmp_path)
    assert SearchCache(tmp_path, "https://other.org", now=lambda: NOW).get(("c1", "l2a"), CELL, QUARTER) is None


def test_get_when_the_answer_is_old_then_nothing_and_sooner_for_recent_windows(tmp_path: Path) -> None:
    recent = Window(dt.date(2023, 4, 1), dt.date(2023, 7, 1))
    kept(tmp_path / "settled")
    kept(tmp_path / "recent", recent)
    day = 86_400.0
    assert cache(tmp_path / "settled", later_s=29 * day).get(("c1", "l2a"), CELL, QUARTER) == SCENES
    assert cache(tmp_path / "settled", later_s=31 * day).get(("c1", "l2a"), CELL, QUARTER) is None
    assert cache(tmp_path / "recent", later_s=3600.0).get(("c1", "l2a"), CELL, recent) == SCENES
    assert cache(tmp_path / "recent", later_s=4 * 3600.0).get(("c1", "l2a"), CELL, recent) is None


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really"])
def test_get_when_the_file_is_damaged_then_nothing(tmp_path: Path, content: bytes) -> None:
    path = kept(tmp_path)
    path.write_bytes(content)
    os.utime(path, (NOW, NOW))
    assert cache(tmp_path).get(("c1", "l2a"), CELL, QUARTER) is None


def test_put_when_the_folder_cannot_be_made_then_only_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    SearchCache(tmp_path / "file", "https://example.org").put(("c1",), CELL, QUARTER, SCENES)
    assert [record.message for record in caplog.records] == ["search_not_cached"]


def test_put_when_answers_are_too_old_to_be_used_then_they_are_deleted(tmp_path: Path) -> None:
    old = kept(tmp_path)
    os.utime(old, (NOW - 40 * 86_400, NOW - 40 * 86_400))
    cache(tmp_path).put(("c1",), CELL, QUARTER, SCENES)
    (left,) = tmp_path.glob("*/*")
    assert left != old


def test_put_when_done_then_one_whole_file_that_other_tools_open(tmp_path: Path) -> None:
    path = kept(tmp_path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    frame = geopandas.read_parquet(path)
    assert frame["id"].tolist() == ["a", "b"]
    assert frame.geometry[0].bounds == (2.0, 42.0, 3.0, 43.0)
