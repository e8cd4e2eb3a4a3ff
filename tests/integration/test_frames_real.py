"""Frames of real stacks, as models of several dates get them, against dates and clouds read from the items here."""

from __future__ import annotations

import datetime as dt
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rsembed import PointBuffer, TemporalSpec, inspect_model_input
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.providers.stac import StacProvider
from tests.builders import by_id, run_export
from tests.small_networks import ALL

BOADELLA, FLANDERS = PointBuffer(2.815, 42.345, 320), PointBuffer(3.0239, 50.816, 160)
WINDOWS = {
    "two dates": ("2020-01-20", "2020-02-01"),
    "two months": ("2020-01-10", "2020-03-12"),
    "five years": ("2018-01-01", "2023-01-01"),
    "twelve dates": ("2020-01-01", "2022-07-01"),
    "between": ("2020-06-30", "2020-10-15"),
}


@dataclass(frozen=True)
class Scene:
    """An item of the catalogue."""

    name: str
    day: dt.date
    cloud_pct: float


def scenes(real_data: Path, pattern: str) -> list[Scene]:
    found = []
    for path in sorted(real_data.glob(pattern)):
        item = json.loads(path.read_text())
        about = item["properties"]
        day = dt.datetime.fromisoformat(about["datetime"]).date()
        found.append(Scene(item["id"], day, float(about.get("eo:cloud_cover") or 0)))
    return found


def equal(start: dt.date, days: int, parts: int) -> list[tuple[dt.date, dt.date]]:
    edges = [start + dt.timedelta(days=days * i // parts) for i in range(parts + 1)]
    return list(zip(edges, edges[1:], strict=False))


def months(start: dt.date, end: dt.date, *, begun: bool) -> list[tuple[dt.date, dt.date]]:
    """Bins of 30 days; twelve equal parts where they would miss a month."""
    days = (end - start).days
    wanted = max(1, -(-days // 30) if begun else days // 30)
    if wanted == 1 or days - 12 * 30 >= 30:
        return equal(start, days, min(wanted, 12))
    edges = [start + dt.timedelta(days=30 * i) for i in range(min(wanted, 12) + 1)]
    return [(a, min(b, end)) for a, b in zip(edges, edges[1:], strict=False)]


def middle_day(days: list[dt.date]) -> dt.date:
    return dt.date.fromordinal(int(statistics.median(day.toordinal() for day in days)))


Frame = tuple[str, str, str | None, int, tuple[str, ...]]


def composites(
    stack: list[Scene], bins: list[tuple[dt.date, dt.date]], *, most_pct: float, midpoint: bool, best_only: bool = False
) -> list[Frame]:
    """Start, end, date, number of images and their names of every bin."""
    frames: list[Frame] = []
    for start, end in bins:
        used = [scene for scene in stack if start <= scene.day < end and scene.cloud_pct <= most_pct]
        if best_only and used:
            used = [min(used, key=lambda scene: (scene.cloud_pct, scene.day))]
        day = None
        if used:
            middle = start + dt.timedelta(days=(end - start).days // 2)
            day = (middle if midpoint else middle_day([scene.day for scene in used])).isoformat()
        names = tuple(sorted(scene.name for scene in used))
        frames.append((start.isoformat(), end.isoformat(), day, len(used), names))
    return frames


def seen(real_data: Path, model: str, spatial: PointBuffer, window: tuple[str, str], **options: Any) -> list[Frame]:
    """What the model would be given."""
    report = inspect_model_input(
        model, spatial=spatial, temporal=TemporalSpec.range(*window), backend="stac", catalog=real_data, **options
    )
    frames = report["report"]["frames"]
    assert report["n_frames"] == len(frames)
    assert report["n_empty"] == sum(frame["n_images"] == 0 for frame in frames)
    return [(f["start"], f["end"], f["date"], f["n_images"], tuple(f["scene_ids"])) for f in frames]


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_prithvi_when_real_stack_then_a_frame_per_28_days_at_most_four(name: str, recipe: str, real_data: Path) -> None:
    start, end = (dt.date.fromisoformat(day) for day in WINDOWS[name])
    days = (end - start).days
    stack = scenes(real_data, "sentinel-2-c1-l2a/*_BOADELLA_L2A/*.json")
    bins = equal(start, days, max(1, min(4, days // 28)))
    reference = recipe == "rs-embed"
    expected = composites(stack, bins, most_pct=30 if reference else 60, midpoint=reference)
    assert seen(real_data, "prithvi", BOADELLA, WINDOWS[name], recipe=recipe, context="none") == expected


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_olmoearth_when_real_stack_then_bins_of_30_days(name: str, recipe: str, real_data: Path) -> None:
    start, end = (dt.date.fromisoformat(day) for day in WINDOWS[name])
    stack = scenes(real_data, "sentinel-2-c1-l2a/*_BOADELLA_L2A/*.json")
    reference = recipe == "rs-embed"
    bins = months(start, end, begun=reference)
    pct = 30 if reference else 100
    expected = composites(stack, bins, most_pct=pct, midpoint=reference, best_only=not reference)
    assert seen(real_data, "olmoearth", BOADELLA, WINDOWS[name], recipe=recipe, context="none") == expected


@pytest.mark.parametrize("name", WINDOWS)
def test_galileo_when_real_stack_then_equal_parts_of_30_days_begun(name: str, real_data: Path) -> None:
    start, end = (dt.date.fromisoformat(day) for day in WINDOWS[name])
    stack = scenes(real_data, "sentinel-2-c1-l2a/*_BOADELLA_L2A/*.json")
    days = (end - start).days
    bins = equal(start, days, max(1, min(12, -(-days // 30))))
    expected = composites(stack, bins, most_pct=30, midpoint=True)
    assert seen(real_data, "galileo", BOADELLA, WINDOWS[name], recipe="rs-embed") == expected


def test_galileo_when_real_radar_then_one_pass_a_bin_dated_by_its_images(real_data: Path) -> None:
    window = ("2017-09-01", "2018-09-01")
    stack = scenes(real_data, "sentinel-1-grd/*_FLANDERS_GRD/*.json")
    bins = months(dt.date(2017, 9, 1), dt.date(2018, 9, 1), begun=False)
    assert len(bins) == 12
    expected = composites(stack, bins, most_pct=100, midpoint=False)
    assert sum(count for *_, count, _ in expected) >= 20
    assert seen(real_data, "galileo", FLANDERS, window, modality="s1", context="none") == expected


def table() -> pa.Table:
    rows = [("2020-01-10", "2020-03-12"), ("2018-01-01", "2023-01-01"), ("2020-01-20", "2020-02-01")]
    return pa.table(
        {
            "id": [f"row{i}" for i in range(len(rows))],
            "lon": [2.815 + 0.002 * i for i in range(len(rows))],
            "lat": [42.345] * len(rows),
            "start": [start for start, _ in rows],
            "end": [end for _, end in rows],
        }
    )


def test_export_when_models_of_all_kinds_read_a_real_stack_then_each_is_as_if_alone(
    real_data: Path, tmp_path: Path
) -> None:
    def exported(*models: str) -> Path:
        out = tmp_path / "-".join(model.partition(":")[0] for model in models)
        provider = StacProvider(real_data)
        options = {"recipe": "rs-embed", "buffer_m": 200.0, "batch_size": 2, "shard_size": 2}
        run_export(out, table(), *models, provider=provider, windows=WindowPolicy(), **options)
        provider.close()
        return out

    together = exported(*ALL)
    frames = set()
    for model in ALL:
        label = model.partition(":")[0]
        rows = by_id(together, label)
        assert rows == by_id(exported(model), label)
        assert {row["status"] for row in rows.values()} == {"ok"}
        frames.add(tuple(len(row["frame_dates"]) for row in rows.values()))
    assert frames == {(2, 4, 1), (3, 12, 1), (1, 1, 1)}
