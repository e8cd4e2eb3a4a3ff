"""Rows 22 to 29 of the reference's contract: the call for an embedding and what comes back."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed
from rsembed import (
    BBox,
    Embedding,
    ExportConfig,
    ExportTarget,
    FetchSpec,
    Model,
    ModelError,
    OutputSpec,
    PointBuffer,
    ProviderError,
    SensorSpec,
    TemporalSpec,
    load_export,
)
from rsembed.testing.null import COLLECTION, NullProvider
from tests.builders import CountingProvider, Flaky, at_lon
from tests.contract.reference import models
from tests.contract.reference.calls import PLACE, PLACES, YEAR, batch, settings, single

GRID = OutputSpec.grid()
MODELS = ("null", "contract-pixels", "contract-tokens")


def same(one: Embedding, other: Embedding) -> None:
    """Equal to the last bit, numbers and facts."""
    assert one.data.tobytes() == other.data.tobytes()
    assert one.data.shape == other.data.shape
    assert json.dumps(dict(one.meta), sort_keys=True) == json.dumps(dict(other.meta), sort_keys=True)


# Row 22: what an embedding is


@pytest.mark.parametrize("model", MODELS)
def test_embedding_when_pooled_then_float32_of_one_axis(model: str) -> None:
    found = single(model)
    assert (found.data.dtype, found.data.shape) == (np.float32, tuple(rsembed.describe_model(model)["dims"].values()))
    assert np.isfinite(found.data).all()
    assert json.loads(json.dumps(dict(found.meta), allow_nan=False))["model"] == model


def test_embedding_when_a_map_then_three_axes_with_north_first() -> None:
    class NorthIsBright(NullProvider):
        def fetch(self, request: Any) -> Any:
            patch = super().fetch(request)
            patch.values_tchw[:] = np.arange(request.grid.height, 0, -1, dtype=np.float32)[:, None]
            return patch

    found = single("contract-pixels", output=GRID, backend=NorthIsBright())
    assert found.data.shape == (2, 8, 8)
    assert (np.diff(found.data[0], axis=0) < 0).all()
    grid = found.meta["grid"]
    assert grid["transform"][4] < 0 < grid["transform"][0]
    assert single("contract-pixels", output=OutputSpec.grid("native"), backend=NorthIsBright()).data.shape == (2, 8, 8)
    tokens = single("contract-tokens", output=GRID)
    assert tokens.data.shape == (5, 2, 2)
    assert tokens.data.dtype == np.float32


def test_embedding_when_its_meta_is_changed_then_the_next_one_is_whole() -> None:
    first = single()
    first.meta["sensor"]["bands"].clear()
    first.meta["temporal"]["start"] = "never"
    assert single().meta["sensor"]["bands"] == ["B1"]
    assert single().meta["temporal"]["start"] == "2022-01-01"
    one, other, *_ = batch()
    one.meta["sensor"]["bands"].clear()
    assert other.meta["sensor"]["bands"] == ["B1"]


# Row 23: order


def test_batch_when_places_are_in_any_order_then_answers_are_in_theirs() -> None:
    kinds = [
        PointBuffer(2.0, 42.0),
        *PLACES,
        BBox(2.0, 42.0, 2.0008, 42.0008),
        PLACES[0],
        PointBuffer(-70.0, -33.0, 40),
    ]
    found = batch(spatials=kinds, batch_size=3)
    assert [each.meta["spatial"]["lon" if "lon" in each.meta["spatial"] else "minlon"] for each in found] == [
        getattr(place, "minlon", place.lon) for place in kinds
    ]
    for place, each in zip(kinds, found, strict=True):
        np.testing.assert_allclose(each.data, single(spatial=place).data, rtol=1e-5, atol=1e-6)
    assert found[1].data.tobytes() == found[7].data.tobytes()


# Row 24: functions and classes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recipe": "authors", "context": "none"},
        {"fetch": FetchSpec(scale_m=20, cloudy_pct=10)},
        {"input_prep": "resize"},
        {"output": GRID},
    ],
    ids=str,
)
def test_model_when_asked_then_equal_to_the_function_to_the_last_bit(model: str, changes: dict[str, Any]) -> None:
    if model == "null" and "output" in changes:
        changes = {"modality": "multi"}
    made = Model(model, **settings(**changes), batch_size=2)
    for place in PLACES:
        same(made.get_embedding(place, temporal=YEAR), single(model, place, **changes))
    several = made.get_embeddings_batch(PLACES, temporal=YEAR)
    for one, other in zip(several, batch(model, batch_size=2, **changes), strict=True):
        same(one, other)
    later = Model(model, **settings(), batch_size=2).get_embeddings_batch(PLACES, temporal=YEAR, **changes)
    for one, other in zip(several, later, strict=True):
        same(one, other)


def test_model_when_used_again_and_by_others_then_its_network_is_built_once() -> None:
    rsembed.reset_runtime()
    models.PatchTokens.built.clear()
    made = Model("contract-tokens", **settings())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: made.get_embedding(place, temporal=YEAR).data.tobytes(), PLACES * 3))
    Model("contract-tokens", **settings()).get_embeddings_batch(PLACES, temporal=YEAR)
    single("contract-tokens")
    assert len(models.PatchTokens.built) == 1
    assert found == [single("contract-tokens", place).data.tobytes() for place in PLACES] * 3
    rsembed.reset_runtime()
    single("contract-tokens")
    assert len(models.PatchTokens.built) == 2


def test_functions_when_their_keywords_are_compared_then_they_are_the_same() -> None:
    def names(function: Any) -> set[str]:
        return set(inspect.signature(function).parameters)

    several, one, made = (names(f) for f in (rsembed.get_embeddings_batch, rsembed.get_embedding, Model.__init__))
    assert several - one == {"spatials", "input_chws", "batch_size"}
    assert one - several == {"spatial", "input_chw"}
    assert several - made == {"model", "spatials", "temporal", "input_chws"}
    assert not {"Any"} & {str(p.annotation) for p in inspect.signature(rsembed.get_embedding).parameters.values()}


# Row 25: outputs that a model does not have


def test_output_when_the_model_has_no_map_then_model_error() -> None:
    without = [name for name in rsembed.list_models() if "grid" not in rsembed.describe_model(name)["output"]]
    assert "null" in without
    for name in without:
        with pytest.raises(ModelError, match="gives pooled, not 'grid'"):
            Model(name, output=GRID)
    for way in (lambda: single(output=GRID), lambda: batch(output=GRID)):
        with pytest.raises(ModelError, match="null gives pooled, not 'grid'"):
            way()


def test_output_when_the_network_has_its_own_vector_then_another_pooling_is_refused() -> None:
    own = [name for name in rsembed.list_models() if rsembed.describe_model(name)["pooling"] == "vector"]
    assert own
    for name in own:
        with pytest.raises(ModelError, match="there is nothing to reduce"):
            Model(name, output=OutputSpec.pooled("max"))


# Row 26: facts


def test_meta_when_read_then_every_fact_of_the_contract_is_there() -> None:
    sensor = SensorSpec(COLLECTION, ("B9",), scale_m=20, cloudy_pct=15)
    meta = single(sensor=sensor).meta
    assert (meta["model"], meta["type"], meta["backend"]) == ("null", "onthefly", "null")
    assert meta["source"] == rsembed.describe_model("null")["source"]
    assert (meta["sensor"]["collection"], meta["sensor"]["bands"], meta["sensor"]["scale_m"]) == (
        COLLECTION,
        ["B9"],
        20,
    )
    assert meta["fetch"]["clouds"]["scene_pct"] == 15
    assert meta["temporal"] == {"start": "2022-01-01", "end": "2023-01-01", "default": False}
    assert meta["image_size"] == 8
    assert meta["input_prep"]["requested_mode"] == "tile"
    assert (meta["recipe"], meta["precision"], meta["device"], meta["output"]["mode"]) == (
        "authors", "fp32", "cpu", "pooled",
    )  # fmt: skip
    assert (meta["n_bins"], meta["n_frames"], meta["empty_bins"]) == (1, 1, [])
    assert meta["temporal_sampling"] == {"mode": "single", "spacing": "equal"}
    assert (meta["status"], meta["valid_fraction"], meta["error"]) == ("ok", 1.0, None)
    assert meta["spatial"] == {"lon": 2, "lat": 42, "buffer_m": 40, "crs": "EPSG:4326"}


@pytest.mark.parametrize("mode", ["tile", "resize", "auto"])
def test_meta_when_input_prep_is_named_then_as_asked_by_name_or_spec(mode: Any) -> None:
    by_name, by_spec = single(input_prep=mode), single(input_prep=rsembed.InputPrepSpec(mode))
    assert by_name.meta["input_prep"]["requested_mode"] == mode
    same(by_name, by_spec)


# Row 27: no window


def test_temporal_when_none_then_the_last_complete_year_with_one_warning_at_the_callers_line() -> None:
    last = dt.datetime.now(dt.UTC).year - 1
    ways = (
        lambda: single(temporal=None),
        lambda: batch(temporal=None)[0],
        lambda: Model("null", **settings()).get_embedding(PLACE),
        lambda: Model("null", **settings()).get_embeddings_batch(PLACES)[0],
    )
    for way in ways:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = way()
        assert found.meta["temporal"] == {"start": f"{last}-01-01", "end": f"{last + 1}-01-01", "default": True}
        assert [each.category for each in caught] == [UserWarning]
        assert f"the last complete year is used ({last}-01-01..{last + 1}-01-01)" in str(caught[0].message)
        assert Path(caught[0].filename).parent == Path(__file__).parent


def test_temporal_when_the_request_is_wrong_then_the_error_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelError):
            single(temporal=None, poisson=1)


# Row 28: every path


@pytest.mark.parametrize("model", MODELS)
def test_paths_when_one_place_goes_every_way_then_the_same_embedding(model: str, tmp_path: Path) -> None:
    config = ExportConfig(batch_size=2, shard_size=3, show_progress=False)
    rsembed.export_batch(
        spatials=PLACES, temporal=YEAR, models=[model], target=ExportTarget.dataset(tmp_path / "out"), config=config,
        **settings(),
    )  # fmt: skip
    exported = load_export(tmp_path / "out").embedding(model)
    several = batch(model, batch_size=2)
    for i, place in enumerate(PLACES):
        alone = single(model, place).data
        np.testing.assert_allclose(several[i].data, alone, rtol=0, atol=1e-5 * max(1, float(np.abs(alone).max())))
        np.testing.assert_allclose(exported[i], alone, rtol=0, atol=1e-5 * max(1, float(np.abs(alone).max())))


def test_paths_when_pixels_are_in_hand_then_the_same_embedding() -> None:
    provider = CountingProvider()
    fetched = single("contract-pixels", backend=provider)
    pixels = NullProvider().fetch(provider.asked[0]).values_tchw
    for array in (pixels, pixels[0], pixels[0].astype(np.uint16), pixels[0].astype(np.float64), pixels[0].tolist()):
        found = single("contract-pixels", input_chw=array)
        assert found.data.tobytes() == fetched.data.tobytes()
        assert found.meta["backend"] == "array"


def test_paths_when_a_place_is_asked_for_twice_at_once_then_each_is_answered() -> None:
    barrier = threading.Barrier(2)

    def ask(_: int) -> bytes:
        barrier.wait()
        return single().data.tobytes()

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(ask, range(2)))) == 1


# Row 29: models that know years only


def test_annual_when_a_range_is_given_then_its_year_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match=r"contract-annual has embeddings by the year: 2021 stands for the window 2021-"
    ):
        found = single("contract-annual", temporal=TemporalSpec.range("2021-06-01", "2022-03-01"))
    whole = single("contract-annual", temporal=TemporalSpec.year(2021))
    assert found.data.tobytes() == whole.data.tobytes()
    assert found.meta["frame_dates"] == whole.meta["frame_dates"]


def test_annual_when_the_year_is_given_then_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single("contract-annual", temporal=TemporalSpec.year(2020))


@pytest.mark.parametrize("year", [2019, 2023])
def test_annual_when_the_year_is_not_there_then_an_error_that_names_those_there_are(year: int) -> None:
    provider = CountingProvider()
    with pytest.raises(rsembed.SpecError, match="there are embeddings for 2020 to 2022 only"):
        single("contract-annual", temporal=TemporalSpec.year(year), backend=provider)
    assert provider.asked == []


@pytest.mark.parametrize("model", ["gse", "tessera"])
def test_annual_when_a_published_product_is_described_then_its_years_are_named(model: str) -> None:
    for contract in rsembed.describe_model(model)["inputs"].values():
        assert contract["frames"]["mode"] == "annual"
        assert len(contract["frames"]["years"]) >= 1


# Errors of single places, which the reference lost or hid


def test_batch_when_one_place_fails_then_the_error_names_it_and_the_others_were_tried() -> None:
    provider = CountingProvider(fault=Flaky(lambda: ProviderError("no such tile"), hits=at_lon(2.03)))
    with pytest.raises(ProviderError, match=r"spatials\[2\].*PointBuffer\(lon=2.03.*no such tile"):
        batch(backend=provider)
    assert len(provider.asked) == 5
    marked = batch(backend=provider, on_error="nan")
    assert [each.meta["status"] for each in marked] == ["ok", "ok", "failed", "ok", "ok"]
    assert np.isnan(marked[2].data).all()
    assert marked[2].meta["error"]["error_class"] == "provider"
