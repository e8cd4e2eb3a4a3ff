"""Embeddings as xarray and as files, opened by programs that were not written here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers the accessor `rio`
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rsembed.core.embedding import Embedding
from rsembed.core.errors import ExportError, SpecError, StoreError
from rsembed.labelled import labelled_array
from rsembed.saved import load_embedding

UTM = [160.0, 0.0, 500_000.0, 0.0, -80.0, 4_000_000.0]
META: dict[str, Any] = {
    "model": "null", "recipe": "authors", "options": {"variant": "a"}, "n_images": 3, "weights": None,
    "temporal": {"start": "2022-01-01", "end": "2023-01-01", "default": False},
    "frame_dates": ["2022-06-01", "2022-07-01"],
    "licence": {"name": "CC-BY-4.0", "commercial": "yes"}, "attribution": ["by them", "and of them"],
}  # fmt: skip


def vector(dim: int = 8) -> Embedding:
    return Embedding(np.linspace(-1, 1, dim, dtype=np.float32), META | {"grid": None})


def grid(shape: tuple[int, int, int] = (8, 3, 5), epsg: int = 32631, transform: list[float] = UTM) -> Embedding:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    data[:, 0, 0] = np.nan
    return Embedding(data, META | {"grid": {"epsg": epsg, "transform": transform}})


def opened(path: Path) -> xr.Dataset:
    engine = {".nc": "h5netcdf", ".zarr": "zarr"}[path.suffix]
    with xr.open_dataset(path, engine=engine, decode_coords="all") as found:
        return found.load()


def test_to_xarray_when_a_vector_then_one_dimension_and_plain_attributes() -> None:
    found = vector().to_xarray()
    assert (found.name, found.dims, dict(found.coords)) == ("embedding", ("dim",), {})
    np.testing.assert_array_equal(found, vector().data)
    assert found.attrs["model"] == "null"
    assert json.loads(found.attrs["options"]) == {"variant": "a"}
    assert "weights" not in found.attrs


def test_to_xarray_when_a_map_then_cells_centres_and_what_rioxarray_looks_for() -> None:
    found = grid().to_xarray()
    assert found.dims == ("dim", "y", "x")
    assert found["x"].values.tolist() == [500_080.0 + 160 * i for i in range(5)]
    assert found["y"].values.tolist() == [3_999_960.0 - 80 * i for i in range(3)]
    assert found.rio.crs.to_epsg() == 32631
    assert list(found.rio.transform())[:6] == UTM
    assert found.rio.bounds() == (500_000.0, 3_999_760.0, 500_800.0, 4_000_000.0)


def test_to_xarray_when_the_map_is_one_cell_then_its_size_is_still_known() -> None:
    found = grid((8, 1, 1)).to_xarray()
    assert list(found.rio.transform())[:6] == UTM


def test_to_xarray_when_the_place_of_a_map_is_not_known_then_no_coordinates() -> None:
    found = Embedding(np.zeros((2, 3, 4), np.float32)).to_xarray()
    assert (found.dims, dict(found.coords)) == (("dim", "y", "x"), {})


def test_to_xarray_when_degrees_then_longitude_and_latitude() -> None:
    found = grid(epsg=4326, transform=[0.1, 0, 2.0, 0, -0.1, 42.0]).to_xarray()
    assert found["x"].attrs["standard_name"] == "longitude"
    assert found["y"].attrs["units"] == "degrees_north"
    assert found.rio.crs.to_epsg() == 4326


def test_to_xarray_when_saved_by_xarray_itself_then_it_can_be(tmp_path: Path) -> None:
    grid().to_xarray().to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    assert opened(tmp_path / "theirs.nc")["embedding"].rio.crs.to_epsg() == 32631


def test_labelled_array_when_cells_and_data_differ_then_refused() -> None:
    with pytest.raises(SpecError, match="3 x 5 cells"):
        labelled_array(np.zeros((2, 3, 4)), cells=grid().cells)
    with pytest.raises(SpecError, match=r"\(2, 3\)"):
        labelled_array(np.zeros((2, 3)))


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
@pytest.mark.parametrize("embedding", [vector(), grid(), grid((40, 200, 210))], ids=["vector", "map", "large"])
def test_save_when_xarray_opens_it_then_equal_to_what_to_xarray_gives(
    tmp_path: Path, name: str, embedding: Embedding
) -> None:
    found = opened(embedding.save(tmp_path / name))
    expected = embedding.to_xarray()
    assert found.attrs == {"Conventions": "CF-1.10"}
    for key, value in expected.attrs.items():
        assert np.array_equal(found["embedding"].attrs[key], value), key
    xr.testing.assert_equal(found["embedding"], expected)
    if embedding.data.ndim == 3:
        assert found["embedding"].rio.crs.to_epsg() == 32631
        assert list(found["embedding"].rio.transform())[:6] == UTM


def test_save_when_a_map_is_a_geotiff_then_rasterio_reads_numbers_place_and_tags(tmp_path: Path) -> None:
    embedding = grid()
    with rasterio.open(embedding.save(tmp_path / "a.tif")) as file:
        np.testing.assert_array_equal(file.read(), embedding.data)
        assert (file.crs.to_epsg(), list(file.transform)[:6]) == (32631, UTM)
        tags = file.tags()
    assert tags["rsembed_model"] == "null"
    assert tags["rsembed_window"] == "2022-01-01/2023-01-01"
    assert tags["rsembed_licence"] == "CC-BY-4.0"
    assert tags["rsembed_attribution"] == "by them; and of them"


@pytest.mark.parametrize("embedding", [vector(), grid()], ids=["vector", "map"])
def test_save_when_numpy_opens_it_then_the_numbers_and_the_meta(tmp_path: Path, embedding: Embedding) -> None:
    np.testing.assert_array_equal(np.load(embedding.save(tmp_path / "a.npy")), embedding.data)
    with np.load(embedding.save(str(tmp_path / "a.npz"))) as found:
        np.testing.assert_array_equal(found["embedding"], embedding.data)
        assert json.loads(str(found["meta"])) == dict(embedding.meta)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.nc", "a.zarr", "a.tif", "A.TIFF"])
def test_save_when_done_again_then_replaced_with_the_same_bytes_and_nothing_beside_it(
    tmp_path: Path, name: str
) -> None:
    contents = []
    for _ in range(2):
        path = grid().save(tmp_path / "new" / name)
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        contents.append([(file, file.read_bytes()) for file in files])
        assert [found.name for found in (tmp_path / "new").iterdir()] == [name]
    assert contents[0] == contents[1]


def test_save_when_another_map_stood_there_then_none_of_it_is_left(tmp_path: Path) -> None:
    grid((40, 200, 210)).save(tmp_path / "a.zarr")
    grid((2, 3, 5)).save(tmp_path / "a.zarr")
    assert opened(tmp_path / "a.zarr")["embedding"].shape == (2, 3, 5)


@pytest.mark.parametrize("name", ["a.tif", "a.tiff"])
def test_save_when_a_vector_is_to_be_a_geotiff_then_refused_with_the_ways_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"holds maps.*OutputSpec.grid"):
        vector().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_save_when_the_place_of_a_map_is_not_known_then_it_is_no_geotiff(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not known where this map lies"):
        Embedding(np.zeros((2, 3, 4), np.float32)).save(tmp_path / "a.tif")


CELLS = st.builds(
    lambda epsg, shape, size, corner: (epsg, shape, [size[0], 0.0, corner[0], 0.0, -size[1], corner[1]]),
    st.sampled_from([32631, 32760, 3857, 4326, 3413]),
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0.01, 1e4), st.floats(0.01, 1e4)),
    st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
)


@settings(max_examples=12)
@given(cells=CELLS)
@pytest.mark.parametrize("name", ["a.npz", "a.nc", "a.zarr", "a.tif"])
def test_save_when_any_map_is_loaded_again_then_numbers_and_place_are_exact(
    tmp_path_factory: pytest.TempPathFactory, name: str, cells: tuple[int, tuple[int, int, int], list[float]]
) -> None:
    epsg, shape, transform = cells
    embedding = grid(shape, epsg, transform)
    found = load_embedding(embedding.save(tmp_path_factory.mktemp("maps") / name))
    np.testing.assert_array_equal(found.data, embedding.data)
    assert found.cells == embedding.cells
    assert found.meta["temporal"]["start"] == "2022-01-01"


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_save_when_a_list_has_one_item_then_it_is_still_known_as_a_list(tmp_path: Path, name: str) -> None:
    path = Embedding(np.zeros(3, np.float32), {"frame_dates": ["2022-06-01"]}).save(tmp_path / name)
    assert load_embedding(path).meta == {"frame_dates": ["2022-06-01"]}


@pytest.mark.parametrize("name", ["a", "a.json", "a.nc.gz", "a.h5"])
def test_save_when_the_ending_says_no_format_then_they_are_listed(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"\.npy, \.npz, \.nc, \.zarr, \.tif"):
        vector().save(tmp_path / name)


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_save_when_a_folder_of_something_else_stands_there_then_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="something else"):
        grid().save(tmp_path / name)
    assert (tmp_path / name / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_save_when_the_folder_is_a_file_then_the_stores_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StoreError, match="x"):
        vector().save(tmp_path / "x" / "a.npy")


@pytest.mark.parametrize("name", ["a.nc", "a.tif"])
def test_save_when_gdalinfo_opens_it_then_it_finds_the_place(tmp_path: Path, name: str) -> None:
    program = shutil.which("gdalinfo")
    if program is None:
        pytest.skip("gdalinfo is not installed")
    path = grid().save(tmp_path / name)
    done = subprocess.run([program, "-json", str(path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["geoTransform"] == [500_000.0, 160.0, 0.0, 4_000_000.0, 0.0, -80.0]
    assert "UTM zone 31N" in found["coordinateSystem"]["wkt"]
    assert len(found["bands"]) == 8


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("a.nc", "h5netcdf", "grids"), ("a.nc", "h5py", "grids"), ("a.tif", "rasterio", "stac")],
)
def test_save_when_a_package_is_missing_then_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SpecError, match=rf"need {module}: pip install 'rsembed\[{extra}\]'"):
        grid().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_to_xarray_when_xarray_is_missing_then_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(SpecError, match=r"rsembed\[grids\]"):
        vector().to_xarray()
