from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsembed import (
    ExportConfig,
    ExportTarget,
    OutputSpec,
    TemporalSpec,
    export_batch,
    load_export,
    plot_map,
    plot_points,
    plot_similarity,
)
from rsembed.core.errors import SpecError
from rsembed.plots.opening import map_of_row, opened, point_source
from rsembed.testing.null import NullProvider
from tests.builders import places, run_export


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows hold maps; one of them has no imagery."""
    folder = tmp_path_factory.mktemp("charts") / "run"
    no_data = NullProvider(empty=lambda request: request.bins[0].start.year == 2021)
    table = places(4, extra={"year": [2022, 2022, 2021, 2022]})
    run_export(folder, table, "null-map", provider=no_data, output=OutputSpec.grid())
    return folder


def test_map_when_of_a_row_then_its_numbers_place_window_and_name(charts: Path) -> None:
    shown = map_of_row(point_source(charts), "p3")
    assert np.array_equal(shown.data, load_export(charts).embedding("null-map")[3])
    assert shown.cells is not None
    figure = plot_map(charts, "p3")
    assert figure.get_suptitle().startswith("null-map, p3, 2022")
    assert figure.axes[0].get_xlabel().startswith("easting, m (EPSG:32631)")


def test_points_when_rows_hold_maps_then_each_is_the_mean_of_its_cells(charts: Path) -> None:
    [batch] = point_source(charts).batches()
    by_row = dict(zip(batch.rows.tolist(), batch.vectors, strict=True))
    whole = load_export(charts).embedding("null-map")
    assert by_row[1] == pytest.approx(whole[1].mean(axis=(1, 2)), rel=1e-5)
    assert np.isnan(by_row[2]).all()
    assert "no imagery (no_data)" in [text.get_text() for text in plot_points(charts).legends[0].get_texts()]


def test_map_when_the_row_has_none_then_it_says_why(charts: Path) -> None:
    with pytest.raises(SpecError, match="row p2 has no embedding: it is no_data"):
        plot_map(charts, 2)
    with pytest.raises(SpecError, match="say row=, or draw all of them with plot_points"):
        plot_map(charts)


def test_map_when_rows_hold_vectors_then_it_says_what_to_export(tmp_path: Path) -> None:
    run_export(tmp_path / "run", places(3))
    with pytest.raises(SpecError, match=r"OutputSpec.grid\(\)"):
        plot_map(tmp_path / "run", "p1")


def test_store_when_it_is_a_datasets_own_then_the_dataset_is_drawn(charts: Path) -> None:
    found = opened(charts / "null-map.zarr")
    assert not hasattr(found, "data")
    assert found.title == "null-map"


def test_map_when_items_are_files_then_the_same_as_from_a_dataset(tmp_path: Path, charts: Path) -> None:
    spots = [(2.0 + 0.01 * i, 42.0 + 0.002 * (i % 3)) for i in range(4)]
    export_batch(
        spatials=spots, temporal=TemporalSpec.year(2022), models=["null-map"], backend=NullProvider(),
        target=ExportTarget.per_item(tmp_path / "items"), output=OutputSpec.grid(),
        config=ExportConfig(show_progress=False), cache=False,
    )  # fmt: skip
    items = load_export(tmp_path / "items")
    shown, same = map_of_row(point_source(items), 3), map_of_row(point_source(charts), 3)
    assert np.array_equal(shown.data, same.data)
    assert shown.cells == same.cells
    assert plot_similarity(items, 1).get_suptitle().startswith("Similarity to ")


def test_points_when_stored_as_int8_then_numbers_and_not_steps(tmp_path: Path) -> None:
    for dtype in ("float32", "int8"):
        run_export(tmp_path / dtype, places(30), dtype=dtype)
    exact, coarse = (
        np.concatenate([batch.vectors for batch in point_source(tmp_path / dtype).batches()])
        for dtype in ("float32", "int8")
    )
    assert coarse == pytest.approx(exact, abs=float(np.abs(exact).max()) / 100)
