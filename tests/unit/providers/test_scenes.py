"""The index of scenes, and which of them a request uses."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.collections import collection_info
from rsembed.providers.scenes import Asset, Scene, SceneIndex, grid_bounds
from rsembed.providers.selection import cloud_steps, select_scenes, within_clouds, without_duplicates

S2 = collection_info("COPERNICUS/S2_SR_HARMONIZED")
S1 = collection_info("COPERNICUS/S1_GRD")
YEAR = Window(dt.date(2020, 1, 1), dt.date(2021, 1, 1))
GRID = Grid(32631, 500_000.0, 5_000_000.0, 10.0, 64, 64)
C1, L2A = S2.stac_ids


def scene(name: str, when: str = "2020-06-01T10:50:00", **more: object) -> Scene:
    base = Scene(name, C1, dt.datetime.fromisoformat(when).replace(tzinfo=dt.UTC), (2, 44, 4, 46), {"B4": Asset(name)})
    return replace(base, **more)  # type: ignore[arg-type]  # a builder


def request(bands: tuple[str, ...] = ("B4",), **recipe: object) -> FetchRequest:
    return FetchRequest(FetchRecipe(S2.name, 10.0, **recipe), bands, GRID, (YEAR,))  # type: ignore[arg-type]


def ids(scenes: object) -> list[str]:
    return [s.id for s in scenes]  # type: ignore[attr-defined]


def test_search_when_window_is_half_open_then_last_day_is_out() -> None:
    index = SceneIndex([scene("a", "2020-01-01T00:00:00"), scene("b", "2020-12-31T23:59:59"), scene("c", "2021-01-01")])
    assert ids(index.search(grid_bounds(GRID), YEAR)) == ["a", "b"]


def test_search_when_place_is_elsewhere_then_nothing() -> None:
    assert SceneIndex([scene("a")]).search((5.0, 44.0, 5.1, 44.1), YEAR) == []


def test_search_when_scene_has_no_date_then_any_window() -> None:
    assert ids(SceneIndex([scene("a", time=None)]).search(grid_bounds(GRID), YEAR)) == ["a"]


def test_search_when_antimeridian_is_crossed_by_either_then_found() -> None:
    crossing = scene("cross", bbox=(179.0, -18.0, -179.0, -16.0))
    east, west = scene("east", bbox=(178.0, -18.0, 179.99, -16.0)), scene("west", bbox=(-179.99, -18.0, -178.0, -16.0))
    index = SceneIndex([crossing, east, west])
    assert ids(index.search((179.9, -17.1, 180.1, -17.0), YEAR)) == ["cross", "east", "west"]
    assert ids(index.search((-179.95, -17.1, -179.94, -17.0), YEAR)) == ["cross", "west"]


def test_grid_bounds_when_grid_crosses_the_antimeridian_then_east_exceeds_180() -> None:
    west, _, east, _ = grid_bounds(Grid(32701, 175_000.0, 8_000_000.0, 10.0, 64, 2000))
    assert 179 < west < 180 < east < 181


def test_datatake_when_overpass_is_late_in_utc_then_solar_day() -> None:
    new_zealand = scene("a", "2020-10-02T22:16:11", bbox=(170, -40, 171, -39))
    assert new_zealand.datatake[0] == "2020-10-03"


def test_without_duplicates_when_both_collections_have_it_then_preferred_one() -> None:
    old = scene("a", tile="33TWM", collection=L2A, baseline=5.1)
    new = scene("b", "2020-06-01T10:53:00", tile="33TWM", baseline=5.0)
    assert ids(without_duplicates([old, new], S2.stac_ids)) == ["b"]


def test_without_duplicates_when_reprocessed_then_newest_baseline() -> None:
    both = [scene("a", tile="33TWM", baseline=2.12), scene("b", tile="33TWM", baseline=5.0)]
    assert ids(without_duplicates(both, S2.stac_ids)) == ["b"]


def test_without_duplicates_when_tile_is_in_two_parts_or_another_day_then_all_stay() -> None:
    parts = [scene("a0", tile="33TWM", baseline=5), scene("a1", tile="33TWM", baseline=5)]
    later = scene("b", "2020-06-06T10:50:00", tile="33TWM", baseline=4)
    assert ids(without_duplicates([*parts, later], S2.stac_ids)) == ["a0", "a1", "b"]


def test_select_scenes_when_some_lack_a_band_then_left_out_and_noted() -> None:
    whole = scene("b", assets={"B4": Asset("x"), "B8": Asset("y")})
    chosen = select_scenes([scene("a"), whole], request(("RED", "NIR")), S2)
    assert ids(chosen.scenes) == ["b"]
    assert chosen.notes["left_out_for_bands"] == ["a"]


def test_select_scenes_when_all_lack_a_band_then_error_names_band_and_collection() -> None:
    with pytest.raises(ProviderError, match=r"COPERNICUS/S2_SR_HARMONIZED .* has B8; they have B4"):
        select_scenes([scene("a")], request(("B4", "B8")), S2)


def test_select_scenes_when_landsats_share_a_collection_then_the_named_one_of_the_named_tier() -> None:
    info = collection_info("LANDSAT/LC08/C02/T1_L2")
    fields = {"collection": "landsat-c2-l2", "assets": {"SR_B4": Asset("x")}}
    found = [scene("eight", platform="landsat-8", tier="T1", **fields), scene("nine", platform="landsat-9", **fields)]
    found += [scene("second", platform="landsat-8", tier="T2", **fields), scene("silent", **fields)]
    assert ids(select_scenes(found, request(("SR_B4",)), info).scenes) == ["eight", "silent"]


def radar(name: str, when: str, orbit_pass: str, **more: object) -> Scene:
    fields = {"orbit_pass": orbit_pass, "instrument_mode": "IW", "assets": {"VV": Asset(name)}, **more}
    return scene(name, when, **fields)


def test_select_scenes_when_most_images_then_one_pass_over_the_whole_window() -> None:
    found = [radar("a", "2020-01-01", "ASCENDING"), radar("d1", "2020-02-01", "DESCENDING")]
    found.append(radar("d2", "2020-03-01", "DESCENDING"))
    chosen = select_scenes(found, request(("VV",), orbit="most_images"), S1)
    assert (ids(chosen.scenes), chosen.notes["orbit"]) == (["d1", "d2"], "DESCENDING")


def test_select_scenes_when_tiles_of_one_overpass_then_counted_once_and_tie_is_ascending() -> None:
    found = [radar("a", "2020-01-01T06:00:00", "ASCENDING")]
    found += [radar(f"d{i}", f"2020-02-01T17:0{i}:00", "DESCENDING") for i in range(2)]
    chosen = select_scenes(found, request(("VV",), orbit="most_images"), S1)
    assert ids(chosen.scenes) == ["a"]


@pytest.mark.parametrize(("relax", "expected"), [(True, ["a"]), (False, [])])
def test_select_scenes_when_no_wide_swath_then_relaxed_only_if_allowed(*, relax: bool, expected: list[str]) -> None:
    found = [radar("a", "2020-01-01", "ASCENDING", instrument_mode="EW")]
    chosen = select_scenes(found, request(("VV",), s1_relax_iw_on_empty=relax), S1)
    assert ids(chosen.scenes) == expected
    assert chosen.notes["iw"] == ("relaxed" if relax else "required")


def test_cloud_steps_when_policy_relaxes_then_two_and_radar_none() -> None:
    assert cloud_steps(CloudPolicy(), S2) == (60, 90)
    assert cloud_steps(CloudPolicy(scene_pct=30, relax_pct=None), S2) == (30,)
    assert cloud_steps(CloudPolicy(), S1) == (None,)


def test_within_clouds_when_limit_is_met_exactly_then_kept() -> None:
    scenes = [scene("a", cloud_pct=60.0), scene("b", cloud_pct=60.1), scene("c", cloud_pct=None)]
    assert ids(within_clouds(scenes, 60)) == ["a", "c"]
    assert ids(within_clouds(scenes, 90, above_pct=60)) == ["b"]
