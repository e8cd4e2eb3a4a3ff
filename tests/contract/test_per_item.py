"""One file and one sidecar per item: what stands in them, and what a second call does."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed.testing.null  # registers the model "null"
from rsembed import (
    BBox,
    ExportConfig,
    ExportError,
    ExportModelRequest,
    ExportTarget,
    FetchSpec,
    InputPrepSpec,
    ModelError,
    PointBuffer,
    ProviderError,
    SensorSpec,
    SpecError,
    TemporalSpec,
    export_batch,
    get_embedding,
    get_embeddings_batch,
)
from rsembed.pipelines.progress import SilentProgress
from rsembed.testing.null import COLLECTION
from tests.builders import TEMPORAL, CountingProvider, Flaky, at_lon
from tests.product_files import write_registry, write_tile

PLACES = [PointBuffer(2.0 + 0.02 * i, 42.0 + 0.002 * (i % 3), 40) for i in range(7)]
SMALL = {"shard_size": 3, "batch_size": 2, "fetch_workers": 2, "shards_per_part": 2, "show_progress": False}


def exported(
    out: Path, provider: Any = None, *, names: list[str] | None = None, **options: Any
) -> list[dict[str, Any]]:
    config = ExportConfig(**(SMALL | options.pop("config", {})))
    given: dict[str, Any] = {
        "spatials": PLACES, "temporal": TEMPORAL, "models": ["null"], "backend": provider or CountingProvider(),
        "device": "cpu",
    }  # fmt: skip
    return export_batch(**(given | options), config=config, target=ExportTarget.per_item(out, names=names))


def visible(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.is_file()}


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as found:
        return {key: found[key] for key in found.files}


def calls(provider: CountingProvider) -> int:
    """Requests since the last time of asking."""
    n = len(provider.asked)
    provider.asked.clear()
    return n


# What stands there


def test_per_item_when_exported_then_a_file_and_a_sidecar_each_and_nothing_else(tmp_path: Path) -> None:
    manifests = exported(tmp_path / "out")
    expected = {f"p{i:05d}.{kind}" for i in range(7) for kind in ("npz", "json")}
    assert visible(tmp_path / "out") == expected
    assert [m["point_index"] for m in manifests] == list(range(7))
    assert {path.name for path in (tmp_path / "out" / "_rsembed").iterdir()} == {"lock", "export.json"}


def test_per_item_when_exported_then_manifest_and_sidecar_are_one(tmp_path: Path) -> None:
    manifests = exported(tmp_path / "out")
    for i, manifest in enumerate(manifests):
        assert json.loads((tmp_path / "out" / f"p{i:05d}.json").read_text()) == manifest


def test_per_item_when_exported_then_the_manifest_says_what_the_reference_says(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "out", models=["null@a", "null:poison=-2@b"])[2]
    assert manifest["status"] == "ok"
    assert manifest["backend"] == "null"
    assert manifest["device"] == "cpu"
    assert manifest["spatial"] == {"lon": PLACES[2].lon, "lat": PLACES[2].lat, "buffer_m": 40, "crs": "EPSG:4326"}
    assert manifest["temporal"] == {"mode": "year", "year": 2022, "start": "2022-01-01", "end": "2023-01-01"}
    assert manifest["output"]["mode"] == "pooled"
    assert manifest["summary"] == {"total_models": 2, "failed_models": 0, "ok_models": 2}
    assert manifest["npz_path"] == str(tmp_path / "out" / "p00002.npz")
    assert manifest["manifest_path"] == str(tmp_path / "out" / "p00002.json")
    assert manifest["npz_keys"] == sorted(arrays(tmp_path / "out" / "p00002.npz"))
    assert manifest["package_version"] == rsembed.__version__
    assert dt.datetime.fromisoformat(manifest["created_at"]).tzinfo is not None
    assert len(manifest["request_fingerprint"]) == 64
    entry = manifest["models"][0]
    assert entry["model"] == "a"
    assert entry["sensor"]["collection"] == COLLECTION
    assert entry["describe"]["id"] == "null"
    assert entry["meta"]["status"] == "ok"
    assert entry["meta"]["temporal"] == manifest["temporal"]
    assert entry["fetch_meta"]["epsg"] == 32631


def test_per_item_when_exported_then_arrays_are_described_to_the_last_byte(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "out")[0]
    found = arrays(tmp_path / "out" / "p00000.npz")
    assert set(found) == {"input_chw__null", "embedding__null"}
    for key, array in found.items():
        entry = manifest["models"][0]["input" if key.startswith("input") else "embedding"]
        assert (entry["npz_key"], entry["dtype"], entry["shape"]) == (key, "float32", list(array.shape))
        text = f"{array.dtype}{array.shape}".encode()
        assert entry["sha1"] == hashlib.sha1(text + array.tobytes()).hexdigest()


def test_per_item_when_exported_then_vectors_equal_those_of_every_other_route(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    batch = get_embeddings_batch("null", spatials=PLACES, temporal=TEMPORAL, backend=CountingProvider(), device="cpu")
    for i, embedding in enumerate(batch):
        stored = arrays(tmp_path / "out" / f"p{i:05d}.npz")["embedding__null"]
        np.testing.assert_allclose(stored, embedding.data, rtol=0, atol=1e-5)


def test_per_item_when_a_saved_input_is_given_back_then_the_embedding_is_the_same(tmp_path: Path) -> None:
    provider = CountingProvider(clear=lambda _: 0.75)
    exported(tmp_path / "out", provider, config={"batch_size": 1})
    found = arrays(tmp_path / "out" / "p00003.npz")
    assert np.isnan(found["input_chw__null"]).mean() == pytest.approx(0.25)
    again = get_embedding(
        "null", spatial=PLACES[3], temporal=TEMPORAL, input_chw=found["input_chw__null"], device="cpu"
    )
    np.testing.assert_array_equal(again.data, found["embedding__null"])


def test_per_item_when_a_model_takes_a_series_then_its_input_has_frames(tmp_path: Path) -> None:
    exported(tmp_path / "out", models=["null:modality=multi"], temporal=TemporalSpec.range("2022-01-01", "2022-04-01"))
    assert arrays(tmp_path / "out" / "p00000.npz")["input_chw__null"].shape == (3, 1, 8, 8)


def test_per_item_when_models_are_given_the_same_pixels_then_they_stand_once(tmp_path: Path) -> None:
    provider = CountingProvider()
    manifest = exported(tmp_path / "out", provider, models=["null@a", "null:poison=-2@b"])[0]
    assert calls(provider) == len(PLACES)
    assert set(arrays(tmp_path / "out" / "p00000.npz")) == {"input_chw__a", "embedding__a", "embedding__b"}
    first, second = (entry["input"] for entry in manifest["models"])
    assert (first["dedup_reused"], second["dedup_reused"]) == (False, True)
    assert second["npz_key"] == first["npz_key"] == "input_chw__a"


def test_per_item_when_models_take_bands_of_one_fetch_then_each_has_its_own_pixels(tmp_path: Path) -> None:
    provider = CountingProvider()
    manifest = exported(tmp_path / "out", provider, models=["null", "null-wide"], spatials=PLACES[:2])[0]
    assert calls(provider) == 2
    found = arrays(tmp_path / "out" / "p00000.npz")
    assert found["input_chw__null"].shape == (1, 8, 8)
    assert found["input_chw__null_wide"].shape[0] == 2
    assert [entry["input"]["dedup_reused"] for entry in manifest["models"]] == [False, False]


def test_per_item_when_a_model_is_a_published_product_then_its_pixels_are_no_input(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    tiles = tmp_path / "tiles"
    write_registry(tiles, [write_tile(tiles, 275, 4245, 2022)])
    product = ExportModelRequest.configure("tessera", cache_dir=str(tiles))
    place = [PointBuffer(2.77, 42.44, 40)]
    manifest = exported(tmp_path / "out", models=[product, "null"], spatials=place)[0]
    assert manifest["npz_keys"] == ["embedding__null", "embedding__tessera", "input_chw__null"]
    assert manifest["models"][0]["input"] is None


class Totals(SilentProgress):
    """What was announced and what was told, by stage."""

    def __init__(self) -> None:
        self.announced: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    def start(self, totals: Mapping[str, int]) -> None:
        self.announced.update(totals)

    def advance(self, stage: str, rows: int) -> None:
        self.told[stage] += rows


@pytest.mark.parametrize("save_embeddings", [True, False])
def test_per_item_when_places_fail_then_progress_still_adds_up(tmp_path: Path, save_embeddings: bool) -> None:
    progress = Totals()
    exported(tmp_path / "out", failing(2.04), progress=progress, config={"save_embeddings": save_embeddings})
    assert progress.told == progress.announced
    assert progress.told["write"] == progress.told["fetch"] == 7
    assert progress.told["embed"] == (7 if save_embeddings else 0)


def test_per_item_when_places_differ_in_kind_and_size_then_each_has_its_own_shape(tmp_path: Path) -> None:
    places = [PointBuffer(2.0, 42.0, 40), BBox(2.1, 42.0, 2.102, 42.001), PointBuffer(2.2, 42.0, 80), PLACES[0]]
    manifests = exported(tmp_path / "out", spatials=places)
    shapes = [arrays(tmp_path / "out" / f"p{i:05d}.npz")["input_chw__null"].shape for i in range(4)]
    assert [m["status"] for m in manifests] == ["ok"] * 4
    assert shapes[0] == shapes[3] == (1, 8, 8)
    assert shapes[2] == (1, 16, 16)
    assert shapes[1][1] != shapes[1][2]
    assert [m["spatial"].get("buffer_m") for m in manifests] == [40, None, 80, 40]


def test_per_item_when_windows_are_several_then_an_item_for_each(tmp_path: Path) -> None:
    manifests = exported(tmp_path / "out", spatials=PLACES[:2], temporal=[TEMPORAL, TemporalSpec.year(2021)])
    assert [m["temporal"]["year"] for m in manifests] == [2021, 2022, 2021, 2022]
    assert [m["spatial"]["lon"] for m in manifests] == [2.0, 2.0, 2.02, 2.02]


def test_per_item_when_names_are_given_then_files_bear_them(tmp_path: Path) -> None:
    names = [f"site {i}.a" for i in range(7)]
    exported(tmp_path / "out", names=names)
    assert visible(tmp_path / "out") == {f"{name}.{kind}" for name in names for kind in ("npz", "json")}


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"save_inputs": False}, {"embedding__null"}),
        ({"save_embeddings": False}, {"input_chw__null"}),
    ],
)
def test_per_item_when_something_is_not_wanted_then_it_is_not_there(
    tmp_path: Path, config: dict[str, bool], keys: set[str]
) -> None:
    manifest = exported(tmp_path / "out", config=config)[0]
    assert set(arrays(tmp_path / "out" / "p00000.npz")) == keys
    assert manifest["status"] == "ok"
    entry = manifest["models"][0]
    assert (entry["input"] is None) == (not config.get("save_inputs", True))
    assert (entry["embedding"] is None) == (not config.get("save_embeddings", True))


def test_per_item_when_embeddings_are_not_wanted_then_the_model_does_not_run(tmp_path: Path) -> None:
    provider = CountingProvider()
    manifests = exported(tmp_path / "out", provider, models=["null:poison=0"], config={"save_embeddings": False})
    assert calls(provider) == 7
    assert [m["status"] for m in manifests] == ["ok"] * 7


def test_per_item_when_manifests_are_not_wanted_then_none_is_written(tmp_path: Path) -> None:
    manifests = exported(tmp_path / "out", config={"save_manifest": False})
    assert visible(tmp_path / "out") == {f"p{i:05d}.npz" for i in range(7)}
    assert "manifest_path" not in manifests[0]
    provider = CountingProvider()
    again = exported(tmp_path / "out", provider, config={"save_manifest": False})
    assert calls(provider) == 0
    assert all(m["resume_skipped"] for m in again)
    (tmp_path / "out" / "p00004.npz").unlink()
    exported(tmp_path / "out", provider, config={"save_manifest": False})
    assert calls(provider) == 1


# Failures


def failing(*lons: float, times: int = 10**9) -> CountingProvider:
    return CountingProvider(fault=Flaky(lambda: ProviderError("no way"), hits=at_lon(*lons), times=times))


def test_per_item_when_a_place_fails_then_it_says_so_and_the_others_are_there(tmp_path: Path) -> None:
    manifests = exported(tmp_path / "out", failing(2.04))
    assert [m["status"] for m in manifests] == ["ok", "ok", "failed", "ok", "ok", "ok", "ok"]
    entry = manifests[2]["models"][0]
    assert entry["status"] == "failed"
    assert "no way" in entry["error"]
    assert entry["embedding"] is None
    assert arrays(tmp_path / "out" / "p00002.npz") == {}
    assert manifests[2]["summary"] == {"total_models": 1, "failed_models": 1, "ok_models": 0}


def test_per_item_when_one_model_fails_then_the_item_is_partial(tmp_path: Path) -> None:
    exported(tmp_path / "first")
    poison = int(arrays(tmp_path / "first" / "p00004.npz")["input_chw__null"][0, 0, 0])
    manifests = exported(tmp_path / "out", models=["null@a", f"null:poison={poison}@b"])
    assert [m["status"] for m in manifests] == ["ok"] * 4 + ["partial"] + ["ok"] * 2
    assert manifests[4]["models"][1]["stage"] == "infer"
    assert set(arrays(tmp_path / "out" / "p00004.npz")) == {"input_chw__a", "embedding__a"}


def test_per_item_when_there_is_no_imagery_then_failed_and_not_asked_again(tmp_path: Path) -> None:
    provider = CountingProvider(empty=at_lon(2.02))
    first = exported(tmp_path / "out", provider)
    assert first[1]["status"] == "failed"
    assert "No images found" in first[1]["models"][0]["error"]
    calls(provider)
    again = exported(tmp_path / "out", provider)
    assert calls(provider) == 0
    assert all(m["resume_skipped"] for m in again)


def test_per_item_when_a_place_failed_then_the_same_call_tries_just_that_one_again(tmp_path: Path) -> None:
    exported(tmp_path / "out", failing(2.04))
    kept = {name: (tmp_path / "out" / name).read_bytes() for name in visible(tmp_path / "out")}
    provider = CountingProvider()
    manifests = exported(tmp_path / "out", provider)
    assert calls(provider) == 1
    assert [m["status"] for m in manifests] == ["ok"] * 7
    assert [m.get("resume_skipped", False) for m in manifests] == [True, True, False, True, True, True, True]
    now = {name: (tmp_path / "out" / name).read_bytes() for name in visible(tmp_path / "out")}
    assert {name for name in now if now[name] != kept[name]} == {"p00002.npz", "p00002.json"}


def test_per_item_when_pixels_look_wrong_and_that_counts_then_the_item_failed(tmp_path: Path) -> None:
    provider = CountingProvider(clear=lambda request: 0.25 if at_lon(2.06)(request) else 1.0)
    manifests = exported(tmp_path / "out", provider, config={"fail_on_bad_input": True, "min_valid_fraction": 0.0})
    assert [m["status"] for m in manifests] == ["ok"] * 3 + ["failed"] + ["ok"] * 3
    assert "Input inspection failed" in manifests[3]["models"][0]["error"]
    assert manifests[0]["models"][0]["input"]["inspection"]["ok"]


def test_per_item_when_errors_end_it_then_all_that_could_be_is_saved_first(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"point 2 .*no way"):
        exported(tmp_path / "out", failing(2.04), config={"continue_on_error": False})
    assert len(visible(tmp_path / "out")) == 14
    provider = CountingProvider()
    exported(tmp_path / "out", provider, config={"continue_on_error": False})
    assert calls(provider) == 1


# Another call


def test_per_item_when_called_again_then_nothing_is_done_and_all_is_returned(tmp_path: Path) -> None:
    first = exported(tmp_path / "out")
    provider = CountingProvider()
    again = exported(tmp_path / "out", provider)
    assert calls(provider) == 0
    for i, manifest in enumerate(again):
        assert manifest.pop("resume_skipped") is True
        assert manifest.pop("resume_output_path") == str(tmp_path / "out" / f"p{i:05d}.npz")
    assert again == first


@pytest.mark.parametrize(
    "changes",
    [
        {"temporal": TemporalSpec.year(2021)},
        {"models": [ExportModelRequest.configure("null", poison=-7)]},
        {"models": ["null", "null:poison=-7@other"]},
        {"models": [ExportModelRequest("null", sensor=SensorSpec(COLLECTION, ("B1",), cloudy_pct=10))]},
        {"models": [ExportModelRequest("null", fetch=FetchSpec(scale_m=20))]},
        {"spatials": [PointBuffer(place.lon, place.lat, 60) for place in PLACES]},
        {"config": {"save_inputs": False}},
        {"config": {"input_prep": InputPrepSpec.resize()}},
        {"config": {"min_valid_fraction": 0.25}},
    ],
)
def test_per_item_when_something_else_is_asked_then_all_is_done_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    exported(tmp_path / "out")
    provider = CountingProvider()
    manifests = exported(tmp_path / "out", provider, **changes)
    assert calls(provider) == 7
    assert not any("resume_skipped" in m for m in manifests)


def test_per_item_when_work_is_only_cut_otherwise_then_nothing_is_done_again(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    provider = CountingProvider()
    exported(tmp_path / "out", provider, config={"chunk_size": 5, "shard_size": 5, "input_prep": "tile"})
    assert calls(provider) == 0


def test_per_item_when_the_list_grew_then_only_the_new_places_are_done(tmp_path: Path) -> None:
    exported(tmp_path / "out", spatials=PLACES[:5])
    provider = CountingProvider()
    exported(tmp_path / "out", provider)
    assert calls(provider) == 2


def remove(folder: Path) -> None:
    (folder / "p00003.json").unlink()


def spoil_sidecar(folder: Path) -> None:
    (folder / "p00003.json").write_text('{"request_fingerprint": ')


def remove_arrays(folder: Path) -> None:
    (folder / "p00003.npz").unlink()


def cut_arrays(folder: Path) -> None:
    (folder / "p00003.npz").write_bytes((folder / "p00003.npz").read_bytes()[:-30])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "p00003.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "p00003.npz").write_bytes(data)


@pytest.mark.parametrize("harm", [remove, spoil_sidecar, remove_arrays, cut_arrays, flip_a_bit])
def test_per_item_when_a_file_is_gone_or_broken_then_just_that_item_is_done_again(tmp_path: Path, harm: Any) -> None:
    exported(tmp_path / "out")
    good = (tmp_path / "out" / "p00003.npz").read_bytes()
    harm(tmp_path / "out")
    provider = CountingProvider()
    manifests = exported(tmp_path / "out", provider)
    assert calls(provider) == 1
    assert [m.get("resume_skipped", False) for m in manifests] == [True] * 3 + [False] + [True] * 3
    assert (tmp_path / "out" / "p00003.npz").read_bytes() == good


def test_per_item_when_it_is_to_begin_anew_then_all_is_done_again(tmp_path: Path) -> None:
    exported(tmp_path / "out")
    provider = CountingProvider()
    manifests = exported(tmp_path / "out", provider, config={"resume": False})
    assert calls(provider) == 7
    assert not any("resume_skipped" in m for m in manifests)


def test_per_item_when_the_format_changes_then_the_old_file_does_not_stay_beside(tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    exported(tmp_path / "out")
    exported(tmp_path / "out", config={"format": "netcdf"})
    assert visible(tmp_path / "out") == {f"p{i:05d}.{kind}" for i in range(7) for kind in ("nc", "json")}


# Refused before any work


@pytest.mark.parametrize(
    "options",
    [
        {"names": ["a", "b"]},
        {"names": ["a"] * 7},
        {"names": ["../a", *"bcdefg"]},
        {"names": ["", *"bcdefg"]},
        {"models": []},
        {"models": "null"},
        {"models": [3]},
        {"models": ["null", "null"]},
        {"models": ["null@a-b", "null:poison=-3@a_b"]},
        {"spatials": []},
        {"spatials": None},
        {"config": {"save_inputs": False, "save_embeddings": False}},
        {"config": {"input_prep": "tile"}, "input_prep": "tile"},
        {"sensor": SensorSpec(COLLECTION, ("B1",)), "fetch": FetchSpec(scale_m=10)},
    ],
)
def test_per_item_when_the_request_is_wrong_then_a_model_error_before_any_work(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    provider = CountingProvider()
    with pytest.raises(ModelError):
        exported(tmp_path / "out", provider, **options)
    assert calls(provider) == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"format": "zip"}, {"chunk_size": 0}, {"max_retries": -1}, {"save_inputs": 1}])
def test_config_when_a_value_is_wrong_then_both_kinds_of_error_catch_it(wrong: dict[str, Any]) -> None:
    for kind in (ModelError, SpecError):
        with pytest.raises(kind):
            ExportConfig(**wrong)


@pytest.mark.parametrize("make", [ExportTarget.per_item, ExportTarget.combined, ExportTarget.dataset])
@pytest.mark.parametrize("path", ["", None, 3])
def test_target_when_there_is_no_path_then_refused(make: Any, path: Any) -> None:
    with pytest.raises(ModelError, match="must be a path"):
        make(path)


@pytest.mark.parametrize("resume", [True, False])
def test_per_item_when_a_json_of_that_name_is_somebody_elses_then_it_is_not_overwritten(
    tmp_path: Path, resume: bool
) -> None:
    (tmp_path / "p00003.json").write_text('{"type": "FeatureCollection", "features": []}')
    provider = CountingProvider()
    with pytest.raises(ExportError, match=r"p00003\.json is no manifest"):
        exported(tmp_path, provider, config={"resume": resume})
    assert calls(provider) == 0
    assert visible(tmp_path) == {"p00003.json"}


def test_per_item_when_the_folder_holds_a_dataset_then_refused(tmp_path: Path) -> None:
    export_batch(
        spatials=PLACES, temporal=TEMPORAL, models=["null"], target=ExportTarget.dataset(tmp_path / "out"),
        backend=CountingProvider(), config=ExportConfig(**SMALL),
    )  # fmt: skip
    with pytest.raises(ExportError, match="holds a dataset"):
        exported(tmp_path / "out")


def test_per_item_when_progress_is_shown_then_nothing_is_warned_of(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported(tmp_path / "out", config={"show_progress": True})
