"""Reading back what exports wrote: every layout of ours, and files as the reference system makes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rsembed.testing.null  # noqa: F401 - registers the model "null"
from rsembed import (
    BBox,
    ExportConfig,
    ExportTarget,
    OutputSpec,
    PointBuffer,
    ProviderError,
    TemporalSpec,
    export_batch,
    get_embeddings_batch,
    load_export,
)
from rsembed.load import ExportResult
from rsembed.pipelines.layouts.entries import finite, manifest_text
from rsembed.writers.array_file import array_key
from tests.builders import TEMPORAL, CountingProvider, Flaky, at_lon

PLACES: list[Any] = [PointBuffer(2.0 + 0.02 * i, 42.0 + 0.002 * (i % 3), 40) for i in range(7)]
SMALL = {"shard_size": 3, "batch_size": 2, "fetch_workers": 2, "shards_per_part": 2, "show_progress": False}
LAYOUTS = ("dataset", "per_item", "combined")


def exported(out: Path, layout: str = "per_item", provider: Any = None, **options: Any) -> Path:
    """An export of ``layout``; returns what is to be opened."""
    target = {
        "dataset": ExportTarget.dataset(out),
        "per_item": ExportTarget.per_item(out),
        "combined": ExportTarget.combined(out / "run"),
    }[layout]
    config = ExportConfig(**(SMALL | options.pop("config", {})))
    given_: dict[str, Any] = {
        "spatials": PLACES, "temporal": TEMPORAL, "models": ["null"], "backend": provider or CountingProvider(),
        "device": "cpu",
    }  # fmt: skip
    export_batch(**(given_ | options), config=config, target=target)
    return next(out.glob("run.n*")) if layout == "combined" else out


def failing(*lons: float) -> CountingProvider:
    return CountingProvider(fault=Flaky(lambda: ProviderError("no way"), hits=at_lon(*lons)))


# Files as the reference system writes them


def seed_item(
    folder: Path, index: int, *, name: str | None = None, model: str = "a-b", dim: int = 4, **more: Any
) -> None:
    """A pair of files by hand; ``more``: fields of the manifest, None leaves one out."""
    key = model.replace("-", "_")
    ok = more.pop("ok", True)
    arrays = {f"input_chw__{key}": np.full((2, 3, 3), index, np.float32)}
    if ok:
        arrays[f"embedding__{key}"] = np.full(dim, index, np.float32)
    entry: dict[str, Any] = {"model": model, "status": "ok" if ok else "failed", "sensor": None, "meta": {"type": "x"}}
    entry["input"] = {"npz_key": f"input_chw__{key}", "dtype": "float32", "shape": [2, 3, 3]}
    entry["embedding"] = {"npz_key": f"embedding__{key}"} if ok else None
    if not ok:
        entry["error"] = "RuntimeError('gone')"
    manifest = {
        "created_at": "2026-01-01T00:00:00+00:00Z",
        "point_index": index,
        "status": entry["status"],
        "models": [entry],
        "spatial": {"lon": 2.0 + index, "lat": 42.0, "buffer_m": 100, "crs": "EPSG:4326"},
        "temporal": {"mode": "range", "year": "<function year>", "start": "2022-06-01", "end": "2022-09-01"},
    } | more  # fmt: skip
    folder.mkdir(exist_ok=True)
    stem = name or f"p{index:05d}"
    np.savez_compressed(folder / f"{stem}.npz", **arrays)
    text = json.dumps({key: value for key, value in manifest.items() if value is not None})
    (folder / f"{stem}.json").write_text(text)


def test_load_when_items_are_the_references_then_rows_by_their_number(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        seed_item(tmp_path, i)
    run = load_export(tmp_path)
    assert (run.layout, run.n_items, run.status, run.ok_models) == ("per_item", 3, "ok", ["a-b"])
    np.testing.assert_array_equal(run.embedding("a-b"), np.arange(3, dtype=np.float32)[:, None].repeat(4, axis=1))
    model = run.models["a-b"]
    assert model.inputs is not None
    assert model.inputs.shape == (3, 2, 3, 3)
    assert model.meta == [{"type": "x"}] * 3
    assert run.temporal == {"start": "2022-06-01", "end": "2022-09-01"}
    assert run.spatials[2]["lon"] == 4.0
    assert run.manifest["point_index"] == 0


def test_load_when_items_lack_then_their_rows_are_nan_and_the_run_partial(tmp_path: Path) -> None:
    for i in (0, 2, 4):
        seed_item(tmp_path, i)
    seed_item(tmp_path, 3, ok=False)
    run = load_export(tmp_path)
    assert (run.n_items, run.status) == (5, "partial")
    np.testing.assert_array_equal(np.isnan(run.embedding("a-b")[:, 0]), [False, True, False, True, False])
    assert run.models["a-b"].counts == {"ok": 3, "failed": 2}
    assert run.models["a-b"].error is None


def test_load_when_names_are_the_users_then_the_manifest_says_whose_row_it_is(tmp_path: Path) -> None:
    seed_item(tmp_path, 0, name="zebra")
    seed_item(tmp_path, 1, name="ant")
    np.testing.assert_array_equal(load_export(tmp_path).embedding("a-b")[:, 0], [0, 1])


def test_load_when_a_manifest_has_no_number_then_the_name_says_it(tmp_path: Path) -> None:
    for i in range(2):
        seed_item(tmp_path, i, point_index=None)
    assert load_export(tmp_path).n_items == 2


def test_load_when_other_files_lie_there_then_they_are_no_items(tmp_path: Path) -> None:
    seed_item(tmp_path, 0)
    seed_item(tmp_path, 1)
    np.savez(tmp_path / "run.npz", embeddings__m=np.zeros((5, 2), np.float32))
    (tmp_path / "run.json").write_text('{"n_items": 5, "models": []}')
    np.savez(tmp_path / "alone.npz", x=np.zeros(1))
    (tmp_path / "notes.txt").write_text("x")
    assert load_export(tmp_path).n_items == 2


def test_load_when_two_files_claim_a_row_then_refused(tmp_path: Path) -> None:
    seed_item(tmp_path, 0)
    seed_item(tmp_path, 0, name="stale")
    with pytest.raises(ValueError, match="both claim point_index=0"):
        load_export(tmp_path)


def test_load_when_every_item_failed_then_there_are_no_embeddings_but_a_reason(tmp_path: Path) -> None:
    for i in range(2):
        seed_item(tmp_path, i, ok=False)
    run = load_export(tmp_path)
    assert (run.status, run.failed_models, run.models["a-b"].embeddings) == ("failed", ["a-b"], None)
    assert run.models["a-b"].error == "RuntimeError('gone')"
    with pytest.raises(ValueError, match="gone"):
        run.embedding("a-b")


def seed_combined(folder: Path, entry: dict[str, Any], n_items: int = 3, **arrays: Any) -> Path:
    np.savez_compressed(folder / "run.npz", **arrays)
    manifest = {
        "status": entry["status"], "stage": "done", "resume_incomplete": False, "n_items": n_items,
        "spatials": [{"minlon": 1.0, "minlat": 2.0, "maxlon": 1.5, "maxlat": 2.5, "crs": "EPSG:4326"}] * n_items,
        "temporal": {"mode": "year", "year": 2022}, "models": [{"model": "m", **entry}],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder / "run.npz"


def test_load_when_a_combined_file_is_the_references_then_its_rows(tmp_path: Path) -> None:
    entry = {"status": "ok", "embeddings": {"npz_key": "embeddings__m"}, "metas": [{"k": 1}, None]}
    dense = np.arange(6, dtype=np.float64).reshape(3, 2)
    path = seed_combined(tmp_path, entry, embeddings__m=dense)
    for opened in (path, tmp_path / "run.json"):
        run = load_export(opened)
        assert (run.layout, run.n_items, run.status) == ("combined", 3, "ok")
        assert run.embedding("m").dtype == np.float32
        np.testing.assert_array_equal(run.embedding("m"), dense)
        assert run.models["m"].meta == [{"k": 1}, {}, {}]
        assert run.models["m"].inputs is None
        assert run.temporal == {"start": "2022-01-01", "end": "2023-01-01"}


def test_load_when_rows_of_a_combined_file_are_single_arrays_then_the_rest_is_nan(tmp_path: Path) -> None:
    keys = ["embedding__m__00000", "embedding__m__00002"]
    entry = {
        "status": "partial", "embeddings": {"npz_keys": keys, "indices": [0, 2]}, "failed_indices": [1],
        "errors_by_index": {"1": "gone"},
    }  # fmt: skip
    arrays = dict.fromkeys(keys, np.ones(2, np.float32))
    run = load_export(seed_combined(tmp_path, entry, **arrays))
    np.testing.assert_array_equal(np.isnan(run.embedding("m")[:, 0]), [False, True, False])
    assert run.models["m"].data.statuses() == ["ok", "failed", "ok"]
    del entry["embeddings"]["indices"]  # type: ignore[attr-defined]  # the key says it too
    run = load_export(seed_combined(tmp_path, entry, **arrays))
    np.testing.assert_array_equal(np.isnan(run.embedding("m")[:, 0]), [False, True, False])


def test_load_when_the_reference_saved_only_the_inputs_it_had_then_they_are_at_their_places(tmp_path: Path) -> None:
    entry = {"status": "ok", "embeddings": None, "inputs": {"npz_key": "inputs_bchw__m", "indices": [0, 2]}}
    found = load_export(seed_combined(tmp_path, entry, inputs_bchw__m=np.ones((2, 1, 2, 2)))).models["m"].inputs
    assert found is not None
    np.testing.assert_array_equal(np.isnan(found[:, 0, 0, 0]), [False, True, False])


# What cannot be opened


def test_load_when_a_path_is_no_export_then_it_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_export(tmp_path / "nowhere.npz")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ValueError, match="unknown extension"):
        load_export(tmp_path / "a.csv")
    np.savez(tmp_path / "b.npz", x=np.zeros(1))
    with pytest.raises(FileNotFoundError, match="manifest"):
        load_export(tmp_path / "b.npz")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="paired"):
        load_export(tmp_path / "c.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(ValueError, match="JSON object"):
        load_export(tmp_path / "b.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished export"):
        load_export(tmp_path / "empty")


def test_load_when_a_combined_run_of_the_reference_crashed_then_it_says_so(tmp_path: Path) -> None:
    path = seed_combined(tmp_path, {"status": "running"}, embeddings__m=np.ones((3, 2)))
    with pytest.raises(ValueError, match="has not ended"):
        load_export(path)


def test_load_when_a_model_is_unknown_then_the_known_ones_are_named(tmp_path: Path) -> None:
    seed_item(tmp_path, 0)
    with pytest.raises(KeyError, match="a-b"):
        load_export(tmp_path).embedding("b")


def test_load_when_a_file_is_broken_then_it_is_named(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    (tmp_path / "out" / "p00003.npz").write_bytes(b"PK")
    run = load_export(tmp_path / "out")
    with pytest.raises(ValueError, match=r"p00003\.npz cannot be read"):
        run.embedding("null")


# Ours


def test_load_when_the_layouts_differ_then_what_is_read_does_not(tmp_path: Path) -> None:
    runs = [load_export(exported(tmp_path / layout, layout, failing(2.04))) for layout in LAYOUTS]
    assert [run.layout for run in runs] == list(LAYOUTS)
    dataset = runs[0]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.embedding("null"), dataset.embedding("null"))
        assert run.spatials == dataset.spatials
        assert run.temporal == dataset.temporal == {"start": "2022-01-01", "end": "2023-01-01"}
        assert (run.status, run.n_items) == (dataset.status, 7)
        assert run.models["null"].counts == {"ok": 6, "failed": 1}
        for name in ("id", "status", "start", "end", "lon", "lat"):
            assert run.table("null").column(name).to_pylist() == dataset.table("null").column(name).to_pylist()
        vectors = run.table("null", ["embedding"]).column(0).to_pylist()
        assert vectors == dataset.table("null", ["embedding"]).column(0).to_pylist()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatials", [PLACES, [PLACES[0], BBox(2.1, 42.0, 2.102, 42.001)]], ids=["alike", "odd"])
def test_load_when_maps_were_exported_then_they_are_back(tmp_path: Path, layout: str, spatials: list[Any]) -> None:
    given_: dict[str, Any] = {"spatials": spatials, "models": ["null-map"], "output": OutputSpec.grid()}
    found = load_export(exported(tmp_path / "out", layout, **given_)).embedding("null-map")
    batch = get_embeddings_batch(
        "null-map", spatials=spatials, temporal=TEMPORAL, output=OutputSpec.grid(), backend=CountingProvider()
    )
    assert found.dtype == (np.float32 if len(spatials) == 7 else object)
    for one, expected in zip(found, batch, strict=True):
        np.testing.assert_allclose(one, expected.data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_when_everything_failed_then_no_embeddings_and_the_reason(tmp_path: Path, layout: str) -> None:
    run = load_export(exported(tmp_path / "out", layout, failing(*(place.lon for place in PLACES))))
    assert (run.status, run.failed_models, run.ok_models) == ("failed", ["null"], [])
    assert run.models["null"].embeddings is None
    with pytest.raises(ValueError, match="no way"):
        run.embedding("null")


@pytest.mark.parametrize("layout", ["per_item", "combined"])
def test_load_when_inputs_were_saved_then_they_are_there_for_every_model(tmp_path: Path, layout: str) -> None:
    run = load_export(exported(tmp_path / "out", layout, models=["null@a", "null:poison=-2@b"]))
    a, b = (run.models[label].inputs for label in ("a", "b"))
    assert a is not None
    assert b is not None
    assert a.shape == (7, 1, 8, 8)
    np.testing.assert_array_equal(a, b)
    assert load_export(exported(tmp_path / "no", layout, config={"save_inputs": False})).models["null"].inputs is None


def test_load_when_the_folder_served_a_larger_request_before_then_only_the_last_is_read(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    exported(tmp_path / "out", spatials=PLACES[:3], temporal=TemporalSpec.year(2021))
    run = load_export(tmp_path / "out")
    assert run.n_items == 3
    assert run.temporal == {"start": "2021-01-01", "end": "2022-01-01"}
    assert (tmp_path / "out" / "p00006.npz").exists()


def test_load_when_the_export_has_not_ended_then_it_says_how_to_end_it(tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "out", provider=CountingProvider(fault=stop))
    with pytest.raises(ValueError, match="has not ended"):
        load_export(tmp_path / "out")


def test_load_when_files_are_copied_elsewhere_then_they_are_read_there(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "out").glob("p*"):
        path.rename(tmp_path / "copy" / path.name)
    assert load_export(tmp_path / "copy").n_items == 7
    file = exported(tmp_path / "c", "combined")
    for name in (file, file.with_suffix(".json")):
        name.rename(tmp_path / ("moved" + name.suffix))
    assert load_export(tmp_path / "moved.npz").n_items == 7


@pytest.mark.parametrize("layout", ["per_item", "combined"])
def test_load_when_netcdf_then_as_npz(tmp_path: Path, layout: str) -> None:
    pytest.importorskip("h5netcdf")
    npz = load_export(exported(tmp_path / "npz", layout))
    nc = load_export(exported(tmp_path / "nc", layout, config={"format": "netcdf"}))
    np.testing.assert_array_equal(nc.embedding("null"), npz.embedding("null"))
    assert nc.models["null"].inputs is not None
    np.testing.assert_array_equal(nc.models["null"].inputs, npz.models["null"].inputs)


@pytest.mark.parametrize("layout", ["per_item", "combined"])
def test_load_when_pixels_differ_in_shape_then_an_array_of_arrays(tmp_path: Path, layout: str) -> None:
    places = [PLACES[0], BBox(2.1, 42.0, 2.102, 42.001)]
    inputs = load_export(exported(tmp_path / "out", layout, spatials=places)).models["null"].inputs
    assert inputs is not None
    assert inputs.dtype == object
    assert inputs[0].shape == (1, 8, 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_result_when_made_an_xarray_then_items_with_their_places(tmp_path: Path, layout: str) -> None:
    pytest.importorskip("xarray")
    run = load_export(exported(tmp_path / "out", layout, failing(2.04)))
    found = run.to_xarray("null")
    assert found.dims == ("item", "dim")
    np.testing.assert_array_equal(found.values, run.embedding("null"))
    np.testing.assert_allclose(found["lon"].values, [place.lon for place in PLACES])
    assert found["status"].values.tolist() == ["ok", "ok", "failed", "ok", "ok", "ok", "ok"]
    assert str(found["start"].values[0])[:10] == "2022-01-01"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_result_when_made_a_geodataframe_then_places_and_vectors(tmp_path: Path, layout: str) -> None:
    pytest.importorskip("geopandas")
    run = load_export(exported(tmp_path / "out", layout, failing(2.04)))
    frame = run.to_geopandas("null")
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.x.tolist() == [place.lon for place in PLACES]
    assert frame["embedding"][2] is None
    np.testing.assert_array_equal(frame["embedding"][3], run.embedding("null")[3])


def test_result_when_maps_differ_in_shape_then_they_are_padded_with_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    for i, size in enumerate((2, 3)):
        seed_item(tmp_path, i, model="m")
        np.savez(tmp_path / f"p{i:05d}.npz", embedding__m=np.ones((4, size, 2), np.float32))
    run = load_export(tmp_path)
    assert run.embedding("m").dtype == object
    with pytest.warns(UserWarning, match="padded with NaN"):
        found = run.to_xarray("m")
    assert found.shape == (2, 4, 3, 2)
    assert np.isnan(found.values[0, :, 2]).all()
    assert "padded" in found.attrs


# Any manifest

plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
values = st.recursive(
    plain | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=6), values, max_size=5))
def test_manifest_when_written_then_read_back_the_same_but_for_what_json_cannot_say(manifest: dict[str, Any]) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(manifest_text(manifest), parse_constant=refuse) == finite(manifest)


@given(st.text(min_size=1, max_size=12))
def test_array_key_when_any_label_is_given_then_a_plain_name(label: str) -> None:
    key = array_key(label)
    assert key.isascii()
    assert key.isidentifier() or key[0].isdigit()
    assert array_key(key) == key


@given(
    st.lists(st.sampled_from(["ok", "failed", "absent"]), min_size=1, max_size=6),
    st.integers(1, 5),
    st.permutations(range(6)),
)
def test_load_when_any_items_are_there_then_every_row_is_at_its_place(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], dim: int, order: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("items")
    for i in order:
        if i < len(fates) and fates[i] != "absent":
            seed_item(folder, i, dim=dim, ok=fates[i] == "ok", name=f"site-{order[i]}")
    there = [i for i, fate in enumerate(fates) if fate != "absent"]
    if not there:
        with pytest.raises(ValueError, match="no finished export"):
            load_export(folder)
        return
    run: ExportResult = load_export(folder)
    assert run.n_items == there[-1] + 1
    ok = [fate == "ok" for fate in fates[: run.n_items]]
    assert run.status == ("ok" if all(ok) else "partial" if any(ok) else "failed")
    if any(ok):
        expected = [[i] * dim if good else [math.nan] * dim for i, good in enumerate(ok)]
        np.testing.assert_array_equal(run.embedding("a-b"), np.array(expected, np.float32))
