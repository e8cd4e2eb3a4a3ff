"""One file for all items: what stands in it, and what a second call does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed.testing.null  # noqa: F401 - registers the model "null"
from rsembed import (
    BBox,
    ExportConfig,
    ExportError,
    ExportTarget,
    ModelError,
    OutputSpec,
    PointBuffer,
    ProviderError,
    TemporalSpec,
    export_batch,
    get_embedding,
    get_embeddings_batch,
    load_export,
)
from tests.builders import TEMPORAL, CountingProvider, Flaky, at_lon

PLACES = [PointBuffer(2.0 + 0.02 * i, 42.0 + 0.002 * (i % 3), 40) for i in range(7)]
ODD = [PLACES[0], BBox(2.1, 42.0, 2.102, 42.001), PointBuffer(2.2, 42.0, 80)]
SMALL = {"shard_size": 3, "batch_size": 2, "fetch_workers": 2, "shards_per_part": 2, "show_progress": False}


def exported(file: Path, provider: Any = None, **options: Any) -> dict[str, Any]:
    config = ExportConfig(**(SMALL | options.pop("config", {})))
    given: dict[str, Any] = {
        "spatials": PLACES, "temporal": TEMPORAL, "models": ["null"], "backend": provider or CountingProvider(),
        "device": "cpu",
    }  # fmt: skip
    return export_batch(**(given | options), config=config, target=ExportTarget.combined(file))


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as found:
        return {key: found[key] for key in found.files}


def calls(provider: CountingProvider) -> int:
    n = len(provider.asked)
    provider.asked.clear()
    return n


def failing(*lons: float) -> CountingProvider:
    return CountingProvider(fault=Flaky(lambda: ProviderError("no way"), hits=at_lon(*lons)))


def test_combined_when_exported_then_two_files_and_nothing_else(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"run.npz", "run.json"}
    assert json.loads((tmp_path / "run.json").read_text()) == manifest


def test_combined_when_the_extension_is_given_then_it_is_not_added(tmp_path: Path) -> None:
    exported(tmp_path / "my.run.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"my.run.npz", "my.run.json"}


def test_combined_when_exported_then_rows_are_in_the_order_of_the_places(tmp_path: Path) -> None:
    exported(tmp_path / "run")
    found = arrays(tmp_path / "run.npz")
    assert {key: array.shape for key, array in found.items()} == {
        "embeddings__null": (7, 16), "inputs_bchw__null": (7, 1, 8, 8)
    }  # fmt: skip
    batch = get_embeddings_batch("null", spatials=PLACES, temporal=TEMPORAL, backend=CountingProvider(), device="cpu")
    np.testing.assert_allclose(found["embeddings__null"], [e.data for e in batch], rtol=0, atol=1e-5)


def test_combined_when_exported_then_it_equals_the_files_of_the_items(tmp_path: Path) -> None:
    exported(tmp_path / "run")
    export_batch(
        spatials=PLACES, temporal=TEMPORAL, models=["null"], target=ExportTarget.per_item(tmp_path / "items"),
        backend=CountingProvider(), device="cpu", config=ExportConfig(**SMALL),
    )  # fmt: skip
    found = arrays(tmp_path / "run.npz")
    for i in range(7):
        item = arrays(tmp_path / "items" / f"p{i:05d}.npz")
        np.testing.assert_array_equal(found["embeddings__null"][i], item["embedding__null"])
        np.testing.assert_array_equal(found["inputs_bchw__null"][i], item["input_chw__null"])


def test_combined_when_exported_then_the_manifest_says_what_the_reference_says(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run", models=["null@a", "null:poison=-2@b"])
    assert (manifest["status"], manifest["stage"], manifest["n_items"]) == ("ok", "done", 7)
    assert manifest["resume_incomplete"] is False
    assert [spatial["lon"] for spatial in manifest["spatials"]] == [place.lon for place in PLACES]
    assert manifest["temporal"]["start"] == "2022-01-01"
    assert manifest["summary"] == {"total_models": 2, "failed_models": 0, "partial_models": 0, "ok_models": 2}
    assert manifest["npz_keys"] == sorted(arrays(tmp_path / "run.npz"))
    first, second = manifest["models"]
    assert [meta["status"] for meta in first["metas"]] == ["ok"] * 7
    assert (first["inputs"]["dedup_reused"], second["inputs"]["dedup_reused"]) == (False, True)
    assert second["inputs"]["npz_key"] == "inputs_bchw__a"
    array = arrays(tmp_path / "run.npz")["embeddings__b"]
    digest = hashlib.sha1(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
    assert second["embeddings"] == {"npz_key": "embeddings__b", "shape": [7, 16], "dtype": "float32", "sha1": digest}


def test_combined_when_shapes_differ_then_each_has_an_array_of_its_own(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run", spatials=ODD)
    found = arrays(tmp_path / "run.npz")
    assert set(found) == {"embeddings__null", *(f"input_chw__null__{i:05d}" for i in range(3))}
    assert found["input_chw__null__00002"].shape == (1, 16, 16)
    entry = manifest["models"][0]["inputs"]
    assert entry["indices"] == [0, 1, 2]
    assert entry["npz_keys"] == [f"input_chw__null__{i:05d}" for i in range(3)]


def test_combined_when_windows_differ_then_each_is_told(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run", spatials=PLACES[:2], temporal=[TEMPORAL, TemporalSpec.year(2021)])
    assert manifest["temporal"] is None
    assert [temporal["year"] for temporal in manifest["temporals"]] == [2021, 2022, 2021, 2022]


def test_combined_when_maps_are_alike_then_one_array_and_where_each_lies(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run", models=["null-map"], output=OutputSpec.grid(), provider=failing(2.04))
    found = arrays(tmp_path / "run.npz")["embeddings__null_map"]
    assert found.shape == (7, 16, 4, 4)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found[:, 0, 0, 0])), [2])
    for i in (0, 6):
        single = get_embedding(
            "null-map", spatial=PLACES[i], temporal=TEMPORAL, backend=CountingProvider(), output=OutputSpec.grid()
        )
        np.testing.assert_allclose(found[i], single.data, rtol=0, atol=1e-5)
        assert manifest["models"][0]["metas"][i]["grid"] == single.meta["grid"]
    assert manifest["models"][0]["metas"][2]["grid"] is None


def test_combined_when_maps_differ_in_shape_then_each_is_an_array_of_its_own(tmp_path: Path) -> None:
    for form in ("npz", "netcdf"):
        config = {"format": form}
        manifest = exported(tmp_path / form, spatials=ODD, models=["null-map"], output=OutputSpec.grid(), config=config)
        entry = manifest["models"][0]["embeddings"]
        assert entry["npz_keys"] == [f"embedding__null_map__{i:05d}" for i in range(3)]
        assert entry["indices"] == [0, 1, 2]
        run = load_export(tmp_path / f"{form}.json")
        whole = run.embedding("null-map")
        assert [whole[i].shape for i in range(3)] == [tuple(shape) for shape in entry["shapes"]]
        with pytest.warns(UserWarning, match="padded"):
            assert run.to_xarray("null-map").dims == ("item", "dim", "y", "x")


def test_combined_when_places_fail_then_they_are_nan_and_listed(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run", failing(2.04, 2.1))
    entry = manifest["models"][0]
    assert manifest["status"] == entry["status"] == "partial"
    assert entry["failed_indices"] == [2, 5]
    assert set(entry["errors_by_index"]) == {"2", "5"}
    assert "no way" in entry["errors_by_index"]["2"]
    assert "error" not in entry
    found = arrays(tmp_path / "run.npz")
    for key in ("embeddings__null", "inputs_bchw__null"):
        missing = np.isnan(found[key]).reshape(7, -1).all(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(missing), [2, 5])


def test_combined_when_all_fail_then_there_is_no_array_but_a_reason(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "run", failing(*(place.lon for place in PLACES)))
    entry = manifest["models"][0]
    assert manifest["status"] == entry["status"] == "failed"
    assert "no way" in entry["error"]
    assert entry["embeddings"] is None
    assert entry["inputs"] is None
    assert arrays(tmp_path / "run.npz") == {}


def test_combined_when_places_failed_then_the_same_call_asks_only_for_those(tmp_path: Path) -> None:
    exported(tmp_path / "run", failing(2.04, 2.1))
    provider = CountingProvider()
    manifest = exported(tmp_path / "run", provider)
    assert calls(provider) == 2
    assert manifest["status"] == "ok"
    assert {path.name for path in tmp_path.iterdir()} == {"run.npz", "run.json"}
    exported(tmp_path / "other")
    assert (tmp_path / "run.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()


def test_combined_when_there_is_no_imagery_then_it_is_not_asked_for_again(tmp_path: Path) -> None:
    provider = CountingProvider(empty=at_lon(2.02))
    first = exported(tmp_path / "run", provider)
    assert first["models"][0]["failed_indices"] == [1]
    calls(provider)
    assert exported(tmp_path / "run", provider)["resume_skipped"] is True
    assert calls(provider) == 0


def test_combined_when_called_again_then_nothing_is_done_and_it_says_where_the_file_is(tmp_path: Path) -> None:
    first = exported(tmp_path / "run")
    provider = CountingProvider()
    again = exported(tmp_path / "run", provider)
    assert calls(provider) == 0
    assert again.pop("resume_skipped") is True
    assert again.pop("resume_output_path") == str(tmp_path / "run.npz")
    assert again == first


@pytest.mark.parametrize(
    "changes",
    [
        {"temporal": TemporalSpec.year(2021)},
        {"models": ["null:poison=-7"]},
        {"spatials": PLACES[::-1]},
        {"config": {"save_embeddings": False}},
        {"config": {"resume": False}},
    ],
)
def test_combined_when_something_else_is_asked_then_all_is_done_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    exported(tmp_path / "run")
    provider = CountingProvider()
    assert "resume_skipped" not in exported(tmp_path / "run", provider, **changes)
    assert calls(provider) == 7


def remove_sidecar(folder: Path) -> None:
    (folder / "run.json").unlink()


def spoil_sidecar(folder: Path) -> None:
    (folder / "run.json").write_text("{")


def cut_arrays(folder: Path) -> None:
    (folder / "run.npz").write_bytes((folder / "run.npz").read_bytes()[:-50])


@pytest.mark.parametrize("harm", [remove_sidecar, spoil_sidecar, cut_arrays])
def test_combined_when_a_file_is_gone_or_broken_then_all_is_done_again(tmp_path: Path, harm: Any) -> None:
    exported(tmp_path / "run")
    good = (tmp_path / "run.npz").read_bytes()
    harm(tmp_path)
    provider = CountingProvider()
    assert "resume_skipped" not in exported(tmp_path / "run", provider)
    assert calls(provider) == 7
    assert (tmp_path / "run.npz").read_bytes() == good


def test_combined_when_the_work_stops_then_the_old_file_stays_and_nothing_is_lost(tmp_path: Path) -> None:
    exported(tmp_path / "run")
    old = (tmp_path / "run.npz").read_bytes(), (tmp_path / "run.json").read_bytes()

    def stop(request: Any) -> None:
        if at_lon(2.12)(request):
            raise KeyboardInterrupt

    stopping = CountingProvider(fault=stop, latency_s=0.1)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "run", stopping, temporal=TemporalSpec.year(2021))
    assert ((tmp_path / "run.npz").read_bytes(), (tmp_path / "run.json").read_bytes()) == old
    provider = CountingProvider()
    exported(tmp_path / "run", provider, temporal=TemporalSpec.year(2021))
    assert calls(provider) < 7


def test_combined_when_errors_end_it_then_all_that_could_be_is_saved_first(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"point 2 .*no way"):
        exported(tmp_path / "run", failing(2.04), config={"continue_on_error": False})
    provider = CountingProvider()
    assert exported(tmp_path / "run", provider, config={"continue_on_error": False})["status"] == "ok"
    assert calls(provider) == 1


def test_combined_when_a_manifest_is_not_wanted_then_none_is_beside_and_it_still_resumes(tmp_path: Path) -> None:
    exported(tmp_path / "run", config={"save_manifest": False})
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"run.npz"}
    provider = CountingProvider()
    assert exported(tmp_path / "run", provider, config={"save_manifest": False})["resume_skipped"] is True
    assert calls(provider) == 0


def test_combined_when_pixels_look_wrong_and_that_counts_then_the_place_failed(tmp_path: Path) -> None:
    provider = CountingProvider(clear=lambda request: 0.25 if at_lon(2.06)(request) else 1.0)
    manifest = exported(tmp_path / "run", provider, config={"fail_on_bad_input": True, "min_valid_fraction": 0.0})
    assert manifest["models"][0]["failed_indices"] == [3]
    assert "Input inspection failed" in manifest["models"][0]["errors_by_index"]["3"]


def test_combined_when_the_format_changes_then_the_old_file_does_not_stay_beside(tmp_path: Path) -> None:
    exported(tmp_path / "run")
    exported(tmp_path / "run", config={"format": "netcdf"})
    assert {path.name for path in tmp_path.iterdir()} == {"run.nc", "run.json"}


def test_combined_when_a_json_of_that_name_is_somebody_elses_then_it_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"type": "FeatureCollection", "features": []}')
    provider = CountingProvider()
    with pytest.raises(ExportError, match="no manifest of an export"):
        exported(tmp_path / "run", provider)
    assert calls(provider) == 0


def test_combined_when_the_file_is_a_folder_then_refused(tmp_path: Path) -> None:
    (tmp_path / "run.npz").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        exported(tmp_path / "run")


def test_combined_when_models_are_wrong_then_refused_before_any_work(tmp_path: Path) -> None:
    provider = CountingProvider()
    with pytest.raises(ModelError):
        exported(tmp_path / "run", provider, models=["null", "null"])
    assert calls(provider) == 0
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("spatials", [PLACES, ODD])
def test_combined_when_netcdf_then_xarray_reads_what_npz_holds(tmp_path: Path, spatials: list[Any]) -> None:
    xr = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    exported(tmp_path / "run", spatials=spatials)
    expected = arrays(tmp_path / "run.npz")
    manifest = exported(tmp_path / "other", spatials=spatials, config={"format": "netcdf"})
    with xr.open_dataset(tmp_path / "other.nc", engine="h5netcdf") as found:
        assert set(found.data_vars) == set(expected) == set(manifest["nc_variables"])
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key].values, array)
        assert found["embeddings__null"].dims[0] == "point"
        assert found.attrs["n_items"] == len(spatials)
