"""Exports into files of items and combined files in real processes that are killed; the files must not tell."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsembed import load_export
from tests.acceptance.null_export import Job

ROOT = Path(__file__).resolve().parents[2]
ROWS = 240
TIMES = ("created_at", "completed_at", "npz_path", "nc_path", "manifest_path", "arrays_file")
"""What tells of when and where, not of what."""


def make_job(folder: Path, layout: str, **changes: object) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    random_places = np.random.default_rng(ROWS)
    columns = {"lon": random_places.uniform(-10, 20, ROWS), "lat": random_places.uniform(40, 55, ROWS)}
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(ROWS)], **columns}), folder / "in.parquet")
    out = folder / "out" / ("run" if layout == "combined" else "")
    job = Job(str(folder / "in.parquet"), str(out), str(folder / "calls"), layout=layout, shard_size=32)
    return replace(job, **changes)


def start(job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.acceptance.null_export", job.argument()]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def complete(job: Job) -> str:
    status, text = finish(start(job))
    assert status == 3, text
    return text


def kill_when(process: subprocess.Popen[str], seen: Callable[[], bool], delay_s: float) -> bool:
    while process.poll() is None and not seen():
        time.sleep(0.002)
    time.sleep(delay_s)
    process.kill()
    finish(process)
    return process.returncode == -signal.SIGKILL


def folder_of(job: Job) -> Path:
    return Path(job.table).parent / "out"


def contents(job: Job) -> dict[str, Any]:
    """Every visible file: arrays as bytes, manifests without times and paths."""
    found: dict[str, Any] = {}
    for path in sorted(folder_of(job).iterdir()):
        if path.suffix == ".json":
            manifest = json.loads(path.read_text())
            found[path.name] = {name: value for name, value in manifest.items() if name not in TIMES}
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def leftovers(job: Job) -> set[str]:
    """What else there is."""
    hidden = {str(path.relative_to(folder_of(job))) for path in folder_of(job).glob("_rsembed/*")}
    scratch = {path.name for path in Path(job.table).parent.iterdir()}
    return (hidden - {"_rsembed/lock", "_rsembed/export.json"}) | (scratch - {"in.parquet", "out", "calls"})


def calls(job: Job) -> Counter[str]:
    path = Path(job.calls)
    return Counter(path.read_text(encoding="utf-8").split() if path.exists() else [])


@pytest.fixture(scope="module", params=["per_item", "combined"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished export that nothing disturbed; some rows failed."""
    job = make_job(tmp_path_factory.mktemp(request.param), request.param)
    complete(job)
    return job


def test_export_when_killed_at_every_border_of_a_commit_then_the_files_are_those_of_an_undisturbed_one(
    tmp_path: Path, undisturbed: Job
) -> None:
    chance = random.Random(7)
    most = 400 if undisturbed.layout == "per_item" else 40
    job = make_job(tmp_path, undisturbed.layout, fsyncs=(*(chance.randint(2, most) for _ in range(12)), 10**9))
    text = complete(job)
    assert text.count("killed") >= (6 if job.layout == "per_item" else 3)
    assert contents(job) == contents(undisturbed)
    assert leftovers(job) == set()


def test_export_when_killed_while_fetching_and_writing_then_little_is_done_twice(
    tmp_path: Path, undisturbed: Job
) -> None:
    job = make_job(tmp_path, undisturbed.layout, latency_s=0.01)
    total = sum(calls(undisturbed).values())
    written = folder_of(job) / "p00100.npz"

    def asked(share: float) -> Callable[[], bool]:
        return lambda: sum(calls(job).values()) >= share * total

    moments: list[tuple[Callable[[], bool], float]] = [(asked(0.3), 0.05), (asked(0.7), 0.0)]
    if job.layout == "per_item":
        moments += [(written.exists, 0.0), ((folder_of(job) / "p00200.npz").exists, 0.01)]
    else:
        moments += [((folder_of(job) / ".run.npz.rsembed" / "tmp" / "arrays" / "loose.bin").exists, 0.03)]
    kills = sum(kill_when(start(job), seen, delay_s) for seen, delay_s in moments)
    assert kills >= 2
    complete(job)
    assert contents(job) == contents(undisturbed)
    assert leftovers(job) == set()
    again = calls(job) - calls(undisturbed)
    lost = sum(n for key, n in again.items() if int(key.partition(",")[0]) % 40 != 2)
    assert lost <= kills * (job.workers + 2 * job.shard_size)


def test_export_when_rows_failed_then_the_same_call_in_another_process_tries_just_those(
    tmp_path: Path, undisturbed: Job
) -> None:
    job = make_job(tmp_path, undisturbed.layout)
    complete(job)
    before = calls(job)
    mended = replace(job, fault=False)
    status, text = finish(start(mended))
    assert status == 3, text  # some have no imagery, and one model fails on some
    again = calls(mended) - before
    assert again
    tried = {int(key.partition(",")[0]) for key in again}
    opened = Path(job.out) if job.layout == "per_item" else folder_of(job) / "run.npz"
    run = load_export(opened)
    assert run.n_items == ROWS
    assert all(seed % 40 == 2 for seed in tried) or len(again) < ROWS / 4
    assert run.models["plain"].counts.get("failed", 0) == 0


def test_export_when_two_start_at_once_then_one_works_and_the_other_says_why(tmp_path: Path, undisturbed: Job) -> None:
    job = make_job(tmp_path, undisturbed.layout, latency_s=0.03)
    ended = sorted(finish(process) for process in [start(job), start(job)])
    assert [status for status, _ in ended] == [1, 3]
    assert "another process is exporting" in ended[0][1]
    assert contents(job) == contents(undisturbed)


@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_export_when_the_disk_is_full_then_it_says_so_and_resumes_later(
    tmp_path: Path, undisturbed: Job, limit: int
) -> None:
    job = make_job(tmp_path, undisturbed.layout)
    status, text = finish(start(replace(job, file_limit=limit)))
    assert status == 1, text
    assert "ExportError" in text
    assert "run the same command again" in text
    assert "Traceback" not in text
    complete(job)
    assert contents(job) == contents(undisturbed)
