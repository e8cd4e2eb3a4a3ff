"""The public functions, with the null provider given as an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed
from rsembed import api
from rsembed.core.embedding import Embedding
from rsembed.core.errors import CollectionGapError, ExportError, ModelError, ProviderError, RowError, SpecError
from rsembed.core.fetching import FetchRequest
from rsembed.core.serialization import to_json
from rsembed.core.specs import BBox, FetchSpec, OutputSpec, PointBuffer, SensorSpec, TemporalSpec
from rsembed.embedders.options import make_config
from rsembed.embedders.registry import REGISTRY
from rsembed.model import Model
from rsembed.pipelines.request import ExportConfig, ExportTarget
from rsembed.testing.null import COLLECTION, NullEmbedder, NullProvider
from tests.builders import TEMPORAL, CountingProvider, Flaky, at_lon, by_id

PLACES = [PointBuffer(2.0 + 0.01 * i, 42.0, 40.0) for i in (4, 0, 3, 1, 2)]


def batch(spatials: Any = None, model: str = "null", **options: Any) -> list[Embedding]:
    given = {"temporal": TEMPORAL, "backend": NullProvider(), "device": "cpu"} | options
    return api.get_embeddings_batch(model, spatials=PLACES if spatials is None else spatials, **given)


def single(spatial: Any = PLACES[0], model: str = "null", **options: Any) -> Embedding:
    given = {"temporal": TEMPORAL, "backend": NullProvider(), "device": "cpu"} | options
    return api.get_embedding(model, spatial=spatial, **given)


def test_batch_when_places_are_in_any_order_then_answers_are_in_theirs_and_equal_single_ones() -> None:
    found = batch(batch_size=2)
    assert [each.meta["spatial"]["lon"] for each in found] == [place.lon for place in PLACES]
    for place, each in zip(PLACES, found, strict=True):
        alone = single(place).data
        assert each.data.shape == (16,)
        np.testing.assert_allclose(each.data, alone, atol=1e-5 * max(1.0, float(np.abs(alone).max())))
        assert each.meta["status"] == "ok"
    assert len({each.data.tobytes() for each in found}) == 5


def test_batch_when_buffers_and_boxes_are_mixed_then_order_is_kept() -> None:
    spatials = [
        PointBuffer(2.0, 42.0),
        BBox(2.01, 42.0, 2.014, 42.003),
        PointBuffer(2.0, 42.0, 20.0),
        PointBuffer(2.05, 42.0),
    ]
    provider = CountingProvider()
    found = batch(spatials, model="null-tiles", backend=provider)
    assert [each.meta["spatial"] for each in found] == [to_json(spatial) for spatial in spatials]
    for spatial, each in zip(spatials, found, strict=True):
        np.testing.assert_allclose(each.data, single(spatial, model="null-tiles").data, rtol=1e-5)


def test_batch_when_places_repeat_then_each_is_answered() -> None:
    found = batch([PLACES[0]] * 3, batch_size=1)
    assert len({each.data.tobytes() for each in found}) == 1
    assert len(found) == 3


def test_arrays_when_they_are_the_providers_patches_then_the_same_embedding() -> None:
    provider = CountingProvider()
    fetched = single(backend=provider)
    values = NullProvider().fetch(provider.asked[0]).values_tchw
    for array in (values, values[0]):
        in_hand = single(input_chw=array)
        assert in_hand.data.tobytes() == fetched.data.tobytes()
        assert in_hand.meta["backend"] == "array"
    assert fetched.meta["backend"] == "null"


def test_arrays_when_several_then_one_for_each_place() -> None:
    arrays = [np.full((1, 8, 8), i * 100.0) for i in range(5)]
    found = batch(input_chws=arrays, batch_size=2)
    assert np.array_equal(found[0].data, np.zeros(16))
    np.testing.assert_allclose(found[4].data, 4 * found[1].data, rtol=1e-5)
    with pytest.raises(ModelError, match="2 arrays were given for 5 spatials"):
        batch(input_chws=arrays[:2])


def test_batch_when_a_place_fails_then_nan_with_the_reason_or_an_error_that_names_it() -> None:
    def provider() -> NullProvider:
        return NullProvider(fault=Flaky(lambda: ProviderError("no such tile"), hits=at_lon(2.03)), empty=at_lon(2.01))

    found = batch(backend=provider(), on_error="nan")
    assert [each.meta["status"] for each in found] == ["ok", "ok", "failed", "no_data", "ok"]
    assert [bool(np.isnan(each.data).all()) for each in found] == [False, False, True, True, False]
    assert found[2].data.shape == (16,)
    assert found[2].meta["error"]["error_class"] == "provider"
    with pytest.raises(ProviderError, match=r"spatials\[2\].*no such tile"):
        batch(backend=provider())


def test_batch_when_there_is_no_imagery_then_no_images_found() -> None:
    with pytest.raises(ProviderError, match=r"No images found for spatials\[0\].*TEST/NULL"):
        batch(backend=NullProvider(empty=lambda _: True))


def test_batch_when_the_catalogue_has_a_hole_then_it_says_so() -> None:
    def fault(_: FetchRequest) -> None:
        raise CollectionGapError("January is missing")

    with pytest.raises(ProviderError, match="January is missing"):
        batch(backend=NullProvider(fault=fault))
    assert batch(backend=NullProvider(fault=fault), on_error="nan")[0].meta["status"] == "collection_gap"


def test_batch_when_on_error_is_another_word_then_refused() -> None:
    with pytest.raises(ModelError, match="on_error must be 'raise' or 'nan'"):
        batch(on_error="ignore")


def test_batch_when_no_window_is_given_then_the_last_complete_year_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="the last complete year is used"):
        found = batch(temporal=None)
    assert found[0].meta["temporal"]["default"] is True


def test_batch_when_sensor_and_fetch_are_both_given_then_refused() -> None:
    with pytest.raises(ModelError, match="sensor or fetch, not both"):
        batch(sensor=SensorSpec(COLLECTION, ("B1",)), fetch=FetchSpec(scale_m=20))


@pytest.mark.parametrize("spatials", [[], "place", PLACES[0], None, {"lon": 1}])
def test_batch_when_places_are_no_list_then_refused(spatials: Any) -> None:
    with pytest.raises(ModelError, match="spatials must be a non-empty list"):
        api.get_embeddings_batch("null", spatials=spatials)


@pytest.mark.parametrize("spatial", [(2.0, 42.0), TEMPORAL, None])
def test_batch_when_an_item_is_no_place_then_refused(spatial: Any) -> None:
    with pytest.raises(ModelError, match="must be a PointBuffer or a BBox"):
        batch([PLACES[0], spatial])


def test_batch_when_an_option_is_unknown_then_the_accepted_ones_are_named() -> None:
    with pytest.raises(ModelError, match=r"no option 'poisson'.*accepted: poison"):
        batch(poisson=3)


@pytest.mark.parametrize("place", [PointBuffer(2.0, 85.0), BBox(0, 0, 10, 10)])
def test_batch_when_a_place_cannot_be_served_then_refused_before_any_call(place: Any) -> None:
    provider = CountingProvider()
    with pytest.raises((RowError, ModelError)):
        batch([place], backend=provider)
    assert provider.asked == []


def test_batch_when_a_fetch_setting_is_given_then_it_replaces_the_cards() -> None:
    provider = CountingProvider()
    batch([PLACES[0]], backend=provider, fetch=FetchSpec(scale_m=20.0, cloudy_pct=12))
    assert provider.asked[0].recipe.scale_m == 20
    assert provider.asked[0].recipe.clouds.scene_pct == 12
    assert provider.asked[0].recipe.clouds.relax_pct is None


def test_batch_when_a_sensor_has_another_number_of_bands_then_refused() -> None:
    with pytest.raises(ModelError, match=r"takes 1 bands .B1., the sensor names 2"):
        batch(sensor=SensorSpec(COLLECTION, ("B1", "B2")))


def test_model_when_asked_then_it_equals_the_functions() -> None:
    model = Model("null", backend=NullProvider(), device="cpu", batch_size=2)
    for a, b in zip(model.get_embeddings_batch(PLACES, temporal=TEMPORAL), batch(batch_size=2), strict=True):
        assert a.data.tobytes() == b.data.tobytes()
        assert dict(a.meta) == dict(b.meta)
    assert model.describe() == rsembed.describe_model("null")
    assert repr(Model(" NULL ", device="cpu")) == "Model('null', device='cpu')"


def test_model_when_an_option_is_misspelt_then_it_does_not_wait_for_the_first_call() -> None:
    with pytest.raises(ModelError, match="poisson"):
        Model("null", poisson=3)


@pytest.mark.parametrize("keywords", [{}, {"batch_size": 4}])
def test_model_when_asked_for_one_place_then_it_equals_the_function(keywords: dict[str, Any]) -> None:
    model = Model("null", backend=NullProvider(), device="cpu", **keywords)
    assert model.get_embedding(PLACES[0], temporal=TEMPORAL).data.tobytes() == single().data.tobytes()


def export(out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        "spatials": PLACES, "temporal": TEMPORAL, "models": ["null"], "target": ExportTarget.dataset(out),
        "backend": NullProvider(), "device": "cpu", "config": ExportConfig(batch_size=1, buffer_m=40.0),
    }  # fmt: skip
    return rsembed.export_batch(**(given | options))


def test_export_batch_when_run_then_rows_equal_single_embeddings(tmp_path: Path) -> None:
    summary = export(tmp_path / "out")
    rows = by_id(tmp_path / "out")
    assert summary.n_rows == 5
    for i, place in enumerate(PLACES):
        assert rows[str(i)]["embedding"] == single(place).data.tolist()


def test_export_batch_when_windows_are_several_then_rows_for_each(tmp_path: Path) -> None:
    assert export(tmp_path / "out", temporal=[TemporalSpec.year(2021), TemporalSpec.year(2022)]).n_rows == 10


@pytest.mark.parametrize("models", [[], "null", ()])
def test_export_batch_when_models_are_no_list_then_refused(tmp_path: Path, models: Any) -> None:
    with pytest.raises(ModelError, match="models must be a non-empty list"):
        export(tmp_path / "out", models=models)


def test_export_batch_when_the_model_has_no_maps_then_it_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="null gives pooled, not 'grid'"):
        export(tmp_path / "out", output=OutputSpec.grid())


@pytest.mark.parametrize("temporal", [2022, "2022"])
def test_batch_when_temporal_is_no_spec_then_refused_saying_what_is(temporal: object) -> None:
    with pytest.raises(SpecError, match=r"TemporalSpec\.year\(2022\)"):
        batch(temporal=temporal)


def test_export_when_the_folder_cannot_be_made_then_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    target = ExportTarget.dataset(tmp_path / "file" / "below" / "out")
    with pytest.raises(ExportError, match="cannot write to"):
        rsembed.export_batch(
            spatials=[(2.0, 42.0)], temporal=TEMPORAL, models=["null"], target=target, backend=NullProvider()
        )


def test_sensor_when_its_filter_is_the_recipes_then_the_recipe_is_as_without_a_sensor() -> None:
    card = REGISTRY.get("null").card
    sensor = SensorSpec(COLLECTION, ("B1",), cloudy_pct="recipe")
    with_sensor, without = (NullEmbedder(make_config(card, sensor=each)) for each in (sensor, None))
    assert with_sensor.fetch_recipe() == without.fetch_recipe()
