"""Datasets in int8: steps fixed from a sample, once; what is read back is near what was computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rsembed.core.errors import ExportError, ModelError, ProviderError, SpecError
from rsembed.core.specs import OutputSpec
from rsembed.load import load_export
from rsembed.pipelines.calibration import SAMPLE_ROWS
from rsembed.pipelines.exporter import ExportSummary
from rsembed.pipelines.request import ExportConfig
from rsembed.testing.null import NullProvider
from tests.builders import CountingProvider, Flaky, at_lon, by_id, files, places, run_export


def export(out: Path, n: int = 40, *models: str, **changes: Any) -> ExportSummary:
    return run_export(out, places(n), *(models or ("null",)), **({"dtype": "int8"} | changes))


def test_int8_when_read_back_then_off_by_at_most_half_a_step(tmp_path: Path) -> None:
    export(tmp_path / "small")
    export(tmp_path / "full", dtype="float32")
    small, full = (load_export(tmp_path / name).embedding("null") for name in ("small", "full"))
    steps = np.array(json.loads((tmp_path / "small" / "quantization.json").read_text())["null"]["step"])
    assert (np.abs(small - full) <= steps * 0.5001).all()
    assert small.dtype == np.float32
    kind = pq.read_schema(next((tmp_path / "small" / "null").glob("*.parquet"))).field("embedding").type
    assert str(kind.value_type) == "int8"


def test_int8_when_run_then_each_row_is_fetched_once_and_the_error_is_in_the_manifest(tmp_path: Path) -> None:
    provider = CountingProvider()
    summary = export(tmp_path / "out", provider=provider)
    assert provider.calls == summary.requests == 40
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["quantization"]["null"]
    assert facts["sample_rows"] == 40
    assert 0.999 < facts["error"]["cosine_min"] <= 1.0
    assert facts["error"]["clipped"] == 0.0


def test_int8_when_there_are_many_rows_then_a_sample_over_all_of_them(tmp_path: Path) -> None:
    export(tmp_path / "out", 300, shard_size=64)
    facts = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert facts["null"]["sample_rows"] == SAMPLE_ROWS


def test_int8_when_rows_fail_and_are_tried_again_then_steps_stay_and_bytes_are_those_of_a_calm_run(
    tmp_path: Path,
) -> None:
    export(tmp_path / "calm", 300)
    sampled = set(np.linspace(0, 299, SAMPLE_ROWS).round().astype(int).tolist())
    lons = [row["lon"] for row in by_id(tmp_path / "calm").values() if row["seq"] not in sampled][:2]
    broken = NullProvider(fault=Flaky(lambda: ProviderError("not today"), hits=at_lon(*lons), times=2))
    assert export(tmp_path / "out", 300, provider=broken).n_failed == 2
    assert export(tmp_path / "out", 300).n_failed == 0
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_int8_when_maps_then_each_dimension_has_one_step_for_all_cells(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"output": OutputSpec.grid(), "buffer_m": 110.0}
    export(tmp_path / "small", 10, "null-map", **changes)
    export(tmp_path / "full", 10, "null-map", dtype="float32", **changes)
    small, full = (load_export(tmp_path / name).embedding("null-map") for name in ("small", "full"))
    steps = np.array(json.loads((tmp_path / "small" / "quantization.json").read_text())["null-map"]["step"])
    assert (np.abs(small - full) <= steps[:, None, None] * 0.5001 + 0.1 * np.abs(full)).all()


def test_int8_when_steps_are_given_then_they_are_used_and_nothing_is_sampled(tmp_path: Path) -> None:
    steps = {"null": (0.5,) * 16}
    export(tmp_path / "out", steps=steps)
    assert not (tmp_path / "out" / "quantization.json").exists()
    found = load_export(tmp_path / "out").embedding("null")
    np.testing.assert_array_equal(found * 2, np.rint(found * 2))
    with pytest.raises(ExportError, match="another run"):
        export(tmp_path / "out", steps={"null": (0.25,) * 16})


def test_int8_when_steps_do_not_fit_then_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="null has 16 dimensions, 3 steps were given"):
        export(tmp_path / "out", steps={"null": (1.0,) * 3})
    with pytest.raises(SpecError, match="steps are of dtype='int8'"):
        ExportConfig(steps={"null": (1.0,)})
    with pytest.raises(SpecError, match="must be positive numbers"):
        ExportConfig(dtype="int8", steps={"null": (0.0,)})


def test_int8_when_no_row_has_imagery_then_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none of the sampled rows has an embedding.*float16"):
        export(tmp_path / "out", provider=NullProvider(empty=lambda request: True))


def test_int8_when_also_an_npz_then_its_numbers_are_those_read_back(tmp_path: Path) -> None:
    export(tmp_path / "out", npz=True)
    with np.load(tmp_path / "out" / "null.npz") as arrays:
        np.testing.assert_array_equal(arrays["embedding"], load_export(tmp_path / "out").embedding("null"))
