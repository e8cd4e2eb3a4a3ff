"""The stac provider over an API and files served here: searches shared, holes filled, tokens, borders without seams."""

from __future__ import annotations

import datetime as dt
import json
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TransientProviderError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.catalogs import degree_cells, quarters
from rsembed.providers.collections import grid_rule
from rsembed.providers.signing import PlanetaryComputerSigner
from rsembed.providers.stac import StacProvider
from rsembed.providers.transport import RangeClient, RequestCounter
from rsembed.testing.file_server import Asked, Fault, FileServer, serving
from rsembed.testing.stac_server import StacServer
from rsembed.tools.spatial import snapped_grids, to_lonlat
from tests.stac_parts import Numbers, noise, write_catalog, write_scene, write_tiff

S2 = "COPERNICUS/S2_SR_HARMONIZED"
RECIPE = FetchRecipe(S2, 10.0, clouds=CloudPolicy("none", None, None))
GRID = Grid(32631, 481_300.0, 4_698_700.0, 10.0, 64, 64)


def window(start: str, end: str) -> Window:
    return Window(dt.date.fromisoformat(start), dt.date.fromisoformat(end))


YEAR = window("2022-01-01", "2023-01-01")
JUNE = window("2022-06-01", "2022-07-01")


def ask(*bands: str, grid: Grid = GRID, days: Window = JUNE, recipe: FetchRecipe = RECIPE) -> FetchRequest:
    return FetchRequest(recipe, bands or ("B4",), grid, (days,))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    servers: list[StacServer] = []

    def start(*items: dict[str, Any], **options: Any) -> StacServer:
        servers.append(StacServer(tmp_path, items, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# Searches


def test_fetch_when_rows_share_a_cell_and_a_quarter_then_one_search(tmp_path: Path, serve: Any) -> None:
    server = serve(write_scene(tmp_path, "one", {"B4": noise()}))
    provider = StacProvider(server.url)
    requests = [
        ask(grid=replace(GRID, x_min=GRID.x_min + 20 * i), days=days) for i in range(4) for days in (JUNE, YEAR)
    ]
    with ThreadPoolExecutor(4) as pool:
        patches = list(pool.map(provider.fetch, requests))
    assert all(patch.n_images == 1 for patch in patches)
    assert len(server.searches) == 4  # a quarter each; June is in one of them
    assert sum(int(str(patch.provenance["requests"])) for patch in patches) == len(server.asked) + 5  # and the landing
    assert sum(int(str(patch.provenance["bytes"])) for patch in patches) > server.sent


def test_fetch_when_another_process_has_searched_then_the_answer_is_on_disk(tmp_path: Path, serve: Any) -> None:
    server = serve(write_scene(tmp_path, "one", {"B4": noise()}))
    first = StacProvider(server.url, cache_dir=tmp_path / "cache").fetch(ask())
    second = StacProvider(server.url, cache_dir=tmp_path / "cache").fetch(ask())
    assert len(server.searches) == 1
    np.testing.assert_array_equal(first.values_tchw, second.values_tchw)
    assert first.frames == second.frames


def test_fetch_when_an_answer_has_pages_then_all_are_taken(tmp_path: Path, serve: Any) -> None:
    items = [write_scene(tmp_path, f"s{i}", {"B4": noise()}, when=f"2022-06-0{i}T10:50:00Z") for i in range(1, 6)]
    server = serve(*items, page=2)
    patch = StacProvider(server.url).fetch(ask())
    assert patch.n_images == 5
    assert len(server.searches) == 3


def test_quarters_when_a_window_meets_several_then_each_whole_and_in_order() -> None:
    assert quarters(window("2022-03-31", "2022-04-02")) == [
        window("2022-01-01", "2022-04-01"), window("2022-04-01", "2022-07-01"),
    ]  # fmt: skip
    assert quarters(window("2022-10-01", "2023-01-01")) == [window("2022-10-01", "2023-01-01")]


def test_cells_when_bounds_cross_the_antimeridian_then_both_sides() -> None:
    assert degree_cells((179.9, -17.1, 180.1, -16.9)) == [
        (179.0, -18.0),
        (179.0, -17.0),
        (-180.0, -18.0),
        (-180.0, -17.0),
    ]


# Two collections of one sensor


def test_fetch_when_collection_1_has_a_hole_then_the_other_fills_it_and_nothing_counts_twice(
    tmp_path: Path, serve: Any
) -> None:
    tile = {"grid:code": "MGRS-31TDG"}

    def scene(name: str, day: int, seed: int, collection: str, baseline: str) -> dict[str, Any]:
        numbers, properties = noise(seed=seed), {**tile, "s2:processing_baseline": baseline}
        when = f"2022-06-{day:02d}T10:50:00Z"
        return write_scene(tmp_path, name, {"B4": numbers}, when=when, collection=collection, properties=properties)

    server = serve(
        scene("c1-03", 3, 1, "sentinel-2-c1-l2a", "05.00"), scene("l2a-03", 3, 2, "sentinel-2-l2a", "05.10"),
        scene("l2a-08-old", 8, 3, "sentinel-2-l2a", "03.01"), scene("l2a-08-new", 8, 4, "sentinel-2-l2a", "05.09"),
    )  # fmt: skip
    patch = StacProvider(server.url).fetch(ask())
    assert patch.frames[0].scene_ids == ("c1-03", "l2a-08-new")
    mean = (noise(seed=1).astype(float) + noise(seed=4))[130:194, 130:194] / 2
    np.testing.assert_array_equal(patch.values_tchw[0, 0], mean.astype(np.float32))
    assert patch.provenance["catalog_collections"] == ["sentinel-2-c1-l2a", "sentinel-2-l2a"]


@pytest.mark.parametrize(("low", "taken_off"), [(1100, 1000), (100, 0)])
def test_fetch_when_an_offset_is_declared_over_http_then_the_pixels_decide_and_it_is_recorded(
    tmp_path: Path, serve: Any, low: int, taken_off: int
) -> None:
    numbers = noise(low=low, high=low + 2000)
    provider = StacProvider(serve(write_scene(tmp_path, "one", {"B4": numbers, "B8": numbers}, offset=-0.1)).url)
    for bands in (("B8",), ("B8", "B4")):
        patch = provider.fetch(ask(*bands))
        expected = numbers[130:194, 130:194].astype(np.float32) - taken_off
        np.testing.assert_array_equal(patch.values_tchw[0, 0], expected)
        (note,) = patch.provenance["units"]  # type: ignore[misc]  # a mapping
        assert ("as the pixels show" in note) == (taken_off == 0)


# The Planetary Computer


class Clock:
    now = dt.datetime(2023, 1, 1, tzinfo=dt.UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[FileServer]:
    """A token service: files named as its addresses."""
    server = FileServer(tmp_path / "tokens")
    yield server
    server.close()


def hand_out(server: FileServer, token: str, until: str, account: str = "store", container: str = "s2") -> None:
    path = server.folder / account / container
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"msft:expiry": until, "token": token}))


def test_sign_when_threads_want_one_container_then_one_token_until_it_nears_its_end(tokens: FileServer) -> None:
    clock = Clock()
    hand_out(tokens, "sig=1", "2023-01-01T01:00:00Z")
    sign = PlanetaryComputerSigner(tokens.url, hosts=".blob.local", now=clock)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(sign, [f"https://store.blob.local/s2/{i % 2}.tif" for i in range(16)]))
    assert found == {"https://store.blob.local/s2/0.tif?sig=1", "https://store.blob.local/s2/1.tif?sig=1"}
    assert len(tokens.asked) == 1
    hand_out(tokens, "sig=2", "2023-01-01T02:00:00Z")
    clock.now += 54 * 60
    assert sign("https://store.blob.local/s2/a.tif").endswith("?sig=1")
    clock.now += 2 * 60
    assert sign("https://store.blob.local/s2/a.tif").endswith("?sig=2")
    assert sign("https://elsewhere.org/s2/a.tif") == "https://elsewhere.org/s2/a.tif"


def test_sign_when_the_token_service_slows_down_then_quota_but_a_good_token_is_used_up(tokens: FileServer) -> None:
    clock = Clock()
    hand_out(tokens, "sig=1", "2023-01-01T01:00:00Z")
    sign = PlanetaryComputerSigner(tokens.url, hosts=".blob.local", now=clock)
    sign("https://store.blob.local/s2/a.tif")
    tokens.fault = lambda _: 429
    clock.now += 57 * 60
    assert sign("https://store.blob.local/s2/a.tif").endswith("?sig=1")
    clock.now += 3 * 60
    with pytest.raises(QuotaError, match="slow down"):
        sign("https://store.blob.local/s2/a.tif")
    tokens.fault = lambda _: 404
    with pytest.raises(ProviderError, match="no token for the container"):
        sign("https://store.blob.local/s2/a.tif")
    tokens.fault = lambda _: 401
    with pytest.raises(AuthError, match="store/s2 is not open to everybody"):
        sign("https://store.blob.local/s2/a.tif")


class LocalSigner:
    """Signs links of any host with a number that grows when it is told to forget."""

    def __init__(self) -> None:
        self.number = 1
        self._lock = threading.Lock()

    def __call__(self, href: str) -> str:
        return f"{href}?sig={self.number}"

    def forget(self, href: str) -> None:
        with self._lock:
            self.number = 2


def test_fetch_when_a_token_ends_early_then_a_new_one_and_headers_are_not_read_again(
    tmp_path: Path, serve: Any
) -> None:
    server = serve(write_scene(tmp_path, "one", {"B4": noise()}))

    def valid_until_first_tile(asked: Asked) -> Fault:
        return 403 if asked.query == "sig=1" and asked.start else None

    server.fault = valid_until_first_tile
    provider = StacProvider(server.url, sign=LocalSigner())
    patch = provider.fetch(ask())
    np.testing.assert_array_equal(patch.values_tchw[0, 0], noise()[130:194, 130:194])
    headers = [asked for asked in server.asked if asked.path.endswith(".tif") and not asked.start]
    assert [asked.query for asked in headers] == ["sig=1"]


def test_fetch_when_a_new_token_is_refused_too_then_permanent(tmp_path: Path, serve: Any) -> None:
    server = serve(write_scene(tmp_path, "one", {"B4": noise()}))
    server.fault = lambda asked: 403 if asked.path.endswith(".tif") else None
    with pytest.raises(ProviderError, match=r"403.*not public") as caught:
        StacProvider(server.url, sign=LocalSigner()).fetch(ask())
    assert not caught.value.transient
    assert [asked.query for asked in server.asked if asked.path.endswith(".tif")] == ["sig=1", "sig=2"]


def test_grd_when_it_is_digital_numbers_then_refused_with_the_reason(tmp_path: Path, serve: Any) -> None:
    write_tiff(tmp_path / "s1" / "vv.tif", noise(), corner=(480_000.0, 4_700_000.0))
    item = write_scene(tmp_path, "like", {"B4": noise()})
    item |= {"id": "s1", "collection": "sentinel-1-grd", "assets": {"vv": {"href": "./s1/vv.tif"}}}
    item["properties"] = {"datetime": "2022-06-01T06:00:00Z", "constellation": "sentinel-1",
                          "sar:instrument_mode": "IW", "sat:orbit_state": "ascending"}  # fmt: skip
    provider = StacProvider(serve(item).url)
    recipe = FetchRecipe("COPERNICUS/S1_GRD", 10.0, clouds=CloudPolicy("none", None, None))
    with pytest.raises(ProviderError, match="digital numbers of an uncalibrated GRD product are not backscatter"):
        provider.fetch(ask("VV", recipe=recipe))


# Borders


def landscape(lon: np.ndarray, lat: np.ndarray) -> Numbers:
    """A smooth surface over the globe: the next pixel to the east or south differs by less than 18."""
    return np.rint(2000 + 900 * np.sin(lon * 150) + 900 * np.cos(lat * 150)).astype(np.uint16)


def tile(folder: Path, name: str, epsg: int, corner: tuple[float, float], size: int = 512) -> dict[str, Any]:
    x, y = np.meshgrid(corner[0] + 10 * np.arange(size) + 5, corner[1] - 10 * np.arange(size) - 5)
    lon, lat = to_lonlat(epsg, x, y)
    properties = {"grid:code": f"MGRS-{name}"}
    return write_scene(folder, name, {"B4": landscape(lon, lat)}, epsg=epsg, corner=corner, properties=properties)


@pytest.mark.parametrize("over_http", [True, False])
@pytest.mark.parametrize("scale_m", [10.0, 20.0])
def test_fetch_when_on_a_border_of_zones_then_no_seam_and_one_image(
    tmp_path: Path, serve: Any, scale_m: float, *, over_http: bool
) -> None:
    # 6 E is the border of zones 31 and 32; at 45 N both tiles end a little beyond it.
    lon, lat = np.array([6.0]), np.array([45.0])
    grids = [snapped_grids(lon + shift, lat, 64, 64, scale_m, rule=grid_rule(S2))[0] for shift in (-0.001, 0.001)]
    assert [grid.epsg for grid in grids] == [32631, 32632]
    west = tile(tmp_path, "31TGK", 32631, (grids[0].bounds[0] - 4500, grids[0].y_max + 2000))
    east = tile(tmp_path, "32TLQ", 32632, (grids[1].bounds[0] + 200, grids[1].y_max + 2000))
    provider = StacProvider(serve(west, east).url if over_http else write_catalog(tmp_path, [west, east]))
    for grid in grids:
        patch = provider.fetch(ask(grid=grid, recipe=replace(RECIPE, scale_m=scale_m)))
        assert patch.valid_tchw.all()
        assert (patch.n_images, len(patch.frames[0].scene_ids)) == (1, 2)
        x, y = np.meshgrid(grid.x_min + scale_m * (np.arange(64) + 0.5), grid.y_max - scale_m * (np.arange(64) + 0.5))
        truth = landscape(*to_lonlat(grid.epsg, x, y)).astype(float)
        assert np.abs(patch.values_tchw[0, 0] - truth).max() <= 18  # half a pixel off, in either direction


def test_fetch_when_tiles_of_one_zone_overlap_then_as_if_there_were_no_border(tmp_path: Path, serve: Any) -> None:
    north = tile(tmp_path, "31TDH", 32631, (480_000.0, 4_700_000.0))
    south = tile(tmp_path, "31TDG", 32631, (480_000.0, 4_700_000.0 - 4_590))
    grid = Grid(32631, 481_000.0, 4_700_000.0 - 4_500, 30.0, 40, 40)
    patch = StacProvider(serve(north, south).url).fetch(ask(grid=grid, recipe=replace(RECIPE, scale_m=30.0)))
    x, y = np.meshgrid(grid.x_min + 10 * (np.arange(120) + 0.5), grid.y_max - 10 * (np.arange(120) + 0.5))
    whole = landscape(*to_lonlat(32631, x, y)).astype(float)
    assert patch.valid_tchw.all()
    assert patch.n_images == 1
    np.testing.assert_allclose(patch.values_tchw[0, 0], whole.reshape(40, 3, 40, 3).mean(axis=(1, 3)), rtol=2e-6)


def test_links_when_signed_then_the_token_is_in_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II")

    def client() -> RangeClient:
        return RangeClient(sign=lambda href: f"{href}?sig=secret", pause_s=0.0)

    with serving(tmp_path) as server:
        server.fault = lambda _: 404
        with pytest.raises(ProviderError) as refused:
            client().read(f"{server.url}/a.tif", 0, 2, RequestCounter())
    with pytest.raises(TransientProviderError) as unreachable:
        client().read(f"{server.url}/a.tif", 0, 2, RequestCounter())
    for caught in (refused, unreachable):
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert "a.tif" in str(caught.value)
