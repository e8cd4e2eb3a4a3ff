"""File servers that die, cut, garble, refuse and hang: what the stac provider makes of each, and that it recovers."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.errors import ProviderError, QuotaError, TransientProviderError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.pipelines.retry import RetryPolicy, call_with_retry
from rsembed.providers.stac import StacProvider
from rsembed.providers.transport import ATTEMPTS, RangeClient, RequestCounter
from rsembed.testing.file_server import Asked, Fault, FileServer, serving
from tests.stac_parts import noise, write_catalog, write_scene, write_tiff

RECIPE = FetchRecipe("COPERNICUS/S2_SR_HARMONIZED", 10.0, clouds=CloudPolicy("none", None, None))
GRID = Grid(32631, 481_300.0, 4_698_700.0, 10.0, 64, 64)
REQUEST = FetchRequest(RECIPE, ("B4", "B8"), GRID, (Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1)),))
AT_ONCE = RetryPolicy(base_s=0.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    bands = {"B4": noise(seed=1), "B8": noise(seed=2)}
    write_catalog(tmp_path, [write_scene(tmp_path, "one", bands)])
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def provider(server: FileServer) -> Iterator[StacProvider]:
    made = StacProvider(f"{server.url}/catalog.json", timeout_s=30.0)
    yield made
    made.close()


def once(fault: Fault, *, at: Callable[[Asked], bool]) -> Callable[[Asked], Fault]:
    """``fault`` for as many requests as a client makes before it gives up, and never again."""
    left = [ATTEMPTS]

    def answer(asked: Asked) -> Fault:
        if not at(asked) or not left[0]:
            return None
        left[0] -= 1
        return fault

    return answer


def is_tile(asked: Asked) -> bool:
    return asked.path == "one/B8.tif" and asked.start > 0


def expected() -> np.ndarray:
    return np.stack([noise(seed=seed)[130:194, 130:194] for seed in (1, 2)]).astype(np.float32)


def test_fetch_when_served_over_http_then_the_stored_numbers_and_every_request_counted(
    server: FileServer, provider: StacProvider
) -> None:
    patch = provider.fetch(REQUEST)
    np.testing.assert_array_equal(patch.values_tchw[0], expected())
    assert patch.provenance["requests"] == len(server.asked)
    again = provider.fetch(replace(REQUEST, grid=replace(GRID, x_min=GRID.x_min - 20)))
    assert (again.provenance["requests"], again.provenance["bytes"]) == (0, 0)


def is_header(asked: Asked) -> bool:
    return asked.path == "one/B8.tif" and not asked.start


@pytest.mark.parametrize(
    ("fault", "where"),
    [("cut", is_tile), ("short", is_tile), (503, is_tile), ("cut", is_header), ("short", is_header), (500, is_header)],
)
def test_fetch_when_an_answer_fails_then_transient_and_the_next_try_is_right(
    server: FileServer, provider: StacProvider, fault: Fault, where: Callable[[Asked], bool]
) -> None:
    server.fault = once(fault, at=where)
    with pytest.raises(TransientProviderError, match=r"B8\.tif"):
        provider.fetch(REQUEST)
    patch = call_with_retry(lambda: provider.fetch(REQUEST), AT_ONCE, threading.Event())
    np.testing.assert_array_equal(patch.values_tchw[0], expected())
    assert patch.valid_tchw.all()


def test_fetch_when_one_answer_fails_then_it_is_asked_again_within_the_same_request(
    server: FileServer, provider: StacProvider
) -> None:
    faults: Iterator[Fault] = iter(["cut"])
    server.fault = lambda asked: next(faults, None) if is_tile(asked) else None
    np.testing.assert_array_equal(provider.fetch(REQUEST).values_tchw[0], expected())


def test_fetch_when_a_tile_arrives_garbled_once_then_the_next_try_is_right(
    server: FileServer, provider: StacProvider
) -> None:
    faults: Iterator[Fault] = iter(["garbled"])
    server.fault = lambda asked: next(faults, None) if is_tile(asked) else None
    patch = call_with_retry(lambda: provider.fetch(REQUEST), AT_ONCE, threading.Event())
    np.testing.assert_array_equal(patch.values_tchw[0], expected())


def test_fetch_when_a_tile_stays_garbled_then_failed_and_never_a_gap(
    server: FileServer, provider: StacProvider
) -> None:
    server.fault = lambda asked: "garbled" if is_tile(asked) else None
    with pytest.raises(TransientProviderError, match=r"tile .* of .*B8\.tif cannot be decoded"):
        call_with_retry(lambda: provider.fetch(REQUEST), AT_ONCE, threading.Event())


@pytest.mark.parametrize(("status", "kind"), [(403, "provider"), (404, "provider"), (401, "auth"), (429, "quota")])
def test_fetch_when_one_asset_is_refused_then_class_by_status_and_one_request(
    server: FileServer, provider: StacProvider, status: int, kind: str
) -> None:
    server.fault = lambda asked: status if asked.path == "one/B8.tif" else None
    with pytest.raises(ProviderError, match=r"B8\.tif.*" + str(status)) as caught:
        provider.fetch(REQUEST)
    assert caught.value.error_class == kind
    assert sum(asked.path == "one/B8.tif" for asked in server.asked) == 1
    server.fault = None
    np.testing.assert_array_equal(provider.fetch(REQUEST).values_tchw[0], expected())


def test_fetch_when_the_file_ends_too_soon_then_permanent_and_says_so(
    server: FileServer, provider: StacProvider
) -> None:
    file = server.folder / "one" / "B8.tif"
    file.write_bytes(file.read_bytes()[:60_000])
    with pytest.raises(ProviderError, match=r"B8\.tif.*(is cut off|damaged)") as caught:
        provider.fetch(REQUEST)
    assert not caught.value.transient


def test_fetch_when_the_server_is_silent_then_transient_after_the_timeout(server: FileServer) -> None:
    provider = StacProvider(f"{server.url}/catalog.json", timeout_s=0.2)
    server.fault = lambda asked: "hang" if asked.path.endswith(".tif") else None
    with pytest.raises(TransientProviderError, match=r"\.tif.*timed out"):
        provider.fetch(REQUEST)
    server.fault = None
    server.release()
    provider.close()


def test_fetch_when_a_file_is_replaced_midway_then_read_anew(server: FileServer, provider: StacProvider) -> None:
    provider.fetch(REQUEST)
    later = replace(REQUEST, grid=replace(GRID, x_min=480_000.0, y_max=4_700_000.0))
    write_tiff(server.folder / "one" / "B8.tif", noise(seed=9), corner=(480_000.0, 4_700_000.0))
    patch = call_with_retry(lambda: provider.fetch(later), AT_ONCE, threading.Event())
    np.testing.assert_array_equal(patch.values_tchw[0, 1], noise(seed=9)[:64, :64])


@pytest.mark.parametrize("is_right", [True, False])
def test_fetch_when_a_hash_is_given_then_a_wrong_file_is_refused(tmp_path: Path, *, is_right: bool) -> None:
    corner = (480_000.0, 4_700_000.0)
    small = noise(64, 64)
    told = hashlib.sha256(write_tiff(tmp_path / "one" / "B4.tif", small, corner=corner).read_bytes()).hexdigest()
    told = told if is_right else told[::-1]
    write_catalog(tmp_path, [write_scene(tmp_path, "one", {"B4": small}, checksums={"B4": f"1220{told}"})])
    ask = replace(REQUEST, bands=("B4",), grid=Grid(32631, *corner, 10.0, 64, 64))
    with serving(tmp_path) as server:
        provider = StacProvider(f"{server.url}/catalog.json")
        if is_right:
            np.testing.assert_array_equal(provider.fetch(ask).values_tchw[0, 0], small)
        else:
            with pytest.raises(TransientProviderError, match="not the file that the catalogue names"):
                provider.fetch(ask)


def test_fetch_when_many_threads_want_the_same_tiles_then_each_is_asked_for_once(
    server: FileServer, provider: StacProvider
) -> None:
    provider.check(RECIPE, ("B4",))
    start = threading.Barrier(8)
    found: list[object] = []

    def ask() -> None:
        start.wait()
        found.append(provider.fetch(REQUEST).values_tchw.sum())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(server.asked) == len({(asked.path, asked.start) for asked in server.asked})


def test_read_when_the_server_knows_no_ranges_then_the_whole_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(200)))
    with serving(tmp_path) as server:
        server.knows_ranges = False
        piece = RangeClient().read(f"{server.url}/a.bin", 10, 5, RequestCounter())
    assert (piece.data, piece.total) == (bytes(range(10, 15)), 200)


def test_read_when_a_busy_server_says_slow_down_then_quota_without_another_try(tmp_path: Path) -> None:
    counter = RequestCounter()
    with serving(tmp_path) as server:
        server.fault = lambda _: 429
        with pytest.raises(QuotaError):
            RangeClient().read(f"{server.url}/a.bin", 0, 5, counter)
    assert counter.count == 1


def test_fetch_when_a_file_has_no_tiles_then_read_by_other_means_and_a_fault_is_not_remembered(
    server: FileServer, provider: StacProvider
) -> None:
    write_tiff(server.folder / "one" / "B8.tif", noise(seed=2), corner=(480_000.0, 4_700_000.0), driver="GTiff")
    looks: Iterator[Fault] = iter([None])  # our own look at the header comes first
    server.fault = lambda asked: next(looks, 404) if asked.path == "one/B8.tif" else None
    with pytest.raises(ProviderError, match=r"B8\.tif.*404"):
        provider.fetch(REQUEST)
    server.fault = None
    np.testing.assert_array_equal(provider.fetch(REQUEST).values_tchw[0], expected())
