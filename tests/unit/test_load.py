from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsembed.testing.null  # noqa: F401 - registers the model "null"
from rsembed import ExportConfig, ExportTarget, ProviderError, TemporalSpec, export_batch, load_export
from rsembed.core.fetching import FetchRequest
from rsembed.testing.null import NullProvider

PLACES = [(7.0 + 0.05 * (i * 7 % 12), 47.0 + 0.02 * (i * 5 % 12)) for i in range(12)]


def fail_in_the_east(request: FetchRequest) -> None:
    if request.grid.x_min > 380_000:
        raise ProviderError("no way")


def exported(out: Path, **provider: object) -> Path:
    export_batch(
        spatials=PLACES,
        temporal=[TemporalSpec.year(2021), TemporalSpec.year(2022)],
        models=["null@first", "null:poison=-2@second"],
        target=ExportTarget.dataset(out),
        config=ExportConfig(shard_size=5, shards_per_part=2, show_progress=False),
        backend=NullProvider(**provider),  # type: ignore[arg-type]  # passed on
    )
    return out


def test_load_when_rows_were_reordered_then_input_order_is_back(tmp_path: Path) -> None:
    run = load_export(exported(tmp_path / "out"))
    table = run.table("first")
    assert run.n_items == 24
    assert table.column("row").to_pylist() == [i for i in range(12) for _ in range(2)]
    lonlat = list(zip(table.column("lon").to_pylist(), table.column("lat").to_pylist(), strict=True))
    assert lonlat == [place for place in PLACES for _ in range(2)]
    expected = np.stack(table.column("embedding").to_pylist()).astype(np.float32)
    np.testing.assert_array_equal(run.embedding("first"), expected)


def test_load_when_all_went_well_then_every_model_is_ok(tmp_path: Path) -> None:
    run = load_export(exported(tmp_path / "out"))
    assert run.status == "ok"
    assert run.ok_models == ["first", "second"]
    assert run.failed_models == []
    assert run.models["first"].dim == 16
    assert run.table("first", ["id", "status"]).column_names == ["id", "status"]


def test_load_when_rows_failed_then_they_are_nan_and_the_run_partial(tmp_path: Path) -> None:
    run = load_export(exported(tmp_path / "out", fault=fail_in_the_east))
    failed = np.array(run.table("first").column("status").to_pylist()) == "failed"
    assert 0 < failed.sum() < 24
    np.testing.assert_array_equal(np.isnan(run.embedding("first")).all(axis=1), failed)
    assert run.status == "partial"
    assert run.ok_models == []
    assert run.failed_models == []


def test_load_when_a_label_is_unknown_then_the_known_ones_are_named(tmp_path: Path) -> None:
    run = load_export(exported(tmp_path / "out"))
    with pytest.raises(KeyError, match="first, second"):
        run.embedding("third")


def test_load_when_the_path_is_missing_then_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_export(tmp_path / "nowhere")


def test_load_when_the_folder_is_another_then_it_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no finished export.*notes\.txt"):
        load_export(tmp_path)


def test_load_when_the_run_has_not_ended_then_it_says_how_to_end_it(tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="has not ended"):
        load_export(out)


def test_load_when_the_manifest_is_damaged_then_it_says_so(tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    (out / "manifest.json").write_text('{"counts": ')
    with pytest.raises(ValueError, match="damaged"):
        load_export(out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="not a manifest"):
        load_export(out)


def test_load_when_a_part_is_gone_then_it_says_so(tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    next((out / "second").glob("part-*.parquet")).unlink()
    with pytest.raises(ValueError, match="the manifest says 24"):
        load_export(out)
