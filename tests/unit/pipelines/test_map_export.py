"""Datasets of maps: what their rows hold, and that nothing of a run is different for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsembed import api
from rsembed.core.embedding import CellGrid
from rsembed.core.errors import ExportError, ProviderError
from rsembed.core.specs import BBox, OutputSpec, PointBuffer, TemporalSpec
from rsembed.load import load_export
from rsembed.pipelines.exporter import ExportSummary
from rsembed.testing.null import NullProvider
from tests.builders import YEAR, Flaky, at_lon, by_id, dataset, files, places, run_export

GRID = OutputSpec.grid()
TEMPORAL = TemporalSpec.range(YEAR.start, YEAR.end)


def export(out: Path, source: object = None, **changes: Any) -> ExportSummary:
    given = {"output": GRID, "buffer_m": 110.0} | changes
    return run_export(out, places(12) if source is None else source, "null-map", **given)


def test_map_export_when_run_then_each_row_has_the_map_that_the_place_has_alone(tmp_path: Path) -> None:
    export(tmp_path / "out")
    rows = by_id(tmp_path / "out", "null-map")
    assert len(rows) == 12
    for row in rows.values():
        alone = api.get_embedding(
            "null-map",
            spatial=PointBuffer(row["lon"], row["lat"], 110.0),
            temporal=TEMPORAL,
            backend=NullProvider(),
            device="cpu",
            output=GRID,
        )
        assert row["grid_shape"] == [16, 11, 11]
        np.testing.assert_allclose(np.reshape(row["embedding"], row["grid_shape"]), alone.data, rtol=1e-6)
        assert CellGrid(row["epsg"], tuple(row["grid_transform"]), 11, 11) == alone.cells


def test_map_export_when_rows_fail_and_are_tried_again_then_bytes_are_those_of_a_calm_run(tmp_path: Path) -> None:
    export(tmp_path / "calm")
    broken = NullProvider(fault=Flaky(lambda: ProviderError("not today"), hits=at_lon(2.0, 2.03), times=2))
    first = export(tmp_path / "out", provider=broken)
    assert first.n_failed == 2
    failed = [row for row in by_id(tmp_path / "out", "null-map").values() if row["status"] == "failed"]
    assert {(row["embedding"], row["grid_shape"], row["grid_transform"]) for row in failed} == {(None, None, None)}
    assert export(tmp_path / "out").n_failed == 0
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_map_export_when_regions_differ_in_size_then_each_map_has_its_own_shape(tmp_path: Path) -> None:
    export(tmp_path / "out", [BBox(2.0, 42.0, 2.002, 42.001), BBox(2.1, 42.0, 2.101, 42.001)], buffer_m=None)
    shapes = dataset(tmp_path / "out", "null-map").column("grid_shape").to_pylist()
    assert len({tuple(shape) for shape in shapes}) == 2
    found = load_export(tmp_path / "out").embedding("null-map")
    assert [list(each.shape) for each in found] == [
        row["grid_shape"] for row in sorted(by_id(tmp_path / "out", "null-map").values(), key=lambda row: row["row"])
    ]


def test_map_export_when_stored_as_float16_then_half_as_wide_and_too_large_numbers_are_refused(tmp_path: Path) -> None:
    export(tmp_path / "half", dtype="float16")
    export(tmp_path / "full")
    half, full = (load_export(tmp_path / name).embedding("null-map") for name in ("half", "full"))
    assert half.shape == full.shape == (12, 16, 11, 11)
    np.testing.assert_allclose(half, full, rtol=1e-3)


def test_map_export_when_loaded_then_maps_stand_in_the_input_s_order_with_their_places(tmp_path: Path) -> None:
    table = places(12)
    export(tmp_path / "out", table)
    found = load_export(tmp_path / "out")
    rows = by_id(tmp_path / "out", "null-map")
    in_order = sorted(rows.values(), key=lambda row: row["row"])
    expected = np.stack([np.reshape(row["embedding"], row["grid_shape"]) for row in in_order])
    np.testing.assert_array_equal(found.embedding("null-map"), expected.astype(np.float32))
    labelled = found.to_xarray("null-map")
    assert labelled.sizes["y"] == labelled.sizes["x"] == 11


def test_map_export_when_a_vector_run_stands_there_then_it_is_another_run(tmp_path: Path) -> None:
    export(tmp_path / "out")
    with pytest.raises(ExportError, match=r"holds another run.*(?s:.*)output"):
        export(tmp_path / "out", output=OutputSpec())


def test_map_export_when_a_column_of_the_user_has_a_map_s_name_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="grid_shape"):
        export(tmp_path / "out", places(3, extra={"grid_shape": [1, 2, 3]}))


def test_map_export_when_the_manifest_is_read_then_it_says_that_the_output_is_a_grid(tmp_path: Path) -> None:
    export(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["request"]["models"][0]["output"]["mode"] == "grid"
