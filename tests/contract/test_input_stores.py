"""The input store between IO and inference workers, in a folder and in a bucket of a real S3 API server."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.patch import Patch
from rsembed.pipelines.input_record import encode
from rsembed.writers.store import ANY, BlobStore, open_store
from tests.builders import frame, grid, patch
from workers.inputs import InputStore

UNIT = "0123abcd/000007"


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/inputs"


@pytest.fixture
def store(url: str, tmp_path: Path) -> InputStore:
    return InputStore(url, tmp_path / "scratch")


@pytest.fixture
def blobs(url: str, tmp_path: Path) -> BlobStore:
    """The same place without the input store's manners."""
    return open_store(url, scratch=tmp_path / "scratch")


def records(*entries: tuple[str, Patch]) -> bytes:
    return b"".join(encode(key, each)[0] for key, each in entries)


def pixels(*bands: str, seed: int = 0) -> Patch:
    """A patch whose bands hold the same pixels whichever others were fetched with them."""
    values = [np.random.default_rng([seed, *band.encode()]).integers(0, 4000, (1, 8, 8)) for band in bands]
    valid = [np.random.default_rng([seed + 1, *band.encode()]).random((1, 8, 8)) > 0.2 for band in bands]
    return patch(bands=bands, values=np.stack(values, axis=1).astype(np.float32), valid=np.stack(valid, axis=1))


def same(a: Patch | None, b: Patch) -> bool:
    return (
        a is not None
        and a.values_tchw.dtype == np.float32
        and a.values_tchw.tobytes() == b.values_tchw.tobytes()
        and a.valid_tchw.tobytes() == b.valid_tchw.tobytes()
        and (a.bands, a.grid, a.frames) == (b.bands, b.grid, b.frames)
    )


def test_unit_when_segments_were_written_then_every_patch_comes_back_to_the_bit(
    url: str, store: InputStore, tmp_path: Path
) -> None:
    made = {f"k{i}": patch(seed=i, on=grid(x_min=480_000.0 + 10 * i)) for i in range(20)}
    first = records(*((key, made[key]) for key in list(made)[:12]))
    assert store.write_segment(UNIT, "tok-0", first) == len(first)
    store.write_segment(UNIT, "tok-1", records(*((key, made[key]) for key in list(made)[12:])))
    with InputStore(url, tmp_path / "other").open_unit(UNIT) as unit:
        assert all(same(unit.get(key, ("B1",)), each) for key, each in made.items())
        assert unit.keys(("B1",)) == set(made)
        assert unit.get("k20", ("B1",)) is None


def test_unit_when_nothing_was_written_then_empty(store: InputStore) -> None:
    with store.open_unit(UNIT) as unit:
        assert unit.get("k", ("B1",)) is None
        assert unit.keys(("B1",)) == set()
        assert unit.lacks("k", ("B1", "B2")) == ("B1", "B2")


def test_unit_when_more_bands_are_stored_than_asked_then_just_those_in_the_asked_order(store: InputStore) -> None:
    store.write_segment(UNIT, "a-0", records(("k", pixels("B1", "B2", "B3"))))
    with store.open_unit(UNIT) as unit:
        assert same(unit.get("k", ("B3", "B1")), pixels("B3", "B1"))
        assert unit.lacks("k", ("B3", "B1")) == ()
        assert unit.keys(("B2",)) == {"k"}


def test_unit_when_bands_lie_in_several_records_then_put_together(store: InputStore) -> None:
    store.write_segment(UNIT, "a-0", records(("k", pixels("B1", "B2")), ("j", pixels("B1", seed=9))))
    with store.open_unit(UNIT) as unit:
        assert unit.get("k", ("B4", "B1")) is None
        assert unit.lacks("k", ("B4", "B1", "B5")) == ("B4", "B5")
    store.write_segment(UNIT, "b-0", records(("k", pixels("B4"))))
    with store.open_unit(UNIT) as unit:
        assert same(unit.get("k", ("B4", "B1")), pixels("B4", "B1"))
        assert unit.keys(("B4", "B1")) == {"k"}
        assert unit.keys(("B1",)) == {"k", "j"}


def test_unit_when_the_records_of_a_key_tell_of_other_frames_then_all_bands_are_lacking(store: InputStore) -> None:
    later = replace(pixels("B4"), frames=(frame(n_images=2),))
    store.write_segment(UNIT, "a-0", records(("k", pixels("B1"))))
    store.write_segment(UNIT, "b-0", records(("k", later)))
    with store.open_unit(UNIT) as unit:
        assert unit.get("k", ("B1", "B4")) is None
        assert unit.lacks("k", ("B1", "B4")) == ("B1", "B4")
        assert unit.keys(("B1", "B4")) == set()
        assert unit.keys(("B4",)) == {"k"}


def test_unit_when_one_record_has_all_bands_then_it_goes_before_a_sum(store: InputStore) -> None:
    whole = replace(pixels("B1", "B2"), provenance={"requests": 1, "step": "whole"})
    store.write_segment(UNIT, "a-0", records(("k", pixels("B1"))))
    store.write_segment(UNIT, "b-0", records(("k", pixels("B2"))))
    store.write_segment(UNIT, "c-0", records(("k", whole)))
    with store.open_unit(UNIT) as unit:
        found = unit.get("k", ("B1", "B2"))
        assert found is not None
        assert found.provenance["step"] == "whole"


@pytest.mark.parametrize("where", [0, 5, 12, 18, 30, 60, 120, 200, 240, -1])
def test_unit_when_a_byte_is_damaged_then_what_it_hits_is_missing_and_another_copy_serves(
    store: InputStore, blobs: BlobStore, where: int
) -> None:
    data = bytearray(records(("k0", patch(seed=0)), ("k1", patch(seed=1))))
    data[where] ^= 0xFF
    blobs.put(f"{UNIT}/a-0.pack", bytes(data), replaces=ANY)
    hit = "k1" if where < 0 else "k0"
    with store.open_unit(UNIT) as unit:
        assert unit.get(hit, ("B1",)) is None
        assert hit not in unit.keys(("B1",))
        assert unit.lacks(hit, ("B1",)) == ("B1",)
    store.write_segment(UNIT, "b-0", records(("k0", patch(seed=0)), ("k1", patch(seed=1))))
    with store.open_unit(UNIT) as unit:
        assert all(same(unit.get(f"k{i}", ("B1",)), patch(seed=i)) for i in range(2))
        assert unit.keys(("B1",)) == {"k0", "k1"}


def test_unit_when_segments_are_garbage_of_any_kind_then_missing_and_no_error(
    store: InputStore, blobs: BlobStore
) -> None:
    chance = random.Random(3)
    good = records(*((f"k{i}", patch(seed=i)) for i in range(4)))
    for number in range(40):
        data = bytearray(good)
        for _ in range(chance.choice((1, 3, 40))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = data[: chance.choice((0, 1, 16, 17, 40, len(data) // 2, len(data) - 1, len(data)))]
        blobs.put(f"{UNIT}/{number}.pack", bytes(cut), replaces=ANY)
    blobs.put(f"{UNIT}/zeros.pack", bytes(5000), replaces=ANY)
    with store.open_unit(UNIT) as unit:
        for i in range(4):
            found = unit.get(f"k{i}", ("B1",))
            assert found is None or same(found, patch(seed=i))
        unit.keys(("B1",))


def test_unit_when_its_segments_are_deleted_while_it_is_open_then_no_error(store: InputStore) -> None:
    store.write_segment(UNIT, "a-0", records(("k", patch())))
    unit = store.open_unit(UNIT)
    store.delete_unit(UNIT)
    assert unit.get("k", ("B1",)) is None
    unit.close()
    assert unit.get("k", ("B1",)) is None


def test_unit_when_a_segment_is_large_then_patches_are_read_one_by_one(store: InputStore) -> None:
    made = {f"k{i}": patch(seed=i, on=grid(height=512, width=512)) for i in range(20)}
    size = store.write_segment(UNIT, "a-0", records(*made.items()))
    assert size > 9 << 20
    with store.open_unit(UNIT) as unit:
        assert all(same(unit.get(key, ("B1",)), each) for key, each in made.items())
        assert unit.keys(("B1",)) == set(made)


def test_unit_when_read_from_many_threads_then_all_see_the_same(store: InputStore) -> None:
    made = {f"k{i}": patch(seed=i) for i in range(40)}
    store.write_segment(UNIT, "a-0", records(*made.items()))
    wrong: list[str] = []
    with store.open_unit(UNIT) as unit:

        def work() -> None:
            wrong.extend(key for key, each in made.items() if not same(unit.get(key, ("B1",)), each))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_store_when_units_are_listed_then_each_with_its_bytes_and_age(store: InputStore) -> None:
    sizes = {}
    for key in ("aaaa/000000", "aaaa/000001", "bbbb/000000"):
        sizes[key] = sum(store.write_segment(key, f"t-{n}", records((key, patch(seed=n)))) for n in range(2))
    store.check()
    listed = list(store.list_units())
    assert {key: size for key, size, _ in listed} == sizes
    assert all(newest > 1.7e9 for *_, newest in listed)
    store.delete_unit("aaaa/000000")
    store.delete_unit("aaaa/000000")
    assert sorted(key for key, *_ in store.list_units()) == ["aaaa/000001", "bbbb/000000"]


def test_store_when_a_unit_is_deleted_then_one_whose_name_begins_alike_stays(store: InputStore) -> None:
    for key in ("a/1", "a/11"):
        store.write_segment(key, "t-0", records(("k", patch())))
    store.delete_unit("a/1")
    assert [key for key, *_ in store.list_units()] == ["a/11"]


def test_store_when_the_same_segment_is_written_again_then_it_is_replaced(store: InputStore) -> None:
    store.write_segment(UNIT, "a-0", records(("k", patch())))
    store.write_segment(UNIT, "a-0", records(("j", patch(seed=1))))
    with store.open_unit(UNIT) as unit:
        assert unit.keys(("B1",)) == {"j"}
