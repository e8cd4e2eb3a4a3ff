"""The benchmarks run; what they measure is read by people, never asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_export_overhead_when_quick_then_every_figure_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/export_overhead.py", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {run["system"] for run in found["runs"]} == {"rsembed", "resume", "per-item/16", "per-item/64"}
    assert all(run["wall s"] > 0 and run["peak MB"] > 0 for run in found["runs"])
    assert all(line["rsembed"] is not None and line["met"] in ("yes", "NO") for line in found["targets"])


def test_throttle_when_quick_then_every_phase_was_served() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/throttle.py", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    phases = json.loads(done.stdout)
    assert [phase["quota"] for phase in phases] == [40, 10, 40]
    assert all(phase["share"] > 0 and 0 <= phase["refused"] < 1 for phase in phases)


def test_inference_when_quick_then_both_speeds_of_every_batch_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.inference", "--quick", "--models", "mosaiks,terramind", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = json.loads(done.stdout)["runs"]
    assert [(run["model"], run["batch"]) for run in found] == [
        (model, batch) for model in ("mosaiks", "terramind") for batch in (1, 2)
    ]
    assert all(run["bare/s"] > 0 and run["row/s"] > 0 and run["peak MB"] > 0 for run in found)


def test_fleet_scale_when_quick_then_rows_went_through_and_nothing_was_changed_by_submitting_again() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/fleet_scale.py", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert not found["submit_again_changed"]
    assert found["rerun_s"]
    assert min(found["ledger_rows_s"], found["end_to_end_rows_s"]) > 0
    assert all(spent["io"] > 0 and spent["cpu"] > 0 for spent in (found["ledger_cpu_ms"], found["end_to_end_cpu_ms"]))


def test_stac_windows_when_quick_then_every_way_was_timed_and_patches_were_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stac_windows", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [run["way"].split(",")[0] for run in found["runs"]] == ["rsembed", "loop", "loop"]
    assert all(run["points_per_s"] > 0 and run["kb_per_point"] > 0 for run in found["runs"])
    own, loop = found["runs"][0], found["runs"][1]
    assert own["searches_per_point"] < loop["searches_per_point"] == 1
    assert own["requests_per_point"] < loop["requests_per_point"]


def test_layouts_when_quick_then_every_layout_wrote_its_files() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.layouts", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    files = {(run["layout"], run["rows"]): run["files"] for run in json.loads(done.stdout)["runs"]}
    assert files["per-item", 10] == files["per-item+inputs", 10] == files["plain per-item+inputs", 10] == 20
    assert files["combined", 10] == files["plain combined+inputs", 10] == 2
