"""Rows 30 to 35 of the reference's contract: windows, bins, frames."""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed
from rsembed import Model, ModelError, ProviderError, RSEmbedError, TemporalSpec, inspect_model_input
from rsembed.core.errors import TransientProviderError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import Window
from rsembed.embedders.options import make_config
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.plan import sharing_report
from rsembed.testing.null import NullProvider
from rsembed.tools.temporal import frame_bins
from tests.builders import CountingProvider, run_plan
from tests.contract.reference import models
from tests.contract.reference.calls import PLACE, YEAR, batch, single

assert models.Monthly.card.id == "contract-monthly"


def days(n: int) -> TemporalSpec:
    start = dt.date(2022, 1, 1)
    return TemporalSpec.range(start, start + dt.timedelta(days=n))


class Months(NullProvider):
    """Every bin has the value of its number; the bins whose number is in ``empty`` have no imagery."""

    def __init__(self, *empty: int) -> None:
        super().__init__()
        self.without = set(empty)

    def fetch(self, request: FetchRequest) -> Patch:
        patch = super().fetch(request)
        frames = list(patch.frames)
        for i in range(len(frames)):
            patch.values_tchw[i] = i + 1
            if i in self.without:
                patch.values_tchw[i], patch.valid_tchw[i] = 0, False
                frames[i] = Frame(request.bins[i])
        return replace(patch, frames=tuple(frames))


# Row 30: a fetch is shared between equal semantics only


def test_plan_when_models_want_the_same_frames_then_they_share_a_fetch_and_else_not() -> None:
    plan = run_plan("null", "null-wide", "null-four", "contract-monthly")
    groups = [sorted(model.label for model in group.models) for group in plan.groups]
    assert sorted(groups) == [["contract-monthly"], ["null", "null-wide"], ["null-four"]]
    assert any("null-four" in line and "differ in frames" in line for line in sharing_report(plan.groups))
    assert plan.groups[0].bands == ("B1", "B2")


def test_plan_when_two_models_count_frames_alike_but_space_them_otherwise_then_no_shared_fetch() -> None:
    plan = run_plan("null-four", "contract-monthly")
    window = Window(dt.date(2022, 1, 1), dt.date(2022, 4, 15))
    bins = {group.models[0].label: group.bins(window) for group in plan.groups}
    assert len(bins["null-four"]) == len(bins["contract-monthly"]) == 4
    assert bins["null-four"] != bins["contract-monthly"]


# Row 31: frame i is bin i


def test_frames_when_fetched_then_bin_i_is_frame_i_and_empty_ones_are_marked() -> None:
    found = inspect_model_input(
        "contract-monthly", spatial=PLACE, temporal=days(150), backend=Months(1, 3), return_arrays=True
    )
    assert [float(frame.max()) for frame in found["array_tchw"]] == [1, 0, 3, 0, 5]
    assert found["n_frames"] == 5
    assert found["n_empty"] == 2
    starts = [frame["start"] for frame in found["report"]["frames"]]
    assert starts == [(dt.date(2022, 1, 1) + dt.timedelta(days=30 * i)).isoformat() for i in range(5)]


def test_frames_when_all_are_empty_then_no_images_found_with_the_collection() -> None:
    provider = Months(*range(12))
    with pytest.raises(ProviderError, match=r"No images found for spatials\[0\].*TEST/NULL"):
        single("contract-monthly", temporal=days(150), backend=provider)
    found = batch("contract-monthly", temporal=days(150), backend=provider, on_error="nan")
    assert {each.meta["status"] for each in found} == {"no_data"}
    assert all(np.isnan(each.data).all() for each in found)


def test_frames_when_a_bin_is_empty_in_an_array_in_hand_then_it_is_left_out_too() -> None:
    pixels = np.stack([np.full((1, 8, 8), value, np.float32) for value in (100, 200, 300, 400)])
    pixels[2] = np.nan
    with pytest.warns(UserWarning, match=r"no imagery in 1 of 4 time bins \(numbers 2\)"):
        found = single("null-four", input_chw=pixels)
    assert found.meta["empty_bins"] == [2]
    three = single("null", input_chw=pixels[[0, 1, 3]])
    np.testing.assert_allclose(found.data, three.data, rtol=1e-6)


# Row 32: how many frames a window has


@pytest.mark.parametrize(
    ("length", "frames", "spacing"),
    [(1, 1, "equal"), (30, 1, "equal"), (31, 2, "fixed"), (92, 4, "fixed"), (365, 12, "fixed"), (389, 12, "fixed"),
     (390, 12, "stretched"), (3652, 12, "stretched")],
)  # fmt: skip
def test_auto_when_the_window_grows_then_one_frame_months_and_at_last_stretched_with_a_warning(
    length: int, frames: int, spacing: str
) -> None:
    provider = CountingProvider()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = single("contract-monthly", temporal=days(length), backend=provider)
    assert len(provider.asked[0].bins) == found.meta["n_bins"] == found.meta["n_frames"] == frames
    assert found.meta["temporal_sampling"] == {"mode": "auto", "spacing": spacing}
    told = [str(each.message) for each in caught]
    assert len(told) == (spacing == "stretched")
    if told:
        assert "longer than 12 frames of 30 days, so the frames of contract-monthly are 12 equal parts" in told[0]
    bins = provider.asked[0].bins
    assert bins[0].start == dt.date(2022, 1, 1)
    assert all(a.end == b.start for a, b in zip(bins, bins[1:], strict=False))
    # The reference silently dropped the tail of long windows (its issue 90): at most a rest shorter than a bin here.
    assert (days(length).window.end - bins[-1].end).days < 30


@pytest.mark.parametrize(("modality", "frames"), [("single", 1), ("three", 3), ("auto", 12)])
def test_frames_when_the_profile_is_chosen_then_it_overrides_the_window(modality: str, frames: int) -> None:
    assert single("contract-monthly", modality=modality).meta["n_bins"] == frames


def policy(name: str, **options: Any) -> Any:
    cls = REGISTRY.get(name)
    return cls(make_config(cls.card, options=options)).contract.frames


@pytest.mark.parametrize("name", ["galileo", "olmoearth", "prithvi"])
def test_temporal_mode_when_set_then_single_gives_one_frame_and_multi_several(name: str) -> None:
    year = YEAR.window
    assert len(frame_bins(year, policy(name, temporal_mode="single"))) == 1
    assert len(frame_bins(year, policy(name, temporal_mode="auto"))) > 1
    assert len(frame_bins(year, policy(name, temporal_mode="multi"))) > 1


@pytest.mark.parametrize("name", ["galileo", "agrifm", "anysat", "prithvi"])
def test_n_frames_when_set_then_at_most_that_many(name: str) -> None:
    assert len(frame_bins(YEAR.window, policy(name, n_frames=3))) == 3


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("galileo", {"temporal_mode": "often"}), ("olmoearth", {"temporal_mode": 2}), ("galileo", {"n_frames": 0}),
        ("anysat", {"n_frames": "few"}), ("prithvi", {"max_frames": 2.5}), ("agrifm", {"n_frames": True}),
    ],
)  # fmt: skip
def test_temporal_options_when_wrong_then_model_error(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"{name}: option"):
        Model(name, **wrong)


def test_frames_when_the_window_is_shorter_than_their_number_then_an_error_and_no_fetch() -> None:
    provider = CountingProvider()
    with pytest.raises(RSEmbedError, match="2 days cannot be cut into 4 frames"):
        single("null-four", temporal=days(2), backend=provider)
    assert provider.asked == []


# Row 33: how many frames were really there. Nothing is filled from a neighbour by the fetch, so nothing is hidden:
# a model that fills (its card says so) does it in its own preprocessing.


def test_meta_when_bins_are_empty_then_counts_dates_and_a_warning_say_so() -> None:
    with pytest.warns(UserWarning, match=r"1 of 1 places have no imagery in 2 of 5 time bins \(numbers 1, 3\)"):
        found = single("contract-monthly", temporal=days(150), backend=Months(1, 3))
    assert (found.meta["n_bins"], found.meta["n_frames"], found.meta["empty_bins"]) == (5, 3, [1, 3])
    assert [day is None for day in found.meta["frame_dates"]] == [False, True, False, True, False]


def test_batch_when_places_differ_in_empty_bins_then_one_warning_for_each_kind() -> None:
    class Patchy(Months):
        def fetch(self, request: FetchRequest) -> Patch:
            self.without = {0} if request.grid.x_min < 418_000 else set()
            return super().fetch(request)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = batch("contract-monthly", temporal=days(150), backend=Patchy(), fetch_workers=1)
    n = sum(each.meta["empty_bins"] == [0] for each in found)
    assert 0 < n < 5
    assert [str(each.message).split(" have")[0] for each in caught] == [f"{n} of 5 places"]


# Row 34: a failure is a failure, not an empty bin


def test_fetch_when_the_service_fails_then_an_error_and_no_empty_frame(tmp_path: Path) -> None:
    def fault(_: FetchRequest) -> None:
        raise TransientProviderError("the count did not arrive")

    provider = NullProvider(fault=fault)
    with pytest.raises(ProviderError, match="the count did not arrive"):
        single("contract-monthly", backend=provider)
    found = batch("contract-monthly", backend=provider, on_error="nan")
    assert {each.meta["status"] for each in found} == {"failed"}
    assert {each.meta["error"]["error_class"] for each in found} == {"transient"}


# Row 35: arrays in hand


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float32, np.float64])
def test_array_when_it_has_one_frame_then_every_model_takes_it(dtype: Any) -> None:
    pixels = np.arange(64).reshape(1, 8, 8).astype(dtype)
    for model in ("null", "null-four", "contract-monthly"):
        found = single(model, input_chw=pixels)
        assert found.meta["n_bins"] == 1
        again = single(model, input_chw=pixels[None])
        assert found.data.tobytes() == again.data.tobytes()


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8), (1, 1, 1, 8, 8), (1, 0, 8), (3, 2, 8, 8), (0, 1, 8, 8), (), (1,)])
def test_array_when_its_shape_does_not_fit_then_model_error_with_the_bands(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ModelError, match=r"takes arrays of shape \(C, H, W\) or \(T, C, H, W\) with C = 1 bands \(B1\)"
    ):
        single(input_chw=np.zeros(shape))


@pytest.mark.parametrize(
    "array", [np.full((1, 8, 8), "a"), np.zeros((1, 8, 8), complex), [[["a"]]], "pixels", object()]
)
def test_array_when_it_holds_no_numbers_then_model_error(array: Any) -> None:
    with pytest.raises(ModelError, match="array of real numbers"):
        single(input_chw=array)


def test_array_when_rows_are_of_unequal_length_then_model_error() -> None:
    with pytest.raises(ModelError, match="array"):
        single(input_chw=[[[1.0, 2.0], [3.0]]])


def test_array_when_pixels_are_nan_or_infinite_then_they_are_missing_and_all_missing_is_an_error() -> None:
    pixels = np.ones((1, 8, 8), np.float32)
    pixels[0, 0, 0], pixels[0, 0, 1] = np.nan, np.inf
    found = single(input_chw=pixels)
    assert np.isfinite(found.data).all()
    assert found.meta["valid_fraction"] == 62 / 64
    with pytest.raises(ModelError, match="no finite pixel"):
        single(input_chw=np.full((1, 8, 8), np.nan))


def test_array_when_it_is_masked_then_the_mask_counts() -> None:
    pixels = np.ma.masked_equal(np.arange(64, dtype=np.int16).reshape(1, 8, 8), 5)
    assert single(input_chw=pixels).meta["valid_fraction"] == 63 / 64


@pytest.mark.parametrize("arrays", [5, "pixels", iter([np.zeros((1, 8, 8))])])
def test_arrays_when_they_are_no_list_then_model_error(arrays: Any) -> None:
    with pytest.raises(ModelError, match="arrays must be a list with one for each place"):
        batch(input_chws=arrays)


def test_array_when_it_looks_like_reflectance_then_a_warning_at_the_callers_line() -> None:
    with pytest.warns(UserWarning, match="takes raw digital numbers") as caught:
        rsembed.get_embedding(
            "mosaiks", spatial=PLACE, temporal=YEAR, device="cpu", input_chw=np.full((3, 32, 32), 0.2)
        )
    assert caught[0].filename == __file__
