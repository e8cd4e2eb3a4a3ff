from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rsembed.core.errors import ModelError, classify
from rsembed.core.specs import OutputSpec
from rsembed.embedders.base import EmbedderConfig, Floats
from rsembed.embedders.batching import SlotResults, StoppedError, run_slots
from rsembed.embedders.prepared import Prepared
from rsembed.testing.null import NullEmbedder
from tests.builders import SlotEmbedder, prepared

Rows = Mapping[int, Sequence[Prepared] | Exception]


def run(
    rows: Rows, n_slots: int = 10, *, embedder: NullEmbedder | None = None, batch_size: int = 4, **options: Any
) -> SlotResults:
    def load(slot: int) -> Sequence[Prepared] | None:
        found = rows.get(slot)
        if isinstance(found, Exception):
            raise found
        return found

    return run_slots(embedder or NullEmbedder(), load, n_slots, batch_size=batch_size, **options)


def full(n: int = 10) -> dict[int, Sequence[Prepared]]:
    return {slot: [prepared(slot)] for slot in range(n)}


def same(a: Mapping[int, Floats], b: Mapping[int, Floats], slots: Sequence[int]) -> None:
    for slot in slots:
        assert a[slot].tobytes() == b[slot].tobytes(), slot


class PositionEmbedder(NullEmbedder):
    """Answers with the place a row has in its batch and the batch's length."""

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        out = np.zeros((len(roi), 16), np.float32)
        out[:, 0], out[:, 1] = np.arange(len(roi)), len(roi)
        return out


def test_slots_when_rows_are_absent_or_failed_then_the_others_keep_their_place_and_their_bytes() -> None:
    whole = run(full())
    rows: dict[int, Any] = {slot: row for slot, row in full().items() if slot not in (0, 5)}
    rows[2] = ValueError("unreadable")
    holed = run(rows)
    same(whole.values, holed.values, [1, 3, 4, 6, 7, 8, 9])
    assert set(holed.values) == {1, 3, 4, 6, 7, 8, 9}
    assert set(holed.errors) == {2}
    assert str(holed.errors[2]) == "unreadable"
    placed = run(rows, embedder=PositionEmbedder()).values
    assert {slot: value[:2].tolist() for slot, value in placed.items()} == {s: [s % 4, 4] for s in placed}


def test_slots_when_padded_then_absent_places_are_zero_filled() -> None:
    seen: list[NDArray[Any]] = []
    rois: list[Floats] = []

    class Watching(NullEmbedder):
        def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
            seen.append(arrays["image"].copy())  # its memory serves the next batch
            rois.append(roi)
            return super().embed_batch(arrays, roi)

    run({1: [prepared(1)], 4: [prepared(4)]}, 5, embedder=Watching())
    assert [len(image) for image in seen] == [4, 4]
    assert not seen[0][[0, 2, 3]].any()
    assert not rois[0][[0, 2, 3]].any()
    assert not seen[1][1:].any()


def test_slots_when_not_padded_then_the_last_batch_is_short() -> None:
    embedder = SlotEmbedder()
    run(full(10), embedder=embedder, pad=False)
    assert embedder.sizes == [4, 4, 2]


def test_slots_when_a_batch_has_no_rows_then_no_forward_is_made() -> None:
    found = run({9: [prepared(9)]})
    assert found.forwards == 1
    assert set(found.values) == {9}


def raw(value: int, slot: int) -> Prepared:
    made = prepared(slot)
    made.arrays["image"][0, 0, 0] = value / 4000
    return made


@pytest.mark.parametrize("poisoned", [[0], [3], [1, 2], [0, 1, 2, 3], [5, 9]])
def test_slots_when_rows_are_poisoned_then_only_they_fail_and_mates_keep_their_bytes(poisoned: list[int]) -> None:
    rows = full()
    whole = run(rows)
    bad = rows | {slot: [raw(77, slot)] for slot in poisoned}
    found = run(bad, embedder=NullEmbedder(EmbedderConfig(options={"poison": 77})))
    assert sorted(found.errors) == poisoned
    assert all("poisoned" in str(error) for error in found.errors.values())
    same(whole.values, found.values, [slot for slot in range(10) if slot not in poisoned])
    assert found.batch_size == 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_slots_when_the_model_gives_no_numbers_then_that_row_fails_alone(value: float) -> None:
    rows = full()
    rows[3][0].arrays["image"][0, 1, 1] = value
    found = run(rows)
    assert set(found.errors) == {3}
    assert "NaN or infinite" in str(found.errors[3])
    same(run(full()).values, found.values, [0, 1, 2, 4])


def too_large_above(size: int, error: type[Exception] = MemoryError) -> Any:
    def before(arrays: Mapping[str, Any]) -> None:
        if len(arrays["image"]) > size:
            raise error("DefaultCPUAllocator: not enough memory")

    return before


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_slots_when_memory_runs_out_then_the_whole_shard_is_done_again_at_half(error: type[Exception]) -> None:
    embedder = SlotEmbedder(before=too_large_above(2, error))
    found = run(full(), embedder=embedder, batch_size=8)
    assert found.batch_size == 2
    assert embedder.sizes == [8, 4, 2, 2, 2, 2, 2]
    same(run(full(), batch_size=2).values, found.values, range(10))
    assert not found.errors


def test_slots_when_memory_runs_out_late_then_earlier_batches_are_redone_too() -> None:
    calls = []

    def before(arrays: Mapping[str, Any]) -> None:
        calls.append(len(arrays["image"]))
        if len(calls) == 2:
            raise MemoryError

    found = run(full(8), 8, embedder=SlotEmbedder(before=before), batch_size=4)
    assert calls == [4, 4, 2, 2, 2, 2]
    assert found.batch_size == 2
    same(run(full(8), 8, batch_size=2).values, found.values, range(8))


def test_slots_when_one_row_alone_does_not_fit_then_it_is_recorded_and_the_run_goes_on() -> None:
    def before(arrays: Mapping[str, Any]) -> None:
        if len(arrays["image"]) > 1 or np.rint(arrays["image"][0, 0, 0, 0] * 4000) == 77:
            raise MemoryError

    found = run(full(5) | {2: [raw(77, 2)]}, 5, embedder=SlotEmbedder(before=before), batch_size=4)
    assert found.batch_size == 1
    assert set(found.errors) == {2}
    assert classify(found.errors[2]) == "out_of_memory"
    assert set(found.values) == {0, 1, 3, 4}


def test_slots_when_numbers_of_frames_differ_then_each_goes_in_a_pass_of_its_own_in_its_own_slot() -> None:
    rows = full(4) | {1: [prepared(1, frames=3)], 3: [prepared(3, frames=2)]}
    embedder = SlotEmbedder()
    found = run(rows, 4, embedder=embedder)
    assert embedder.sizes == [4, 4, 4]
    assert set(found.values) == {0, 1, 2, 3}
    same(run(full(4), 4).values, found.values, [0, 2])
    alone = run({1: rows[1]}, 4)
    same(alone.values, found.values, [1])


def test_slots_when_a_row_has_several_tiles_then_they_are_combined_by_area() -> None:
    tiles = [prepared(1, area_px=30.0), prepared(2, area_px=10.0)]
    found = run({0: tiles, 1: [prepared(3)]}, 2)
    parts = [run({0: [tile]}, 2).values[0].astype(np.float64) for tile in tiles]
    np.testing.assert_allclose(found.values[0], (3 * parts[0] + parts[1]) / 4, rtol=1e-6)
    assert found.values[0].dtype == np.float32
    same(run({1: [prepared(3)]}, 2).values, found.values, [1])


def test_slots_when_one_tile_fails_then_the_row_fails_and_its_later_tiles_are_not_run() -> None:
    embedder = SlotEmbedder(EmbedderConfig(options={"poison": 77}))
    found = run({0: [raw(77, 0), prepared(1)], 1: [prepared(2)]}, 2, embedder=embedder)
    assert set(found.errors) == {0}
    assert set(found.values) == {1}
    assert len(embedder.sizes) == 3  # both, then each alone


def test_slots_when_the_pooling_is_max_then_tiles_are_reduced_by_it() -> None:
    embedder = NullEmbedder(EmbedderConfig(output=OutputSpec.pooled("max")))
    tiles = [prepared(1), prepared(2)]
    found = run({0: tiles}, 1, embedder=embedder)
    parts = [run({0: [tile]}, 1).values[0] for tile in tiles]
    np.testing.assert_array_equal(found.values[0], np.maximum(*parts))


def test_slots_when_tiles_cannot_be_combined_then_that_row_fails_alone() -> None:
    class NoMosaic(NullEmbedder):
        def combine(self, parts: Sequence[Floats], prepared: Sequence[Prepared]) -> Floats:
            if len(parts) > 1:
                raise ModelError("not several")
            return super().combine(parts, prepared)

    found = run({0: [prepared(1), prepared(2)], 1: [prepared(3)]}, 2, embedder=NoMosaic())
    assert set(found.errors) == {0}
    assert isinstance(found.errors[0], ModelError)
    assert set(found.values) == {1}


def test_slots_when_asked_to_stop_then_it_stops_between_batches() -> None:
    embedder = SlotEmbedder()
    with pytest.raises(StoppedError):
        run(full(), embedder=embedder, should_stop=lambda: len(embedder.sizes) >= 2)
    assert embedder.sizes == [4, 4]


def test_slots_when_the_model_returns_another_number_of_rows_then_it_is_the_models_fault() -> None:
    class Short(NullEmbedder):
        def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
            return super().embed_batch(arrays, roi)[:-1]

    with pytest.raises(ModelError, match="returned 3 embeddings for a batch of 4"):
        run(full(), embedder=Short())


@pytest.mark.parametrize("n_slots", [0, 1, 10])
def test_slots_when_threads_prepare_then_the_same_bytes(n_slots: int) -> None:
    rows: dict[int, Any] = full(n_slots) | {5: ValueError("unreadable")}
    alone, together = run(rows, n_slots), run(rows, n_slots, threads=3)
    assert set(together.values) == set(alone.values)
    assert set(together.errors) == set(alone.errors)
    assert together.forwards == alone.forwards
    same(alone.values, together.values, list(alone.values))


def test_slots_when_threads_prepare_then_the_next_batch_is_made_ready_meanwhile() -> None:
    loaded = threading.Semaphore(0)

    def before(_: Mapping[str, Any]) -> None:
        # The first batch does not end before a slot of the second one is loaded.
        if len(embedder.sizes) == 1:
            for _ in range(5):
                assert loaded.acquire(timeout=10)

    def load(slot: int) -> Sequence[Prepared]:
        loaded.release()
        return [prepared(slot)]

    embedder = SlotEmbedder(before=before)
    found = run_slots(embedder, load, 8, batch_size=4, threads=2)
    assert len(found.values) == 8
    assert not found.errors


def test_slots_when_threads_prepare_and_memory_runs_out_then_all_is_done_again_at_half() -> None:
    found = run(full(), embedder=SlotEmbedder(before=too_large_above(2)), batch_size=8, threads=2)
    assert found.batch_size == 2
    same(run(full(), batch_size=2).values, found.values, range(10))


def test_slots_when_threads_prepare_and_a_stop_is_asked_then_it_stops() -> None:
    embedder = SlotEmbedder()
    with pytest.raises(StoppedError):
        run(full(40), 40, embedder=embedder, threads=2, should_stop=lambda: len(embedder.sizes) >= 2)
    assert len(embedder.sizes) <= 4


def test_slots_when_the_answer_is_the_inputs_own_memory_then_rows_keep_their_numbers() -> None:
    class Echo(NullEmbedder):
        def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
            return arrays["image"][:, 0, 0, :4]

    rows = full(8)
    found = run(rows, 8, embedder=Echo())
    for slot, [one] in rows.items():
        assert found.values[slot].tobytes() == one.arrays["image"][0, 0, :4].tobytes()


def test_slots_when_a_batch_computes_then_its_rows_are_not_in_memory_twice() -> None:
    handed_out: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Watching(NullEmbedder):
        def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
            alive.append(sum(array() is not None for array in handed_out))
            return super().embed_batch(arrays, roi)

    def load(slot: int) -> Sequence[Prepared]:
        one = prepared(slot)
        handed_out.append(weakref.ref(one.arrays["image"]))
        return [one]

    run_slots(Watching(), load, 8, batch_size=4)
    assert max(alive) <= 1  # the last one loaded
