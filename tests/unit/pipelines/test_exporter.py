"""A whole run, with a provider and a model that cost nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from rsembed.core.errors import CollectionGapError, ExportError, ModelError, ProviderError, RowError, SpecError
from rsembed.core.fetching import FetchRequest
from rsembed.core.settings import Settings
from rsembed.core.specs import BBox, PointBuffer, Window
from rsembed.embedders.batching import StoppedError
from rsembed.pipelines.exporter import BatchExporter
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import plan_run
from rsembed.pipelines.rows.table import RowOptions
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.testing.null import NullProvider
from tests.builders import (
    YEAR,
    CountingProvider,
    Flaky,
    at_lon,
    by_id,
    dataset,
    files,
    places,
    row_table,
    run_export,
    run_request,
)


def lost(*lons: float, times: int = 10**9) -> Flaky:
    return Flaky(lambda: ProviderError("no such tile"), hits=at_lon(*lons), times=times)


def counts(out: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((out / "manifest.json").read_text())["counts"]["null"]
    return found


# -- What comes out ------------------------------------------------------------------------


def test_export_when_run_then_every_row_is_there_once_in_order_with_its_columns(tmp_path: Path) -> None:
    table = places(12, extra={"name": [f"n{i}" for i in range(12)], "height": [None, *range(11)]})
    summary = run_export(tmp_path / "out", table)
    found = dataset(tmp_path / "out")
    assert summary.exit_code == 0
    assert summary.requests == summary.n_rows == 12
    assert summary.counts == {"null": {"ok": 12, "low_quality": 0, "no_data": 0, "collection_gap": 0, "failed": 0}}
    assert found["seq"].to_pylist() == list(range(12))
    assert sorted(found["row"].to_pylist()) == list(range(12))
    rows = by_id(tmp_path / "out")
    for i, given in enumerate(table.to_pylist()):
        row = rows[given["id"]]
        assert (row["row"], row["lon"], row["lat"], row["name"], row["height"]) == (
            i, given["lon"], given["lat"], given["name"], given["height"],
        )  # fmt: skip
        assert (row["start"], row["end"]) == (YEAR.start, YEAR.end)
        assert len(row["embedding"]) == 16
        assert shapely.from_wkb(row["geometry"]) == shapely.Point(given["lon"], given["lat"])
        assert shapely.from_wkb(row["footprint"]).contains(shapely.Point(given["lon"], given["lat"]))
        assert row["epsg"] == 32631
        assert row["scene_ids"] == ["scene-2022-01-01"]


def test_export_when_rows_differ_then_each_status_has_an_embedding_exactly_where_it_must(tmp_path: Path) -> None:
    gap, gone = at_lon(2.01), at_lon(2.02)

    def fault(request: FetchRequest) -> None:
        if gap(request):
            raise CollectionGapError("January is missing")
        if gone(request):
            raise ProviderError("no such tile")

    thin = at_lon(2.04)
    provider = NullProvider(fault=fault, empty=at_lon(2.03), clear=lambda r: 0.25 if thin(r) else 1.0)
    summary = run_export(tmp_path / "out", places(6), provider=provider)
    rows = by_id(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "p0": "ok", "p1": "collection_gap", "p2": "failed", "p3": "no_data", "p4": "low_quality", "p5": "ok",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["embedding"] is not None} == {"p0", "p4", "p5"}
    assert rows["p4"]["valid_fraction"] == 0.25
    assert summary.exit_code == 3
    assert summary.failures == {"null": {"provider": 1}}
    assert counts(tmp_path / "out") == {"ok": 2, "low_quality": 1, "no_data": 1, "collection_gap": 1, "failed": 1}
    (failure,) = pq.read_table(tmp_path / "out" / "failures.parquet").to_pylist()
    assert (failure["id"], failure["row"], failure["stage"], failure["error_class"]) == ("p2", 2, "fetch", "provider")
    assert "no such tile" in failure["message"]


def test_export_when_finished_then_its_own_files_agree_with_the_parts_and_nothing_else_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run_export(out)
    listed = pq.read_table(out / "parts.parquet").to_pylist()
    assert [part["name"] for part in listed] == ["null/part-00000.parquet", "null/part-00001.parquet"]
    for part in listed:
        assert (out / part["name"]).stat().st_size == part["bytes"]
        assert pq.read_metadata(out / part["name"]).num_rows == part["rows"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["fingerprint"] == summary.fingerprint == json.loads((out / "_run.json").read_text())["fingerprint"]
    assert manifest["request"]["rows"]["count"] == 12
    report = json.loads((out / "report.json").read_text())
    assert report["requests_all_processes"] == report["requests_this_process"] == 12
    assert {path.name for path in out.iterdir()} == {
        "_run.json", "_state", "manifest.json", "parts.parquet", "failures.parquet", "report.json", "null",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [out]
    assert summary.parts("null") == [out / part["name"] for part in listed]


def test_export_when_only_the_manner_changes_then_the_same_bytes(tmp_path: Path) -> None:
    run_export(tmp_path / "a", npz=True)
    run_export(tmp_path / "b", npz=True, fetch_workers=1, max_attempts=1)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_export_when_float16_then_stored_so(tmp_path: Path) -> None:
    run_export(tmp_path / "a", places(3))
    run_export(tmp_path / "b", places(3), dtype="float16")
    full, half = dataset(tmp_path / "a")["embedding"], dataset(tmp_path / "b")["embedding"]
    assert half.type == pa.list_(pa.float16(), 16)
    np.testing.assert_array_equal(
        np.array(half.to_pylist(), np.float16), np.array(full.to_pylist(), np.float32).astype(np.float16)
    )


def test_export_when_rows_are_boxes_then_rectangles_are_embedded_and_kept_as_given(tmp_path: Path) -> None:
    boxes = [BBox(2.0, 42.0, 2.002, 42.004), BBox(2.01, 42.0, 2.02, 42.002)]
    provider = CountingProvider()
    run_export(tmp_path / "out", boxes, "null-tiles", provider=provider)
    rows = dataset(tmp_path / "out", "null-tiles").sort_by("row").to_pylist()
    for row, box in zip(rows, boxes, strict=True):
        assert row["status"] == "ok"
        assert shapely.from_wkb(row["geometry"]).bounds == (box.minlon, box.minlat, box.maxlon, box.maxlat)
        assert shapely.from_wkb(row["footprint"]).contains(shapely.Point(box.lon, box.lat))
        assert row["bbox"]["xmax"] == box.maxlon
    shapes = {(r.grid.height, r.grid.width) for r in provider.asked}
    assert len(shapes) == 2
    for asked, row in zip(sorted(provider.asked, key=lambda r: r.grid.x_min), rows, strict=True):
        values = NullProvider().fetch(asked).values_tchw
        np.testing.assert_allclose(row["embedding"], values.mean() / 4000, rtol=1e-5)


def test_export_when_windows_are_several_then_a_row_for_each_and_npz_follows_the_input(tmp_path: Path) -> None:
    windows = WindowPolicy((YEAR, Window(YEAR.end, YEAR.end.replace(year=2024))))
    table = places(4).take([3, 1, 0, 2])
    run_export(tmp_path / "out", table, windows=windows, npz=True)
    with np.load(tmp_path / "out" / "null.npz") as found:
        assert found["row"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert found["id"].tolist() == [name for name in table["id"].to_pylist() for _ in range(2)]
        assert (np.diff(found["start"].astype(int))[::2] > 0).all()
        stored = {(row["id"], row["start"]): row["embedding"] for row in dataset(tmp_path / "out").to_pylist()}
        for name, start, vector in zip(found["id"], found["start"], found["embedding"], strict=True):
            assert stored[name, start.astype(object)] == vector.tolist()


def test_export_when_places_are_the_same_then_one_request_and_equal_vectors(tmp_path: Path) -> None:
    provider = CountingProvider()
    run_export(tmp_path / "out", [(2.0, 42.0)] * 20, provider=provider, shard_size=20)
    assert len(provider.asked) == 1
    # Equal up to the place in the batch: its last bits may depend on the slot.
    vectors = np.array(dataset(tmp_path / "out")["embedding"].to_pylist())
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), rtol=1e-5)


def test_export_when_inputs_are_kept_then_a_retry_of_inference_costs_no_request(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_export(out, places(4), keep_inputs=True)
    assert list((out / "_inputs").rglob("*.pack"))
    (out / "null" / "part-00000.parquet").unlink()
    provider = CountingProvider()
    run_export(out, places(4), provider=provider, keep_inputs=True)
    assert provider.asked == []


# -- Again ---------------------------------------------------------------------------------


def test_export_when_run_again_then_no_call_is_made_and_no_byte_changes(tmp_path: Path) -> None:
    out, provider = tmp_path / "out", CountingProvider()
    run_export(out, npz=True)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.*") if path.is_file()}
    summary = run_export(out, npz=True, provider=provider)
    assert provider.asked == []
    assert summary.resumed_rows == 12
    assert summary.requests == 0
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.*") if path.is_file()}
    after.pop(out / "_state" / "journal.jsonl")
    before.pop(out / "_state" / "journal.jsonl")
    assert after == before


def test_export_when_npz_is_asked_later_then_only_that_is_made(tmp_path: Path) -> None:
    provider = CountingProvider()
    run_export(tmp_path / "out")
    run_export(tmp_path / "out", npz=True, provider=provider)
    run_export(tmp_path / "whole", npz=True)
    assert provider.asked == []
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_export_when_failed_rows_succeed_later_then_only_they_are_asked_and_bytes_equal_an_undisturbed_run(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    first = run_export(out, npz=True, provider=NullProvider(fault=lost(2.03, 2.07, 2.08)))
    assert first.n_failed == 3
    provider = CountingProvider()
    second = run_export(out, npz=True, provider=provider)
    assert len(provider.asked) == 3
    assert second.exit_code == 0
    assert second.resumed_rows == 9
    run_export(tmp_path / "calm", npz=True)
    assert files(out) == files(tmp_path / "calm")


def test_export_when_rows_fail_then_the_others_bytes_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    run_export(tmp_path / "out", provider=NullProvider(fault=lost(2.03, 2.07)))
    run_export(tmp_path / "calm")
    disturbed, calm = by_id(tmp_path / "out"), by_id(tmp_path / "calm")
    assert {name for name, row in disturbed.items() if row["status"] == "failed"} == {"p3", "p7"}
    assert all(disturbed[name] == calm[name] for name in calm if name not in ("p3", "p7"))


def test_export_when_rows_fail_in_the_model_then_they_are_recorded_and_mates_are_intact(tmp_path: Path) -> None:
    asked = CountingProvider()
    run_export(tmp_path / "calm", provider=asked)
    victim = int(NullProvider().fetch(asked.asked[0]).values_tchw[0, 0, 0, 0])
    summary = run_export(tmp_path / "out", None, f"null:poison={victim}")
    disturbed, calm = by_id(tmp_path / "out"), by_id(tmp_path / "calm")
    failed = {name for name, row in disturbed.items() if row["status"] == "failed"}
    assert failed
    assert summary.failures == {"null": {"internal": len(failed)}}
    assert all(disturbed[name]["embedding"] == calm[name]["embedding"] for name in calm if name not in failed)


def test_export_when_a_compacted_run_is_retried_then_only_the_part_concerned_is_rewritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_export(out, places(20), provider=NullProvider(fault=lost(2.0)))
    before = {path.name: path.stat().st_ino for path in (out / "null").iterdir()}
    assert len(before) == 2
    run_export(out, places(20))
    after = {path.name: path.stat().st_ino for path in (out / "null").iterdir()}
    assert sum(before[name] != after[name] for name in before) == 1


# -- Interrupted or harmed -----------------------------------------------------------------


@pytest.mark.parametrize("harm", ["delete", "cut"])
def test_export_when_a_part_is_harmed_then_its_rows_alone_are_done_again(tmp_path: Path, harm: str) -> None:
    out, provider = tmp_path / "out", CountingProvider()
    run_export(out)
    whole = files(out)
    part = out / "null" / "part-00001.parquet"
    part.unlink() if harm == "delete" else part.write_bytes(part.read_bytes()[:-9])
    run_export(out, provider=provider)
    assert len(provider.asked) == 2
    assert files(out) == whole


@pytest.mark.parametrize("name", ["manifest.json", "parts.parquet", "failures.parquet"])
def test_export_when_one_of_its_own_files_is_gone_then_it_is_written_again(tmp_path: Path, name: str) -> None:
    out, provider = tmp_path / "out", CountingProvider()
    run_export(out)
    whole = files(out)
    (out / name).unlink()
    run_export(out, provider=provider)
    assert provider.asked == []
    assert files(out) == whole


def test_export_when_the_process_died_then_the_next_one_does_the_rest(tmp_path: Path) -> None:
    class Dies:
        """Ends the run in the middle, as Ctrl-C does."""

        def start(self, totals: object) -> None: ...

        def advance(self, stage: str, rows: int) -> None:
            if stage == "embed":
                raise KeyboardInterrupt

        def note(self, message: str) -> None: ...

        def finish(self) -> None: ...

    out, provider = tmp_path / "out", CountingProvider()
    with pytest.raises(KeyboardInterrupt):
        run_export(out, places(30), progress=Dies())
    assert not (out / "manifest.json").exists()
    journal = out / "_state" / "journal.jsonl"
    assert journal.read_bytes().count(b"\n") >= 1
    journal.write_bytes(journal.read_bytes() + b'{"kind":"shard","label":"nu')  # and its last line was torn
    (out / "_tmp").mkdir(exist_ok=True)
    (out / "_tmp" / "half").write_text("x")
    summary = run_export(out, places(30), provider=provider)
    assert summary.resumed_rows >= 5
    assert len(provider.asked) <= 25
    run_export(tmp_path / "calm", places(30))
    assert files(out) == files(tmp_path / "calm")


def test_export_when_stopped_then_fetching_stops_with_it(tmp_path: Path) -> None:
    provider = CountingProvider(latency_s=0.01)
    plan = plan_run(run_request(fetch_workers=1), provider, Settings())
    exporter = BatchExporter(plan, row_table(places(40), tmp_path), provider=provider, out=tmp_path / "out")
    before = set(threading.enumerate())
    exporter.stop()
    with pytest.raises(StoppedError) as caught:
        exporter.run()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), "the error's traceback keeps the run's threads at work"
    assert len(provider.asked) < 30
    del caught


def test_export_when_stored_inputs_are_damaged_then_rows_are_fetched_again_and_bytes_agree(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_export(out, places(4), keep_inputs=True)
    whole = files(out / "null")
    (pack,) = (out / "_inputs").rglob("*.pack")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 0xFF
    pack.write_bytes(data)
    (out / "null" / "part-00000.parquet").unlink()
    run_export(out, places(4), keep_inputs=True)
    assert files(out / "null") == whole


# -- Refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"batch_size": 4}, "batch_size: 2 -> 4"), ({"dtype": "float16"}, 'dtype: "float32" -> "float16"'),
     ({"buffer_m": 80.0}, "buffer_m: null -> 80")],
)  # fmt: skip
def test_export_when_the_request_changed_then_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    run_export(tmp_path / "out")
    whole = files(tmp_path / "out", without=())
    with pytest.raises(ExportError) as caught:
        run_export(tmp_path / "out", **changes)
    assert said in str(caught.value)
    assert files(tmp_path / "out", without=()) == whole


def test_export_when_the_rows_changed_then_refused(tmp_path: Path) -> None:
    run_export(tmp_path / "out", places(12))
    with pytest.raises(ExportError, match=r"rows.count: 12 -> 11"):
        run_export(tmp_path / "out", places(11))


def test_export_when_another_process_has_the_folder_then_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out").lock(), pytest.raises(ExportError, match="another process"):
        run_export(tmp_path / "out")


def test_export_when_the_folder_holds_other_things_then_refused_before_any_call(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    provider = CountingProvider()
    with pytest.raises(ExportError, match=r"thesis.tex"):
        run_export(tmp_path / "out", provider=provider)
    assert provider.asked == []


def test_export_when_a_foreign_part_lies_among_its_own_then_it_is_named(tmp_path: Path) -> None:
    run_export(tmp_path / "out")
    foreign = tmp_path / "out" / "null" / "part-00099.parquet"
    foreign.write_bytes(b"x")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ExportError, match="part-00099"):
        run_export(tmp_path / "out")


@pytest.mark.parametrize("lat", [84.5, -80.5, 90.0])
def test_export_when_a_place_lies_beyond_the_grid_then_its_row_is_named_before_any_work(
    tmp_path: Path, lat: float
) -> None:
    table = pa.table({"id": ["a", "pole"], "lon": [2.0, 2.0], "lat": [42.0, lat]})
    provider = CountingProvider()
    with pytest.raises(SpecError, match=rf"row 1 \(id pole\): latitude {lat:g} lies beyond 84 N / 80 S"):
        run_export(tmp_path / "out", table, provider=provider)
    assert provider.asked == []
    assert not (tmp_path / "out").exists()


def test_export_when_a_box_needs_too_many_tiles_then_its_row_is_named_before_any_work(tmp_path: Path) -> None:
    provider = CountingProvider()
    with pytest.raises(RowError, match=r"row 1 \(id 1\): null: a region of .* needs .* tiles"):
        run_export(tmp_path / "out", [BBox(2, 42, 2.001, 42.001), BBox(2, 42, 3, 43)], provider=provider)
    assert provider.asked == []


def test_export_when_the_buffer_needs_too_many_tiles_then_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs .* tiles"):
        run_export(tmp_path / "out", buffer_m=20_000.0)


def test_export_when_a_window_is_too_short_for_the_frames_then_its_row_is_named_before_any_work(tmp_path: Path) -> None:
    table = places(2, extra={"start": ["2022-01-01", "2022-01-01"], "end": ["2022-02-01", "2022-01-03"]})
    with pytest.raises(RowError, match=r"row 1 \(id p1\): null-four: a window of 2 days cannot be cut into 4 frames"):
        run_export(tmp_path / "out", table, "null-four")


def test_export_when_a_column_is_named_like_the_outputs_own_then_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'embedding' would clash"):
        run_export(tmp_path / "out", places(2, extra={"embedding": [1, 2]}))


def test_export_when_bad_rows_are_skipped_then_they_are_listed(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "lon": [2.0, 200.0], "lat": [42.0, 42.0]})
    summary = run_export(tmp_path / "out", table, row_options=RowOptions(skip_bad_rows=True))
    assert (summary.n_rows, summary.skipped_rows) == (1, 1)
    (skipped,) = pq.read_table(tmp_path / "out" / "skipped.parquet").to_pylist()
    assert (skipped["row"], skipped["id"]) == (1, "b")


def test_export_when_points_bring_a_buffer_then_it_is_the_runs_that_counts(tmp_path: Path) -> None:
    provider = CountingProvider()
    run_export(tmp_path / "out", [PointBuffer(2.0, 42.0)], provider=provider, buffer_m=60.0, context="none")
    assert {(r.grid.height, r.grid.width) for r in provider.asked} == {(12, 12)}
