from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rsembed.core.embedding import RowStatus
from rsembed.core.patch import Patch
from rsembed.pipelines.fetch_unit import RowFailure
from rsembed.pipelines.inference import InferenceEngine, RowInput, RowSource, ShardOutcome
from tests.builders import YEAR, frame, patch, run_plan

MODEL = run_plan("null").models[0]


def row(found: Patch | None = None) -> RowInput:
    return RowInput(found or patch(), MODEL.footprint(8, 8), 2.0, 42.0, YEAR)


def run(source: RowSource, n: int = 1, **options: Any) -> ShardOutcome:
    return InferenceEngine(**({"threads": 1, "min_valid_fraction": 0.5} | options)).run(MODEL, n, source)


def masked(valid_rows: int) -> Patch:
    valid = np.zeros((1, 1, 8, 8), np.bool_)
    valid[:, :, :valid_rows] = True
    return patch(valid=valid)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (masked(8), RowStatus.OK), (masked(4), RowStatus.OK), (masked(3), RowStatus.LOW_QUALITY),
        (masked(0), RowStatus.NO_DATA),
        (patch(frames=(frame(n_images=0),), valid=np.zeros((1, 1, 8, 8), np.bool_)), RowStatus.NO_DATA),
    ],
)  # fmt: skip
def test_engine_when_pixels_are_missing_then_the_status_follows_the_asked_ground(
    found: Patch, status: RowStatus
) -> None:
    outcome = run(lambda _: row(found))
    assert outcome.records[0].status is status
    assert (outcome.vectors[0] is not None) == status.has_embedding
    assert outcome.records[0].valid_fraction == found.valid_fraction()


@pytest.mark.parametrize(
    ("word", "status"), [("collection_gap", RowStatus.COLLECTION_GAP), ("provider", RowStatus.FAILED)]
)
def test_engine_when_a_row_was_not_fetched_then_the_reason_is_kept(word: str, status: RowStatus) -> None:
    failure = RowFailure("fetch", word, "x")
    outcome = run(lambda _: failure)
    assert outcome.records[0].status is status
    assert outcome.records[0].failure is failure
    assert outcome.vectors == (None,)
    assert outcome.forwards == 0


def test_engine_when_slots_are_not_asked_for_then_they_are_not_answered() -> None:
    outcome = run({1: row(), 3: row()}.get, 5)
    assert outcome.slots == (1, 3)
    assert outcome.forwards == 2  # batches of two


def test_engine_when_preparing_fails_then_the_row_fails_and_keeps_what_is_known() -> None:
    broken = RowInput(
        patch(bands=("B1",), values=np.full((1, 1, 8, 8), np.nan, np.float32)), *list(vars(row()).values())[1:]
    )
    outcome = run({0: broken, 1: row()}.get, 2)
    assert [record.status for record in outcome.records] == [RowStatus.FAILED, RowStatus.OK]
    assert outcome.records[0].n_images == 1
    assert outcome.records[0].failure is not None
    assert outcome.records[0].failure.stage == "infer"


def test_engine_when_frames_are_recorded_then_dates_bounds_and_scenes_are() -> None:
    found = patch(frames=(frame(scene_ids=("b",)), frame(n_images=0), frame(n_images=2, scene_ids=("a", "b"))))
    record = run(lambda _: row(found)).records[0]
    assert record.n_images == 3
    assert record.frame_dates == (YEAR.midpoint, None, YEAR.midpoint)
    assert (record.first_date, record.last_date) == (YEAR.start, YEAR.midpoint)
    assert record.scene_ids == ("a", "b")
