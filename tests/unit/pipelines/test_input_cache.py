from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rsembed.core.patch import Json, Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import PointBuffer, Window
from rsembed.pipelines.input_cache import InputCache, cache_folder, open_cache
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import embed_places
from tests.builders import YEAR, CountingProvider, files, frame, grid, patch, places, request, run_export, run_plan

KEY = "ab" + "0" * 62
OTHER = "cd" + "0" * 62
TODAY = dt.date(2023, 6, 1)
BIG = 10**9


def opened(folder: Path, max_bytes: int = BIG) -> InputCache:
    return InputCache(folder, max_bytes, today=lambda: TODAY, free_bytes=lambda _: 10**13)


def same(a: Patch | None, b: Patch) -> bool:
    return a is not None and (
        a.values_tchw.tobytes() == b.values_tchw.tobytes()
        and a.valid_tchw.tobytes() == b.valid_tchw.tobytes()
        and replace(a, values_tchw=b.values_tchw, valid_tchw=b.valid_tchw) == b
    )


def files_of(cache: InputCache) -> list[Path]:
    return sorted(cache.folder.glob("??/*.patch"))


def test_cache_when_a_patch_was_put_then_another_process_gets_the_same(tmp_path: Path) -> None:
    opened(tmp_path).put(KEY, request(), patch())
    assert same(opened(tmp_path).get(KEY, request()), patch())
    assert opened(tmp_path).get(OTHER, request()) is None


def test_cache_when_more_bands_are_kept_than_asked_then_just_those_come(tmp_path: Path) -> None:
    whole = patch(bands=("B1", "B2", "B3"))
    cache = opened(tmp_path)
    cache.put(KEY, request(bands=whole.bands), whole)
    assert same(cache.get(KEY, request(bands=("B3", "B1"))), whole.select(("B3", "B1")))


def test_cache_when_a_band_is_not_kept_then_it_is_a_miss_and_both_may_be_kept(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(KEY, request(), patch())
    asked = request(bands=("B2",))
    assert cache.get(KEY, asked) is None
    cache.put(KEY, asked, patch(bands=("B2",), seed=1))
    assert same(cache.get(KEY, asked), patch(bands=("B2",), seed=1))
    assert same(cache.get(KEY, request()), patch())


def test_cache_when_grid_or_bins_are_others_then_it_is_a_miss(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(KEY, request(), patch())
    half = Window(dt.date(2022, 1, 1), dt.date(2022, 7, 1))
    assert cache.get(KEY, request(on=grid(height=6, width=6))) is None
    assert cache.get(KEY, request(bins=(half,))) is None


@pytest.mark.parametrize(("days_ago", "kept"), [(0, False), (6, False), (7, True), (-30, False)])
def test_cache_when_a_window_ended_less_than_seven_days_ago_then_it_is_neither_kept_nor_used(
    tmp_path: Path, days_ago: int, kept: bool
) -> None:
    window = Window(dt.date(2023, 1, 1), TODAY - dt.timedelta(days=days_ago))
    asked, found = request(bins=(window,)), patch(frames=(frame(window),))
    later = InputCache(tmp_path, BIG, today=lambda: dt.date(2024, 1, 1), free_bytes=lambda _: 10**13)
    opened(tmp_path).put(KEY, asked, found)
    assert (later.get(KEY, asked) is not None) is kept
    later.put(KEY, asked, found)
    assert (opened(tmp_path).get(KEY, asked) is not None) is kept


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-3] + b"xyz", lambda _: b""])
def test_cache_when_a_file_is_damaged_then_it_is_a_miss_and_removed(tmp_path: Path, damage: object) -> None:
    cache = opened(tmp_path)
    cache.put(KEY, request(), patch())
    [path] = files_of(cache)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]  # one of the functions above
    assert cache.get(KEY, request()) is None
    assert files_of(cache) == []


def test_cache_when_a_file_lies_under_another_s_name_then_it_is_a_miss(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(KEY, request(), patch())
    [path] = files_of(cache)
    target = tmp_path / OTHER[:2] / path.name.replace(KEY, OTHER)
    target.parent.mkdir()
    path.rename(target)
    assert cache.get(OTHER, request()) is None


def test_cache_when_nearly_full_then_what_was_unused_for_longest_goes(tmp_path: Path) -> None:
    on = grid(height=40, width=40)
    one = patch(on=on)
    opened(tmp_path).put("00" + KEY, request(on=on), one)
    size = files_of(opened(tmp_path))[0].stat().st_size
    for i in range(100):
        cache = opened(tmp_path, 40 * size)  # a new process each time: it looks before it writes
        cache.put(f"{i:02x}{KEY}", request(on=on), one)
        os.utime(next((tmp_path / f"{i:02x}").glob("*.patch")), (i, i))
        assert cache.get("00" + KEY, request(on=on)) is not None  # used again and again
    found = opened(tmp_path, 40 * size).info()
    assert 30 <= found.patches <= 40
    assert found.bytes <= 40 * size
    assert cache.get(f"{99:02x}{KEY}", request(on=on)) is not None
    assert cache.get(f"{1:02x}{KEY}", request(on=on)) is None


def test_cache_when_one_process_writes_on_then_the_bound_holds(tmp_path: Path) -> None:
    on = grid(height=40, width=40)
    one = patch(on=on)
    opened(tmp_path).put(KEY, request(on=on), one)
    bound = 25 * files_of(opened(tmp_path))[0].stat().st_size
    cache = opened(tmp_path, bound)
    for i in range(60):
        cache.put(f"{i:02x}{KEY}", request(on=on), one)
        assert cache.info().bytes <= bound


def test_cache_when_a_patch_is_large_beside_the_bound_then_it_is_not_kept(tmp_path: Path) -> None:
    cache = opened(tmp_path, 1000)
    cache.put(KEY, request(), patch())
    assert cache.info().patches == 0


def test_cache_when_the_disk_is_nearly_full_then_nothing_more_is_kept(tmp_path: Path) -> None:
    cache = InputCache(tmp_path, BIG, today=lambda: TODAY, free_bytes=lambda _: 2 * 10**9)
    cache.put(KEY, request(), patch())
    assert cache.info().patches == 0


def test_cache_when_the_folder_cannot_be_written_to_then_nothing_is_kept_and_nobody_hears_of_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = opened(tmp_path / "file" / "inputs")
    cache.put(KEY, request(), patch())
    assert cache.get(KEY, request()) is None
    assert cache.info().patches == 0


def test_cache_when_many_threads_put_and_get_then_every_answer_is_whole(tmp_path: Path) -> None:
    wrong: list[str] = []

    def work() -> None:
        cache = opened(tmp_path)
        for i in range(20):
            cache.put(f"{i % 5:02x}{KEY}", request(), patch(seed=i % 5))
            found = cache.get(f"{i % 5:02x}{KEY}", request())
            if not same(found, patch(seed=i % 5)):
                wrong.append(str(i))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert opened(tmp_path).info().patches == 5


def test_cache_when_cleared_then_only_its_own_files_are_gone(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(KEY, request(), patch())
    (tmp_path / "notes.txt").touch()
    (tmp_path / "_tmp" / "left").touch()
    assert cache.clear().patches == 1
    assert cache.info().patches == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != "_lock"] == ["notes.txt"]


def test_open_cache_when_off_or_the_source_is_the_user_s_own_then_there_is_none(tmp_path: Path) -> None:
    on = Settings(cache_dir=tmp_path, input_cache_bytes=BIG)
    remote: dict[str, Json] = {"backend": "stac", "catalog": "https://example.org"}
    assert open_cache(on, remote) is not None
    assert open_cache(on, {"backend": "gee", "project": "p"}) is not None
    assert open_cache(on, {"backend": "stac", "catalog": "sha256:1234"}) is None  # files on this machine
    assert open_cache(on, {"backend": "raster"}) is None
    assert open_cache(on.with_input_cache(False), remote) is None


# In runs


class CachedProvider(CountingProvider):
    """A source that is worth caching, and counts what it is asked."""

    name = "stac"

    def describe(self) -> Mapping[str, Json]:
        return {"backend": "stac", "catalog": "https://example.org"}

    def check(self, recipe: object, bands: Sequence[str]) -> None:
        """Everything can be had."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", input_cache_bytes=BIG)


def test_export_when_another_model_of_the_fetch_group_was_run_before_then_nothing_is_fetched(
    tmp_path: Path, settings: Settings
) -> None:
    first, second, plain = CachedProvider(), CachedProvider(), CachedProvider()
    run_export(tmp_path / "a", None, "null@one", provider=first, settings=settings)
    found = run_export(tmp_path / "b", None, "null@two", provider=second, settings=settings)
    run_export(tmp_path / "c", None, "null@two", provider=plain)
    assert (len(first.asked), len(second.asked), len(plain.asked)) == (12, 0, 12)
    assert (found.requests, found.cached) == (0, 12)
    assert files(tmp_path / "b") == files(tmp_path / "c")


def test_export_when_the_window_is_not_over_for_long_then_it_is_fetched_again(
    tmp_path: Path, settings: Settings
) -> None:
    today = dt.datetime.now(dt.UTC).date()
    windows = WindowPolicy((Window(today - dt.timedelta(days=40), today - dt.timedelta(days=2)),))
    for name in ("a", "b"):
        provider = CachedProvider()
        run_export(tmp_path / name, None, provider=provider, windows=windows, settings=settings)
        assert len(provider.asked) == 12
    assert InputCache(cache_folder(settings), BIG).info().patches == 0


def test_export_when_kept_patches_are_damaged_then_just_those_are_fetched_again(
    tmp_path: Path, settings: Settings
) -> None:
    run_export(tmp_path / "a", None, provider=CachedProvider(), settings=settings)
    for path in files_of(InputCache(cache_folder(settings), BIG))[:4]:
        path.write_bytes(path.read_bytes()[:-2])
    provider = CachedProvider()
    found = run_export(tmp_path / "b", None, provider=provider, settings=settings)
    assert (len(provider.asked), found.cached) == (4, 8)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_places_when_an_export_fetched_them_then_nothing_is_fetched(tmp_path: Path, settings: Settings) -> None:
    table = places(3)
    run_export(tmp_path / "a", table, provider=CachedProvider(), settings=settings, buffer_m=40.0)
    points = [PointBuffer(row["lon"], row["lat"], 40.0) for row in table.to_pylist()]
    provider = CachedProvider()
    answers = embed_places(run_plan(provider=provider), points, YEAR, provider, settings)
    assert provider.asked == []
    assert all(answer.vector is not None for answer in answers)
