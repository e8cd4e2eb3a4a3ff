from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

import rsembed.testing.null  # noqa: F401 - registers the model "null"
from rsembed import PointBuffer, ProviderError, RowError, SpecError, TemporalSpec, embed, get_embedding, load_export
from rsembed.core.fetching import FetchRequest
from rsembed.testing.null import NullProvider
from rsembed.testing.scene import write_synthetic_catalog

LON = [7.3, 7.1, 7.2]
LAT = [47.0, 47.2, 47.1]


@pytest.fixture
def frame() -> pd.DataFrame:
    columns = {"id": ["a", "a", "b"], "lon": LON, "lat": LAT, "crop": ["rye", None, "oat"], "any": [[1], {}, "x"]}
    return pd.DataFrame(columns, index=[10, 5, 5])


def quiet(table: object, **options: object) -> pd.DataFrame:
    given = {"year": 2022, "backend": NullProvider(), "show_progress": False, **options}
    found = embed(table, "null", **given)  # type: ignore[arg-type, type-var]  # passed on
    assert isinstance(found, pd.DataFrame)
    return found


def test_embed_when_given_a_frame_then_the_same_table_comes_back_with_two_columns(frame: pd.DataFrame) -> None:
    before = frame.copy(deep=True)
    found = quiet(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(found[list(frame.columns)], before)
    assert list(found.columns) == [*frame.columns, "embedding", "status"]
    assert list(found["status"]) == ["ok"] * 3
    assert all(vector.dtype == np.float32 and vector.shape == (16,) for vector in found["embedding"])


def test_embed_when_given_a_frame_then_each_row_has_its_own_vector(frame: pd.DataFrame) -> None:
    found = quiet(frame)
    for i, vector in enumerate(found["embedding"]):
        alone = get_embedding(
            "null", spatial=PointBuffer(LON[i], LAT[i]), temporal=TemporalSpec.year(2022), backend=NullProvider()
        )
        np.testing.assert_allclose(vector, alone.data, rtol=1e-5, atol=1e-5)


def test_embed_when_given_pairs_then_a_frame_comes_back() -> None:
    found = quiet(list(zip(LON, LAT, strict=True)))
    assert list(found.columns) == ["lon", "lat", "embedding", "status"]
    assert list(found["lon"]) == LON


def test_embed_when_given_a_geodataframe_then_it_stays_one(frame: pd.DataFrame) -> None:
    places = gpd.GeoDataFrame({"name": ["x", "y", "z"]}, geometry=gpd.points_from_xy(LON, LAT), crs=4326).to_crs(32632)
    found = quiet(places)
    assert isinstance(found, gpd.GeoDataFrame)
    assert found.crs == places.crs
    plain = quiet(frame)
    np.testing.assert_allclose(np.stack(found["embedding"]), np.stack(plain["embedding"]), rtol=1e-5)


def test_embed_when_rows_have_years_then_those_are_used(frame: pd.DataFrame) -> None:
    dated = frame.assign(year=[2020, 2021, 2022])
    one = quiet(frame.iloc[[0]], year=2020)
    np.testing.assert_array_equal(quiet(dated)["embedding"].iloc[0], one["embedding"].iloc[0])


def test_embed_when_a_row_fails_then_it_is_none_and_marked(frame: pd.DataFrame) -> None:
    def fault(request: FetchRequest) -> None:
        if request.grid.y_max > 5_226_000:
            raise ProviderError("out of reach")

    found = quiet(frame, backend=NullProvider(fault=fault))
    assert list(found["status"]) == ["ok", "failed", "ok"]
    assert found["embedding"].iloc[1] is None


def test_embed_when_there_is_no_imagery_then_no_data(frame: pd.DataFrame) -> None:
    found = quiet(frame, backend=NullProvider(empty=lambda _: True))
    assert list(found["status"]) == ["no_data"] * 3
    assert list(found["embedding"]) == [None] * 3


def test_embed_when_out_is_given_then_it_is_a_dataset_and_resumes(frame: pd.DataFrame, tmp_path: Path) -> None:
    table = frame.drop(columns="any").assign(id=["a", "b", "c"])
    first = NullProvider()
    found = quiet(table, out=tmp_path / "run", backend=first)
    again_provider = NullProvider()
    again = quiet(table, out=tmp_path / "run", backend=again_provider)
    assert (first.calls, again_provider.calls) == (3, 0)
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(again["embedding"]))
    kept = load_export(tmp_path / "run").table("null")
    assert kept.column("crop").to_pylist() == ["rye", None, "oat"]


def test_embed_when_the_table_is_empty_then_it_comes_back_empty(frame: pd.DataFrame) -> None:
    found = quiet(frame.iloc[:0])
    assert len(found) == 0
    assert list(found.columns)[-2:] == ["embedding", "status"]


def test_embed_when_rows_are_bad_then_they_are_named(frame: pd.DataFrame) -> None:
    with pytest.raises(RowError, match="row 0"):
        quiet(frame.assign(lon=[200.0, 7.0, 7.0]))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"a": [1]}), "longitude"),
        (pd.DataFrame({"lon": [7.0], "lat": [47.0], "status": ["x"]}), "'status' already"),
        ([(1.0, 2.0, 3.0)], "pairs"),
        ("places.csv", "GeoDataFrame"),
    ],
)
def test_embed_when_the_table_is_of_no_use_then_refused(table: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        quiet(table)


def test_embed_when_a_real_model_reads_a_catalogue_then_vectors_come_back(tmp_path: Path) -> None:
    catalog = write_synthetic_catalog(tmp_path, size_px=256, dates=("2022-06-13",))
    found = embed(
        [(2.770, 42.440), (2.772, 42.441)], "mosaiks", year=2022, catalog=catalog, buffer_m=160, context="none",
        show_progress=False,
    )  # fmt: skip
    assert isinstance(found, pd.DataFrame)
    assert list(found["status"]) == ["ok", "ok"]
    assert np.stack(found["embedding"]).shape == (2, 512)
