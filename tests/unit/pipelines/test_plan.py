from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.errors import ExportError, ModelError, UnknownModelError
from rsembed.core.settings import Settings
from rsembed.core.specs import Window
from rsembed.embedders.registry import REGISTRY
from rsembed.pipelines.plan import RunPlan, fingerprint, request_key, sharing_report
from rsembed.pipelines.request import ExportModelRequest
from rsembed.testing.null import NullEmbedder
from rsembed.version import __version__
from tests.builders import by_id, places, row_table, run_export, run_plan

ROOT = Path(__file__).resolve().parents[3]
SINGLE, MULTI = (
    ExportModelRequest("null", modality="single", label="one"),
    ExportModelRequest("null", modality="multi", label="many"),
)


def name_of(plan: RunPlan, rows: str = "rows") -> str:
    return fingerprint(plan.describe(), rows)


def test_plan_when_recipes_are_equal_then_one_fetch_of_all_bands() -> None:
    plan = run_plan("null", "null-wide", "null@again")
    (group,) = plan.groups
    assert group.bands == ("B1", "B2")
    assert [model.label for model in group.models] == ["null", "null-wide", "again"]
    assert plan.models[1].bands == ("B2", "B1")


def test_plan_when_temporal_modes_differ_then_never_one_fetch() -> None:
    plan = run_plan(SINGLE, MULTI)
    assert [[model.label for model in group.models] for group in plan.groups] == [["one"], ["many"]]
    assert sharing_report(plan.groups) == [
        (
            "one and many cannot share a fetch: they differ in frames "
            "(one composite of the window / one per 28 days, at most 3)"
        )
    ]


def test_sharing_report_when_there_is_one_group_then_nothing_is_said() -> None:
    assert sharing_report(run_plan("null", "null-wide").groups) == []


def test_export_when_modes_differ_then_together_equals_alone(tmp_path: Path) -> None:
    run_export(tmp_path / "both", places(7), SINGLE, MULTI)
    for model in (SINGLE, MULTI):
        label = str(model.label)
        run_export(tmp_path / label, places(7), model)
        together, alone = by_id(tmp_path / "both", label), by_id(tmp_path / label, label)
        assert together == alone
    one, many = by_id(tmp_path / "both", "one"), by_id(tmp_path / "both", "many")
    assert len(one["p0"]["frame_dates"]) == 1
    assert len(many["p0"]["frame_dates"]) == 3
    assert one["p0"]["embedding"] != many["p0"]["embedding"]


def test_plan_when_footprints_differ_then_the_largest_is_fetched_and_the_others_are_its_middle(tmp_path: Path) -> None:
    plan = run_plan("null", "null-wide")
    (group,) = plan.groups
    shard = row_table(places(3), tmp_path).shard(0, 5)
    sides = [int(group.asked_pixels(shard, model, None)[0][0]) for model in plan.models]
    assert sides == [8, 16]
    small, large = (group.grids(shard, side, side)[0] for side in sides)
    assert large.centre_crop(8, 8) == small


def test_plan_when_labels_are_equal_then_refused_with_how_to_name_them() -> None:
    with pytest.raises(ModelError, match=r"label 'null' stands for 2 models;.*@LABEL"):
        run_plan("null", "null:poison=4")


@pytest.mark.parametrize("label", ["../../x", "/etc", "a/b", "..", "report.json", "a.npz", "a.zarr"])
def test_plan_when_a_label_could_leave_the_output_then_refused(label: str) -> None:
    with pytest.raises(ExportError, match="cannot name a folder"):
        run_plan(ExportModelRequest("null", label=label))


def test_plan_when_the_model_or_its_option_is_unknown_then_refused() -> None:
    with pytest.raises(UnknownModelError, match="did you mean null"):
        run_plan("nul")
    with pytest.raises(ModelError, match="no option 'poisson'; did you mean poison"):
        run_plan("null:poisson=1")


def test_plan_when_a_gpu_is_asked_of_a_cpu_model_then_refused() -> None:
    with pytest.raises(ModelError, match="CPU only"):
        run_plan(device="cuda")


def test_plan_when_batch_size_is_left_out_then_it_is_the_cards() -> None:
    assert run_plan(batch_size=None).models[0].batch_size == 32
    assert run_plan(batch_size=3).models[0].batch_size == 3


def test_plan_when_commercial_use_is_required_then_other_licences_are_refused() -> None:
    strict = Settings(require_commercial=True)
    assert run_plan("null", settings=strict).models
    found = next(name for name in REGISTRY.names() if REGISTRY.get(name).card.licence.commercial != "yes")
    with pytest.raises(ModelError, match="RSEMBED_REQUIRE_COMMERCIAL"):
        run_plan(found, settings=strict)


def test_fingerprint_when_made_in_another_process_then_it_is_the_same() -> None:
    code = (
        "from tests.builders import run_plan; from rsembed.pipelines.plan import fingerprint;"
        "print(fingerprint(run_plan('null', 'null:poison=3@b', buffer_m=120.5).describe(), 'rows'))"
    )
    here = name_of(run_plan("null", "null:poison=3@b", buffer_m=120.5))
    environ = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == here


def test_fingerprint_when_what_the_result_depends_on_changes_then_it_changes() -> None:
    base = run_plan()
    others = [
        run_plan("null:poison=3"), run_plan("null@other"), run_plan("null", "null@second"),
        run_plan("null:modality=multi"),
        run_plan(batch_size=3), run_plan(shard_size=6), run_plan(threads=2), run_plan(buffer_m=80.0),
        run_plan(dtype="float16"),
        run_plan(context="none"), run_plan(min_valid_fraction=0.4), run_plan(shards_per_part=3),
    ]  # fmt: skip
    names = [name_of(base), name_of(base, "other rows"), *map(name_of, others)]
    assert len(set(names)) == len(names)


def test_fingerprint_when_only_the_manner_changes_then_it_does_not() -> None:
    for changes in ({"fetch_workers": 1}, {"max_attempts": 9}, {"keep_inputs": True}, {"show_progress": False}):
        assert name_of(run_plan(**changes)) == name_of(run_plan())
    assert __version__ not in str(run_plan().describe())


def test_fingerprint_when_the_models_numbers_change_then_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name_of(run_plan())
    monkeypatch.setattr(NullEmbedder, "card", replace(NullEmbedder.card, numerics_version=2))
    assert name_of(run_plan()) != before


def test_request_key_when_place_or_time_differ_then_it_differs() -> None:
    place, year = (32631, 480_000.0, 4_700_000.0, 8, 8), (Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1)),)
    june = (Window(dt.date(2022, 6, 1), dt.date(2022, 7, 1)),)
    keys = {
        request_key("d", place, year), request_key("e", place, year), request_key("d", place, june),
        request_key("d", (32631, 480_020.0, *place[2:]), year), request_key("d", (*place[:3], 10, 8), year),
        request_key("d", (32632, *place[1:]), year),
    }  # fmt: skip
    assert len(keys) == 6


def test_asked_pixels_when_rows_are_boxes_then_their_own_size_else_the_buffers(tmp_path: Path) -> None:
    plan = run_plan(buffer_m=100.0)
    table = row_table([(2.0, 42.0)], tmp_path)
    height, width = plan.groups[0].asked_pixels(table.shard(0, 5), plan.models[0], 100.0)
    assert (height.tolist(), width.tolist()) == ([20], [20])
    assert height.dtype == np.int64
