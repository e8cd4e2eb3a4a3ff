"""Models of one frame and of several in one run: shared fetches, frames and their dates, rows of mixed frame counts."""

from __future__ import annotations

import datetime as dt
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rsembed import PointBuffer, TemporalSpec, get_embedding
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.batching import run_slots
from rsembed.embedders.onthefly import olmoearth
from rsembed.embedders.options import make_config
from rsembed.embedders.prepared import Prepared
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.estimate import estimate_run
from rsembed.pipelines.plan import RunPlan, plan_run, sharing_report
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.tools.temporal import frame_bins
from rsembed.tools.tiling import whole_image
from tests.builders import by_id, row_table, run_export, run_request
from tests.small_networks import ALL, CLAY, GALILEO, PRITHVI

FIRST = dt.date(2021, 1, 1)
LENGTHS = (20, 45, 95, 130, 365, 1)
"""Days of the rows' windows."""


def is_empty(window: Window) -> bool:
    """Whether the satellite never came: every fourth month, as far as bins of a month tell."""
    return window.days <= 40 and window.start.toordinal() // 30 % 4 == 3


def acquired(recipe: FetchRecipe, window: Window) -> dt.date:
    return window.midpoint if recipe.frame_date == "midpoint" else window.start + dt.timedelta(days=window.days // 3)


class SeriesProvider:
    """Land whose values follow from band, date and place of every pixel, whatever else is asked along."""

    name = "series"

    def __init__(self) -> None:
        self.asked: list[FetchRequest] = []
        self._lock = threading.Lock()

    def describe(self) -> Mapping[str, Json]:
        return {"backend": self.name}

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass

    def fetch(self, request: FetchRequest) -> Patch:
        with self._lock:
            self.asked.append(request)
        grid, recipe = request.grid, request.recipe
        rows = np.round(grid.y_max / grid.scale_m) - np.arange(grid.height)
        columns = np.round(grid.x_min / grid.scale_m) + np.arange(grid.width)
        land = rows[:, None] * 7919 + columns * 1047
        values = np.zeros((len(request.bins), len(request.bands), grid.height, grid.width), np.float32)
        frames = []
        for t, window in enumerate(request.bins):
            if is_empty(window):
                frames.append(Frame(window))
                continue
            day = acquired(recipe, window)
            frames.append(Frame(window, 1, day, day, day, (f"scene-{day}",)))
            for c, band in enumerate(request.bands):
                values[t, c] = (land + zlib.crc32(f"{band}{day}{recipe.collection}".encode()) % 4001) % 4000
        valid = np.broadcast_to(np.array([f.n_images > 0 for f in frames])[:, None, None, None], values.shape)
        return Patch(values, valid.copy(), request.bands, grid, tuple(frames), {"requests": 1})


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def table() -> pa.Table:
    days = [FIRST + dt.timedelta(days=11 * i) for i in range(len(LENGTHS))]
    return pa.table(
        {
            "id": [f"row{i}" for i in range(len(LENGTHS))],
            "lon": [8.0 + 0.05 * i for i in range(len(LENGTHS))],
            "lat": [47.0] * len(LENGTHS),
            "start": days,
            "end": [day + dt.timedelta(days=n) for day, n in zip(days, LENGTHS, strict=True)],
        }
    )


def plan(*models: str, **changes: Any) -> RunPlan:
    return plan_run(run_request(*models, **changes), SeriesProvider(), Settings())


def exported(out: Path, *models: str, recipe: str = "authors") -> SeriesProvider:
    provider = SeriesProvider()
    options = {"shard_size": 4, "batch_size": 2, "fetch_workers": 2, "shards_per_part": 8, "recipe": recipe}
    run_export(out, table(), *models, provider=provider, windows=WindowPolicy(), **options)
    return provider


def test_plan_when_scales_bins_and_products_differ_then_a_fetch_each_and_it_says_why() -> None:
    planned = plan(*ALL)
    assert len(planned.groups) == 4
    why = {tuple(line.split(" cannot")[0].split(" and ")): line for line in sharing_report(planned.groups)}
    scale, frames = "scale_m (30 / 10)", "frames (one per 28 days, at most 4 / one composite of the window)"
    assert f"differ in {scale}, {frames}" in why["small-prithvi", "small-clay"]
    assert (
        "collection (COPERNICUS/S2_HARMONIZED / COPERNICUS/S2_SR_HARMONIZED)" in why["small-galileo", "small-olmoearth"]
    )
    for text in (
        "composite (mosaic / median)",
        "clouds (no mask, all scenes / masked by SCL, scenes up to 60 %, else 90 %)",
    ):
        assert text in why["small-olmoearth", "small-clay"]


def test_plan_when_all_take_one_composite_then_only_the_scale_divides_them() -> None:
    single = [f"{model}{':' if model == CLAY else ','}temporal_mode=single" for model in ALL if model != CLAY]
    planned = plan(*single, CLAY, recipe="rs-embed")
    assert [[model.label for model in group.models] for group in planned.groups] == [
        ["small-prithvi"], ["small-galileo", "small-olmoearth", "small-clay"]
    ]  # fmt: skip
    [why] = sharing_report(planned.groups)
    assert why.endswith("cannot share a fetch: they differ in scale_m (30 / 10)")


def test_estimate_when_a_window_is_too_long_for_the_bins_then_it_warns(tmp_path: Path) -> None:
    ten_years = Window(dt.date(2012, 1, 1), dt.date(2022, 1, 1))
    rows = pa.table({"lon": [8.0], "lat": [47.0]})
    estimate = estimate_run(plan(PRITHVI, GALILEO), row_table(rows, tmp_path, ten_years))
    assert [text for text in estimate.warnings if "longer" in text] == [
        "small-galileo: 2012-01-01..2022-01-01 is longer than 12 bins of 30 days, so a frame stands for up to 305 days"
    ]


@dataclass(frozen=True)
class Together:
    """All four models, exported together."""

    recipe: str
    out: Path
    asked: Sequence[FetchRequest]


@pytest.fixture(scope="module", params=["authors", "rs-embed"])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    out = tmp_path_factory.mktemp("together")
    return Together(request.param, out, exported(out, *ALL, recipe=request.param).asked)


def test_export_when_models_of_all_kinds_run_together_then_one_request_a_row_and_group(together: Together) -> None:
    assert len(together.asked) == len(LENGTHS) * 4


@pytest.mark.parametrize("model", ALL)
def test_export_when_models_of_all_kinds_run_together_then_each_is_as_if_alone(
    model: str, together: Together, tmp_path: Path
) -> None:
    label = model.partition(":")[0]
    exported(tmp_path, model, recipe=together.recipe)
    rows = by_id(together.out, label)
    assert rows == by_id(tmp_path, label)
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_export_when_bins_are_empty_then_frame_dates_say_which(together: Together) -> None:
    for model in plan(*ALL, recipe=together.recipe).models:
        counts = set()
        for row in by_id(together.out, model.label).values():
            bins = frame_bins(Window(row["start"], row["end"]), model.recipe.frames)
            expected = [None if is_empty(b) else acquired(model.recipe, b) for b in bins]
            assert row["frame_dates"] == expected
            assert row["n_images"] == len(bins) - expected.count(None)
            counts.add(len(bins))
        assert (counts == {1}) == (model.label == "small-clay")


def test_embedding_when_a_bin_is_empty_then_its_meta_says_so_and_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"1 of 1 places have no imagery in 1 of 5 time bins \(numbers 2\)"):
        found = get_embedding(
            "small-olmoearth",
            spatial=PointBuffer(8.0, 47.0),
            temporal=TemporalSpec.range("2021-01-01", "2021-06-05"),
            backend=SeriesProvider(),
            device="cpu",
            image_size=32,
            patch_size=8,
        )
    bins = frame_bins(Window(dt.date(2021, 1, 1), dt.date(2021, 6, 5)), olmoearth.CARD.inputs["s2"].frames)
    assert found.meta["n_bins"] == len(bins) == 5
    assert found.meta["n_frames"] == 5 - sum(map(is_empty, bins)) < 5
    assert [day is None for day in found.meta["frame_dates"]] == [is_empty(b) for b in bins]
    assert found.meta["empty_bins"] == [2]


def loaded(name: str, **options: object) -> EmbedderBase:
    cls = REGISTRY.get(name)
    made = cls(make_config(cls.card, options=options))
    made.resolve(Settings())
    made.load("cpu")
    return made


def inputs(made: EmbedderBase, days: int, slot: int) -> list[Prepared]:
    """One row's inputs, its window of that many days."""
    start = FIRST + dt.timedelta(days=17 * slot)
    window = Window(start, start + dt.timedelta(days=days))
    contract = made.contract
    side = contract.image_size
    bins = frame_bins(window, contract.frames)
    frames = tuple(Frame(b) if is_empty(b) else Frame(b, 1, b.midpoint) for b in bins)
    values = np.random.default_rng(slot).uniform(0, 3000, (len(bins), len(contract.bands), side, side))
    on = Grid(32632, 0.0, 0.0, contract.scale_m, side, side)
    patch = Patch(values.astype(np.float32), np.ones(values.shape, bool), contract.bands, on, frames)
    return made.prepare_patch(patch, whole_image(side, side), lon=8.0, lat=47.0, window=window)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small-prithvi", {"image_size": 32}),
        ("small-galileo", {"patch_size": 16}),
        ("small-olmoearth", {"image_size": 32, "patch_size": 8}),
    ],
)
def test_slots_when_rows_have_other_frame_counts_then_each_is_as_if_alone(name: str, options: dict[str, Any]) -> None:
    made = loaded(name, **options)
    rows = {slot: inputs(made, days, slot) for slot, days in enumerate((30, 95, 200, 95, 360))}
    together = run_slots(made, rows.get, 5, batch_size=3)
    assert not together.errors
    shapes = [{rows[slot][0].signature for slot in batch} for batch in ((0, 1, 2), (3, 4))]
    assert together.forwards == sum(len(found) for found in shapes) > 2
    for slot, row in rows.items():
        alone = run_slots(made, {slot: row}.get, 5, batch_size=3)
        assert alone.values[slot].tobytes() == together.values[slot].tobytes()
