from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from rsembed import Embedding, TemporalSpec, plot_map, plot_points, plot_similarity
from rsembed.core.errors import ProviderError, SpecError
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.plots.canvas import save_figure
from rsembed.plots.opening import point_source
from rsembed.plots.point_source import chosen_batches
from rsembed.testing.null import NullProvider, request_seed
from rsembed.tools.spatial import to_lonlat
from tests.builders import places, run_export

TILE = np.random.default_rng(1).standard_normal((12, 5, 8)).astype(np.float32)
GRID = {"epsg": 32631, "transform": [20.0, 0, 480_000.0, 0, -20.0, 4_700_000.0]}
META = {"model": "mosaiks", "temporal": {"start": "2022-01-01", "end": "2023-01-01"}, "grid": GRID}


def picky() -> NullProvider:
    """A provider with every kind of answer."""

    def fault(request: Any) -> None:
        if request_seed(request) % 5 == 2:
            raise ProviderError("no answer")

    return NullProvider(
        fault=fault,
        empty=lambda request: request_seed(request) % 5 == 0,
        clear=lambda request: 0.25 if request_seed(request) % 5 == 1 else 1.0,
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 rows of every status."""
    folder = tmp_path_factory.mktemp("mixed") / "run"
    run_export(folder, places(40), provider=picky())
    return folder


def legend(figure: Any) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def drawn(axes: Any) -> int:
    return sum(len(layer.get_offsets()) for layer in axes.collections if isinstance(layer, PathCollection))


def pixels(figure: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())))


# Maps


def test_map_when_its_place_is_known_then_axes_are_metres_of_its_crs() -> None:
    figure = plot_map(Embedding(TILE, META))
    [axes] = figure.axes
    assert axes.images[0].get_extent() == [480_000, 480_160, 4_699_900, 4_700_000]
    assert axes.get_xlabel() == "easting, m (EPSG:32631)"
    assert figure.get_suptitle() == "mosaiks, 2022, 5 x 8 cells of 20 m"
    assert "MOSAIKS by Rolf" in figure.get_supxlabel()


def test_map_when_in_degrees_then_a_degree_of_longitude_is_as_wide_as_there() -> None:
    grid = {"epsg": 4326, "transform": [0.001, 0, 10, 0, -0.001, 60.0]}
    [axes] = plot_map(Embedding(TILE, {"grid": grid})).axes
    assert axes.get_aspect() == pytest.approx(2, rel=1e-3)
    assert axes.xaxis.get_major_formatter().format_ticks([10.0, 10.005]) == ["10.000°E", "10.005°E"]


def test_map_when_its_place_is_not_known_then_axes_count_cells() -> None:
    [axes] = plot_map(TILE).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("column", "row")
    assert axes.images[0].get_extent() == [-0.5, 7.5, 4.5, -0.5]


def test_map_when_cells_are_nan_then_clear_and_in_the_legend() -> None:
    holed = TILE.copy()
    holed[:, 0, 0] = np.nan
    figure = plot_map(holed)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image[0, 0, 3] == 0
    assert image[1:, :, 3].all()
    assert "no embedding" in legend(figure)
    assert "no embedding" not in legend(plot_map(TILE))


def test_map_when_drawn_twice_then_the_files_are_equal(tmp_path: Path) -> None:
    for ending in (".png", ".svg", ".pdf"):
        files = [save_figure(plot_map(Embedding(TILE, META)), tmp_path / f"{n}{ending}") for n in range(2)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_map_when_given_a_vector_then_it_says_how_to_get_a_map() -> None:
    with pytest.raises(SpecError, match=r"OutputSpec.grid\(\)"):
        plot_map(Embedding(TILE[:, 0, 0]))


def test_picture_when_named_oddly_then_it_names_the_endings(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\.png"):
        save_figure(plot_map(TILE), tmp_path / "a.gif")


def test_picture_when_matplotlib_is_missing_then_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rsembed.plots.picture", None)
    with pytest.raises(SpecError, match=r"pip install 'rsembed\[plot\]'"):
        plot_map(TILE)


# Points


def test_points_when_rows_have_every_status_then_all_are_on_the_map_and_in_the_legend(mixed: Path) -> None:
    figure = plot_points(mixed)
    [axes] = figure.axes
    assert drawn(axes) == 40
    assert {"one embedding", "low quality", "no imagery (no_data)", "failed"} <= set(legend(figure))
    assert figure.get_suptitle() == "null, 40 rows, 2022"
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.radians(42.0025)), rel=1e-3)


def test_points_when_read_in_batches_then_vectors_are_those_of_the_dataset(mixed: Path) -> None:
    source = point_source(mixed)
    chosen = np.array([0, 3, 17, 39])
    got = list(chosen_batches(source, chosen))
    rows = np.concatenate([batch.rows for batch in got])
    table = pq.read_table(mixed / "null").to_pandas()
    assert rows.tolist() == table["row"].iloc[chosen].tolist()
    for batch in got:
        for row, vector in zip(batch.rows, batch.vectors, strict=True):
            expected = table.loc[table["row"] == row, "embedding"].iloc[0]
            assert np.array_equal(vector, np.full(16, np.nan) if expected is None else expected, equal_nan=True)


def test_points_when_there_are_more_than_wanted_then_an_even_sample_is_drawn(mixed: Path) -> None:
    figure = plot_points(mixed, max_points=10)
    assert drawn(figure.axes[0]) == 10
    assert "10 of 40 rows" in figure.get_suptitle()


def test_points_when_a_run_has_some_windows_then_each_has_a_panel(tmp_path: Path) -> None:
    years = WindowPolicy(tuple(TemporalSpec.year(year).window for year in (2020, 2021, 2022)))
    run_export(tmp_path / "run", places(4), windows=years)
    figure = plot_points(tmp_path / "run")
    assert [axes.get_title() for axes in figure.axes] == ["2020", "2021", "2022"]
    assert [drawn(axes) for axes in figure.axes] == [4, 4, 4]


def test_points_when_they_lie_at_the_antimeridian_then_side_by_side(tmp_path: Path) -> None:
    frame = pd.DataFrame({"lon": [179.9, -179.9], "lat": [0.0, 0.1], "embedding": [np.ones(4), np.arange(4.0)]})
    [axes] = plot_points(frame).axes
    assert np.diff(axes.get_xlim()) < 1
    assert axes.xaxis.get_major_formatter().format_ticks([179.9, 180.1]) == ["179.9°E", "179.9°W"]


def test_points_when_a_frame_has_a_geometry_then_its_crs_is_heeded() -> None:
    import geopandas

    frame = pd.DataFrame({"embedding": [np.ones(4), None], "status": ["ok", "failed"]})
    shapes = geopandas.points_from_xy([480_000, 481_000], [4_700_000, 4_700_000])
    source = point_source(geopandas.GeoDataFrame(frame, geometry=shapes, crs=32631))
    [batch] = source.batches()
    assert batch.lon[0] == pytest.approx(2.756, abs=0.01)
    assert batch.lat == pytest.approx([42.45, 42.45], abs=0.01)
    assert np.isnan(batch.vectors[1]).all()


def test_points_when_a_run_has_two_models_then_a_label_is_asked_for(tmp_path: Path) -> None:
    run_export(tmp_path / "run", places(3), "null@one", "null@two")
    with pytest.raises(SpecError, match="one, two"):
        plot_points(tmp_path / "run")
    assert plot_points(tmp_path / "run", "two").get_suptitle().startswith("two, 3 rows")
    with pytest.raises(SpecError, match="no model labelled 'three'; it has one, two"):
        plot_points(tmp_path / "run", "three")


def test_points_when_no_row_has_an_embedding_then_it_says_so(tmp_path: Path) -> None:
    run_export(tmp_path / "run", places(3), provider=NullProvider(empty=lambda request: True))
    with pytest.raises(SpecError, match="no row has an embedding"):
        plot_points(tmp_path / "run")
    with pytest.raises(SpecError, match="no row has an embedding"):
        plot_similarity(tmp_path / "run", (2.0, 42.0))


@pytest.mark.parametrize("given", [3, None, pd.DataFrame({"a": [1]}), "no/such/folder"])
def test_points_when_given_something_else_then_it_names_what_was_expected(given: Any) -> None:
    with pytest.raises(SpecError, match=r"embed\(table|nothing at"):
        plot_points(given)


# Similarity


def of_rows(figure: Any) -> np.ndarray:
    """The cosines on the first panel."""
    layers = [layer for layer in figure.axes[0].collections if layer.get_array() is not None]
    return np.concatenate([np.ma.getdata(layer.get_array()) for layer in layers])


def test_similarity_when_to_a_row_then_cosines_of_all_and_a_star(mixed: Path) -> None:
    table = pq.read_table(mixed / "null").to_pandas()
    there = table[table["embedding"].notna()]
    query = there.iloc[4]
    figure = plot_similarity(mixed, str(query["id"]))
    vectors = np.stack(there["embedding"].to_list())
    expected = vectors @ query["embedding"] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query["embedding"])
    assert np.sort(of_rows(figure)) == pytest.approx(np.sort(expected), abs=1e-5)
    assert "compared with this" in legend(figure)
    assert figure.get_suptitle().startswith(f"Similarity to {query['id']} (row {query['row']})")
    star = figure.axes[0].collections[-1].get_offsets()
    assert np.asarray(star)[0] == pytest.approx([query["lon"], query["lat"]])


def test_similarity_when_to_a_place_then_the_nearest_row_with_an_embedding_is_meant(mixed: Path) -> None:
    table = pq.read_table(mixed / "null").to_pandas()
    lacking = table[table["embedding"].isna()].iloc[0]
    figure = plot_similarity(mixed, (lacking["lon"], lacking["lat"]))
    there = table[table["embedding"].notna()]
    away = np.hypot((there["lon"] - lacking["lon"]) * np.cos(np.radians(42)), there["lat"] - lacking["lat"])
    assert f"Similarity to {there.iloc[int(away.argmin())]['id']} " in figure.get_suptitle()


def test_similarity_when_the_row_has_no_embedding_then_it_says_why(mixed: Path) -> None:
    table = pq.read_table(mixed / "null").to_pandas()
    failed = table[table["status"] == "failed"].iloc[0]
    with pytest.raises(SpecError, match="has no embedding: it is failed"):
        plot_similarity(mixed, int(failed["row"]))


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("nobody", "none of the 40 rows has the id 'nobody'; ids are such as p"),
        (99, "number 99"),
        ((200.0, 0.0), "within 180 and 90"),
        ((1.0, 2.0, 3.0), "pair"),
        (np.ones(3), "compared with one of"),
    ],
)
def test_similarity_when_to_no_row_then_it_says_what_there_is(mixed: Path, to: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plot_similarity(mixed, to)


def test_similarity_when_ids_are_numbers_then_an_id_goes_before_a_row_number() -> None:
    vectors = [np.eye(3)[i] + 0.1 for i in range(3)]
    frame = pd.DataFrame({"id": ["2", "1", "0"], "lon": [0.0, 1, 2], "lat": [0.0, 0, 0], "embedding": vectors})
    assert "Similarity to 2 (row 0)" in plot_similarity(frame, "2").get_suptitle()
    assert "Similarity to 0 (row 2)" in plot_similarity(frame, 2).get_suptitle()
    named = frame.assign(id=["a", "b", "c"])
    assert "Similarity to c (row 2)" in plot_similarity(named, "2").get_suptitle()


def test_similarity_when_of_a_map_then_the_cell_at_a_place_is_meant() -> None:
    shown = Embedding(TILE, META)
    lon, lat = to_lonlat(32631, np.array([480_045.0]), np.array([4_699_925.0]))
    figure = plot_similarity(shown, (float(lon[0]), float(lat[0])))
    row, column = 3, 2
    star = np.asarray(figure.axes[0].collections[-1].get_offsets())[0]
    assert star == pytest.approx([480_050, 4_699_930])
    values = np.asarray(figure.axes[0].images[0].get_array())
    assert values[row, column] == pytest.approx(1)
    assert np.array_equal(values, np.asarray(plot_similarity(shown, cell=(row, column)).axes[0].images[0].get_array()))
    flat = TILE.reshape(12, -1)
    query = TILE[:, row, column]
    expected = query @ flat / np.linalg.norm(flat, axis=0) / np.linalg.norm(query)
    assert values.ravel() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("to", "cell", "message"),
    [
        ((10.0, 10.0), None, "outside the map, which reaches from 2.75"),
        (None, (9, 0), "rows 0..4 and columns 0..7"),
        (None, None, "to= "),
        ("p1", None, "a map has no row"),
        (np.zeros(12), None, "zeros"),
    ],
)
def test_similarity_when_to_nothing_in_the_map_then_it_says_what_there_is(to: Any, cell: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plot_similarity(Embedding(TILE, META), to, cell=cell)


def test_similarity_when_to_a_vector_from_elsewhere_then_no_star() -> None:
    figure = plot_similarity(TILE, Embedding(TILE[:, 1, 1]))
    assert not figure.axes[0].collections
    assert pixels(figure).shape[2] == 4


def test_similarity_when_all_are_equal_then_one_colour() -> None:
    figure = plot_similarity(np.ones((3, 2, 2), np.float32), cell=(0, 0))
    assert pixels(figure).size


def test_window_when_rows_have_none_then_the_title_has_none() -> None:
    frame = pd.DataFrame({"lon": [0.0, 1], "lat": [0.0, 1], "embedding": [np.ones(2), np.zeros(2)]})
    assert plot_points(frame).get_suptitle() == "2 rows"
