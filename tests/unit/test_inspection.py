from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest

import rsembed.testing.null  # noqa: F401 - registers the model "null"
from rsembed import PointBuffer, SensorSpec, SpecError, TemporalSpec, inspect_model_input, inspect_provider_patch
from rsembed.core.fetching import FetchRequest, Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import BBox, Window
from rsembed.pipelines.patch_report import report_patch
from rsembed.testing.null import NullProvider

YEAR = TemporalSpec.year(2022)
PLACE = PointBuffer(7.5, 47.5, 200)
SENSOR = SensorSpec("TEST/NULL", ("B1", "B2"), scale_m=10)


class Recording(NullProvider):
    """Keeps what it was asked for."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # passed on
        self.requests: list[FetchRequest] = []

    def fetch(self, request: FetchRequest) -> Patch:
        self.requests.append(request)
        return super().fetch(request)


def small_patch() -> Patch:
    window = Window(dt.date(2022, 1, 1), dt.date(2022, 7, 1))
    values = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    valid = np.ones((2, 1, 2, 2), dtype=np.bool_)
    valid[0, 0, 0] = False
    valid[1] = False
    frames = (Frame(window, 2, window.midpoint, window.start, window.start, ("scene",)), Frame(window))
    return Patch(values, valid, ("B4",), Grid(32632, 0.0, 20.0, 10.0, 2, 2), frames)


def test_report_when_pixels_are_masked_then_numbers_are_of_the_valid_ones() -> None:
    report = report_patch(small_patch(), "X")
    (band,) = report.frames[0].bands
    assert (band.minimum, band.maximum, band.mean, band.valid_fraction) == (2.0, 3.0, 2.5, 0.5)
    assert report.frames[1].bands[0].mean is None
    assert report.ok
    assert any("frame 1" in text and "no imagery" in text for text in report.warnings)


def test_inspect_provider_patch_when_asked_then_the_report_is_json() -> None:
    found = inspect_provider_patch(spatial=PLACE, temporal=YEAR, sensor=SENSOR, backend=NullProvider())
    assert found["ok"]
    assert json.loads(json.dumps(found)) == found
    assert (found["report"]["height"], found["report"]["width"]) == (40, 40)
    assert [band["band"] for band in found["report"]["frames"][0]["bands"]] == ["B1", "B2"]


def test_inspect_provider_patch_when_nothing_is_there_then_not_ok() -> None:
    provider = NullProvider(empty=lambda _: True)
    found = inspect_provider_patch(spatial=PLACE, temporal=YEAR, sensor=SENSOR, backend=provider)
    assert not found["ok"]
    assert found["warnings"]


def test_inspect_provider_patch_when_a_point_has_no_buffer_then_refused() -> None:
    with pytest.raises(SpecError, match="buffer_m"):
        inspect_provider_patch(spatial=PointBuffer(7, 47), temporal=YEAR, sensor=SENSOR, backend=NullProvider())


def test_inspect_provider_patch_when_a_box_is_given_then_its_shape_is_kept() -> None:
    box = BBox(7.0, 47.0, 7.02, 47.01)
    found = inspect_provider_patch(spatial=box, temporal=YEAR, sensor=SENSOR, backend=NullProvider(), return_array=True)
    assert found["array_tchw"].shape == (1, 2, found["report"]["height"], found["report"]["width"])


def test_inspect_provider_patch_when_fetched_then_as_a_model_with_that_sensor() -> None:
    one_band = SensorSpec("TEST/NULL", ("B1",), scale_m=10, cloudy_pct=20)
    mine, models = Recording(), Recording()
    inspect_provider_patch(spatial=PLACE, temporal=YEAR, sensor=one_band, backend=mine)
    inspect_model_input("null", spatial=PLACE, temporal=YEAR, sensor=one_band, backend=models)
    assert mine.requests[0].recipe == models.requests[0].recipe


def test_inspect_model_input_when_asked_then_exactly_what_a_run_fetches() -> None:
    from rsembed import get_embedding

    inspected, ran = Recording(), Recording()
    inspect_model_input("null", spatial=PointBuffer(7.5, 47.5), temporal=YEAR, backend=inspected, modality="multi")
    get_embedding("null", spatial=PointBuffer(7.5, 47.5), temporal=YEAR, backend=ran, modality="multi")
    assert inspected.requests == ran.requests


def test_inspect_model_input_when_arrays_are_wanted_then_they_come_with_their_mask() -> None:
    found = inspect_model_input("null", spatial=PLACE, temporal=YEAR, backend=NullProvider(), return_arrays=True)
    assert found["array_tchw"].dtype == np.float32
    assert found["valid_tchw"].shape == found["array_tchw"].shape
    assert found["n_frames"] == 1


def test_inspect_when_saved_then_npz_and_picture_are_there(tmp_path: Path) -> None:
    found = inspect_model_input("null", spatial=PLACE, temporal=YEAR, backend=NullProvider(), save_dir=tmp_path)
    assert [Path(path).name for path in found["artifacts"]] == ["patch.npz", "quicklook.png"]
    with np.load(tmp_path / "patch.npz", allow_pickle=False) as arrays:
        assert arrays["values_tchw"].shape == arrays["valid_tchw"].shape
        assert list(arrays["bands"]) == ["B1"]
        assert arrays["transform"].shape == (6,)
    assert (tmp_path / "quicklook.png").read_bytes().startswith(b"\x89PNG")
