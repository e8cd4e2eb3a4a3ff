"""What a model would receive: `inspect_provider_patch` and `inspect_model_input` of the reference's API."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rsembed import (
    BBox,
    FetchSpec,
    ModelError,
    PointBuffer,
    RSEmbedError,
    SensorSpec,
    TemporalSpec,
    inspect_model_input,
    inspect_provider_patch,
)
from rsembed.cli.main import cli
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Frame, Patch
from rsembed.testing.null import COLLECTION, NullProvider
from rsembed.testing.scene import write_synthetic_catalog
from tests.contract.reference import models
from tests.contract.reference.calls import PLACE, YEAR, single

assert models.Monthly.card.id == "contract-monthly"
S2 = "COPERNICUS/S2_SR_HARMONIZED"
SENSOR = SensorSpec(COLLECTION, ("B1", "B2"))
ROOT = Path(__file__).resolve().parents[3]


class Pixels(NullProvider):
    """Gives ``values`` (H, W) of 8 x 8 pixels in every band; NaN is not valid; the bins in ``empty`` have nothing."""

    def __init__(self, values: Any, *empty: int) -> None:
        super().__init__()
        self.values, self.without = np.broadcast_to(np.asarray(values, np.float32), (8, 8)), empty

    def fetch(self, request: FetchRequest) -> Patch:
        patch = super().fetch(request)
        frames = list(patch.frames)
        for i in range(len(frames)):
            patch.valid_tchw[i] = np.isfinite(self.values) & (i not in self.without)
            patch.values_tchw[i] = np.where(patch.valid_tchw[i], self.values, 0)
            if i in self.without:
                frames[i] = Frame(request.bins[i])
        return replace(patch, frames=tuple(frames))


def look(values: Any, *empty: int, collection: str = S2, **more: Any) -> dict[str, Any]:
    sensor = SensorSpec(collection, ("B4",))
    return inspect_provider_patch(spatial=PLACE, temporal=YEAR, sensor=sensor, backend=Pixels(values, *empty), **more)


def test_bands_when_reported_then_numbers_are_of_the_valid_pixels() -> None:
    values = np.arange(64, dtype=np.float32).reshape(8, 8) * 10
    values[0, :4] = np.nan
    (band,) = look(values)["report"]["frames"][0]["bands"]
    seen = values[np.isfinite(values)].astype(np.float64)
    assert (band["minimum"], band["maximum"]) == (40, 630)
    assert band["mean"] == pytest.approx(seen.mean())
    assert band["std"] == pytest.approx(seen.std())
    assert band["percentiles"]["p50"] == pytest.approx(np.median(seen))
    assert band["percentiles"]["p98"] == pytest.approx(np.percentile(seen, 98))
    assert (band["valid_fraction"], band["zero_fraction"], band["saturated_fraction"]) == (60 / 64, 0, 0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.where(np.arange(64).reshape(8, 8) < 20, 0, 900), "0 in 31% of its valid pixels"),
        (
            np.where(np.arange(64).reshape(8, 8) < 32, 12000, 900),
            "saturated in 50% of its valid pixels: clouds or snow",
        ),
        (np.full((8, 8), 77.0), "B4 is 77 everywhere"),
        (np.linspace(0.01, 0.9, 64).reshape(8, 8), "reaches 0.9 only: reflectance"),
        (np.where(np.arange(64).reshape(8, 8) < 40, np.nan, 900), "only 38% of the pixels are valid"),
        (np.full((8, 8), np.nan), "nothing is valid"),
    ],
)
def test_warnings_when_pixels_are_odd_then_in_words(values: Any, said: str) -> None:
    found = look(values)
    assert any(said in text for text in found["warnings"]), found["warnings"]
    assert found["ok"] == bool(np.isfinite(values).any())


def test_warnings_when_pixels_are_plain_then_there_are_none() -> None:
    assert look(np.arange(1, 65).reshape(8, 8) * 50)["warnings"] == []


def test_warnings_when_power_is_negative_then_decibels_are_suspected() -> None:
    values = -np.arange(1, 65, dtype=np.float32).reshape(8, 8)
    assert any("decibels" in text for text in look(values, collection="COPERNICUS/S1_GRD_FLOAT")["warnings"])
    assert not any("decibels" in text for text in look(values, collection="COPERNICUS/S1_GRD")["warnings"])


def test_value_range_when_values_lie_outside_then_told_and_a_wrong_one_is_refused() -> None:
    values = np.arange(1, 65).reshape(8, 8) * 50
    assert any("outside the expected 0..1000" in text for text in look(values, value_range=(0, 1000))["warnings"])
    assert look(values, value_range=(0, 10_000))["warnings"] == []
    for wrong in ((1, 0), (1,), "0,1", 5, (0, "many"), (0, float("nan"))):
        with pytest.raises(ModelError, match="value_range must be two numbers"):
            look(values, value_range=wrong)


def test_frames_when_the_model_has_time_bins_then_one_entry_for_each() -> None:
    found = inspect_model_input(
        "contract-monthly",
        spatial=PLACE,
        temporal=TemporalSpec.range("2022-01-01", "2022-05-31"),
        backend=Pixels(np.arange(1, 65).reshape(8, 8), 2),
    )
    assert [frame["index"] for frame in found["frames"]] == [0, 1, 2, 3, 4]
    assert [frame["empty"] for frame in found["frames"]] == [False, False, True, False, False]
    assert (found["n_frames"], found["n_empty"]) == (5, 1)
    assert [frame["valid_fraction"] for frame in found["frames"]] == [1, 1, 0, 1, 1]
    assert found["frames"][2]["date"] is None
    assert any("frame 2 (2022-03-02..2022-04-01) has no imagery" in text for text in found["warnings"])


def test_report_when_windows_are_stretched_or_years_then_the_warning_is_in_it() -> None:
    long = TemporalSpec.range("2020-01-01", "2022-12-31")
    backend = Pixels(np.arange(1, 65).reshape(8, 8))
    stretched = inspect_model_input("contract-monthly", spatial=PLACE, temporal=long, backend=backend)
    assert any("12 equal parts" in text for text in stretched["warnings"])
    annual = inspect_model_input("contract-annual", spatial=PLACE, temporal=long, backend=backend)
    assert any("2020 stands for the window" in text for text in annual["warnings"])


def test_report_when_written_then_plain_json_with_the_facts_of_a_run() -> None:
    found = inspect_model_input("null", spatial=PLACE, temporal=YEAR, backend=NullProvider(), modality="multi")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    run = single(modality="multi").meta
    for key in ("model", "options", "modality", "sensor", "fetch", "backend", "recipe", "spatial"):
        assert found[key] == run[key]
    assert (found["temporal"]["start"], found["forwards"], found["native_px"]) == ("2022-01-01", 1, 8)


def test_inspection_when_no_window_is_given_then_the_last_year_with_a_warning_at_the_callers_line() -> None:
    for look_at in (
        lambda: inspect_model_input("null", spatial=PLACE, backend=NullProvider()),
        lambda: inspect_provider_patch(spatial=PLACE, sensor=SENSOR, backend=NullProvider()),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            look_at()
        assert [each.filename for each in caught] == [__file__]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spatial": (2, 42)}, "must be a PointBuffer or a BBox"),
        ({"temporal": 2022}, "temporal must be TemporalSpec"),
        ({"backend": "mars"}, "no backend 'mars'"),
        ({"sensor": SENSOR, "fetch": FetchSpec(scale_m=20)}, "sensor or fetch, not both"),
        ({"sensor": "S2"}, "sensor must be a SensorSpec"),
        ({"modality": "s9"}, "modality must be one of"),
        ({"poisson": 1}, "no option 'poisson'.*accepted: poison"),
        ({"input_prep": "crop"}, "mode must be one of"),
    ],
)
def test_inspection_when_an_argument_is_wrong_then_a_named_error(changes: dict[str, Any], said: str) -> None:
    given = {"spatial": PLACE, "temporal": YEAR, "backend": NullProvider()} | changes
    with pytest.raises(RSEmbedError, match=said):
        inspect_model_input("null", **given)
    if set(changes) & {"spatial", "temporal", "backend"} or changes.get("sensor") == "S2":
        with pytest.raises(RSEmbedError, match=said):
            inspect_provider_patch(**{"sensor": SENSOR} | given)


def test_inspection_when_models_need_weights_then_neither_they_nor_torch_are_loaded(tmp_path: Path) -> None:
    catalog = write_synthetic_catalog(tmp_path / "scene", size_px=256, dates=("2022-06-13",))
    program = (
        "import sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "from rsembed import PointBuffer, TemporalSpec, SensorSpec, inspect_model_input, inspect_provider_patch\n"
        "where = dict(spatial=PointBuffer(2.77, 42.44, 320), temporal=TemporalSpec.year(2022),\n"
        f"             catalog={str(catalog)!r})\n"
        "for name in ('mosaiks', 'remoteclip', 'satmae'):\n"
        "    found = inspect_model_input(name, **where, save_dir=None)\n"
        "    assert found['ok'], name\n"
        f"inspect_provider_patch(sensor=SensorSpec('{S2}', ('red', 'nir')), **where)\n"
        "heavy = [m for m in ('torch', 'safetensors', 'huggingface_hub', 'ee') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"RSEMBED_WEIGHTS_DIR": str(tmp_path / "none"), "RSEMBED_OFFLINE": "1", "HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("spatial", [PLACE, BBox(2.0, 42.0, 2.002, 42.001), PointBuffer(2.0, 42.0)])
def test_artifacts_when_a_folder_is_named_then_pixels_and_picture_are_in_it(tmp_path: Path, spatial: Any) -> None:
    found = inspect_model_input(
        "null", spatial=spatial, temporal=YEAR, backend=NullProvider(), return_arrays=True, save_dir=tmp_path / "look"
    )
    pixels, picture = map(Path, found["artifacts"])
    with np.load(pixels, allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["values_tchw"], found["array_tchw"])
        assert list(saved["bands"]) == ["B1"]
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_artifacts_when_the_folder_is_a_file_then_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RSEmbedError, match="choose another folder"):
        inspect_model_input("null", spatial=PLACE, temporal=YEAR, backend=NullProvider(), save_dir=tmp_path / "file")


def test_command_when_printed_then_every_number_has_its_column(tmp_path: Path) -> None:
    catalog = write_synthetic_catalog(tmp_path / "scene", size_px=256, dates=("2022-06-13",))
    place = ["--lon", "2.77", "--lat", "42.44", "--year", "2022", "--catalog", str(catalog)]
    done = CliRunner().invoke(
        cli, ["inspect", "mosaiks", *place, "--value-range", "0,100", "--save", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.output
    for word in ("median", "p98", "std", "zero", "saturated", "outside the expected 0..100", "cloud filter", "saved"):
        assert word in done.output
    assert (tmp_path / "o" / "quicklook.png").exists()
    for wrong in ("1", "a,b", "1,2,3"):
        refused = CliRunner().invoke(cli, ["inspect", "mosaiks", *place, "--value-range", wrong])
        assert refused.exit_code == 2
        assert "takes 2 numbers" in refused.stderr
