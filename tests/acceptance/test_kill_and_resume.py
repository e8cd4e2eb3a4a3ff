"""Real exports in real processes that are killed, interrupted and starved; the bytes must not tell."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.null_export import Job

ROOT = Path(__file__).resolve().parents[2]
EXEMPT = ("report.json", "_state")
ROWS, FEW_ROWS = 1600, 320


def start(job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.acceptance.null_export", job.argument()]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and everything printed."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def complete(job: Job) -> str:
    """Run ``job`` to its end."""
    status, text = finish(start(job))
    assert status == (3 if job.fault else 0), text
    return text


def kill_when(process: subprocess.Popen[str], seen: Callable[[], bool], delay_s: float) -> bool:
    """SIGKILL ``delay_s`` after ``seen``; False when the process ended before."""
    while process.poll() is None and not seen():
        time.sleep(0.002)
    time.sleep(delay_s)
    process.kill()
    finish(process)
    return process.returncode == -signal.SIGKILL


def contents(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file of a run (folders: ``folder``), but for what may differ."""
    found = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in found
        if path.relative_to(folder).parts[0] not in EXEMPT
    }


def calls(job: Job) -> Counter[str]:
    """Answered provider requests."""
    path = Path(job.calls)
    return Counter(path.read_text(encoding="utf-8").split() if path.exists() else [])


def repeated(job: Job, undisturbed: Job) -> int:
    """Requests that ``job`` made more often than ``undisturbed``, for rows that do not fail (those are retried)."""
    more = calls(job) - calls(undisturbed)
    return sum(n for key, n in more.items() if int(key.partition(",")[0]) % 40 != 2)


def make_job(folder: Path, rows: int, **changes: object) -> Job:
    """A job on ``rows`` seeded places, with its files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    random_places = np.random.default_rng(rows)
    columns = {"lon": random_places.uniform(-10, 20, rows), "lat": random_places.uniform(40, 55, rows)}
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(rows)], **columns}), folder / "in.parquet")
    job = Job(str(folder / "in.parquet"), str(folder / "out"), str(folder / "calls"))
    return replace(job, **changes)


def assert_same(job: Job, undisturbed: Job) -> None:
    assert contents(Path(job.out)) == contents(Path(undisturbed.out))
    left = {path.name for path in Path(job.out).parent.iterdir()}
    assert left <= {"in.parquet", "out", "calls"}, "scratch files stay behind"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run of 1,600 rows that nothing disturbed."""
    job = make_job(tmp_path_factory.mktemp("many"), ROWS)
    complete(job)
    return job


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same of 320 rows."""
    job = make_job(tmp_path_factory.mktemp("few"), FEW_ROWS)
    complete(job)
    return job


@pytest.fixture(scope="module")
def few_faultless(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """320 rows of which none fails at the provider."""
    job = make_job(tmp_path_factory.mktemp("faultless"), FEW_ROWS)
    faultless = replace(job, fault=False)
    status, text = finish(start(faultless))
    assert status in (0, 3), text
    return faultless


def test_export_when_killed_ten_times_then_bytes_equal_an_undisturbed_run(tmp_path: Path, many: Job) -> None:
    job = make_job(tmp_path, ROWS, latency_s=0.004)
    out = Path(job.out)
    chance = random.Random(20)
    total = sum(calls(many).values())

    def asked(share: float) -> Callable[[], bool]:
        return lambda: sum(calls(job).values()) >= share * total

    def parts(count: int) -> Callable[[], bool]:
        return lambda: len(list(out.glob("*/part-*.parquet"))) >= count

    moments: list[tuple[Callable[[], bool], float]] = [
        (lambda: any(tmp_path.glob(".rsembed-rows-*")), 0.02),
        ((out / "_run.json").exists, 0.1),
        *((asked(share), chance.uniform(0, 0.1)) for share in (0.15, 0.35, 0.6, 0.9)),
        (parts(1), chance.uniform(0, 0.01)),
        (parts(9), chance.uniform(0, 0.01)),
        ((out / "parts.parquet").exists, chance.uniform(0, 0.01)),
        ((out / "plain.npz").exists, chance.uniform(0, 0.01)),
        ((out / "manifest.json").exists, 0.0),
    ]
    kills = sum(kill_when(start(job), seen, delay_s) for seen, delay_s in moments)
    assert kills >= 9
    complete(job)
    assert_same(job, many)
    # What a kill may lose: requests in flight, and inputs not handed over yet (at most those of two open units).
    assert repeated(job, many) <= kills * (job.workers + 2 * job.shard_size)


def test_export_when_killed_at_every_border_of_a_commit_then_bytes_equal_an_undisturbed_run(
    tmp_path: Path, few: Job
) -> None:
    chance = random.Random(5)
    job = make_job(tmp_path, FEW_ROWS, fsyncs=(*(chance.randint(2, 14) for _ in range(14)), 10**9))
    text = complete(job)
    assert text.count("killed") >= 8
    assert_same(job, few)


def test_export_when_killed_within_a_shard_then_its_inputs_are_not_fetched_again(tmp_path: Path) -> None:
    job = make_job(tmp_path, 600, latency_s=0.02, shard_size=600)
    assert kill_when(start(job), lambda: sum(calls(job).values()) >= 450, 0.0)
    known = calls(job)
    complete(job)
    # In flight, or answered in the tenth of a second since records were last handed to the system.
    again = sum((calls(job) - Counter(dict.fromkeys(calls(job), 1))).values())
    assert sum(known.values()) >= 450
    assert again <= 120


def test_export_when_interrupted_then_it_ends_at_once_and_resumes(tmp_path: Path, few: Job) -> None:
    job = make_job(tmp_path, FEW_ROWS, latency_s=0.01)
    stuck = replace(job, latency_s=120.0)
    assert kill_when(start(job), lambda: sum(calls(job).values()) >= 250, 0.0)
    process = start(stuck)
    assert process.stdout is not None
    process.stdout.readline()
    while not any((Path(job.out) / "_inputs").rglob("*.pack")):
        time.sleep(0.01)
    time.sleep(0.7)
    # As people do who see nothing happen: a library that is being imported may take the first one for itself.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)
    status, text = finish(process)  # far sooner than the requests in flight
    assert status == -signal.SIGINT, text
    assert "KeyboardInterrupt" in text
    complete(job)
    assert_same(job, few)


@pytest.mark.parametrize("limit", [4_000, 30_000, 60_000])
def test_export_when_the_disk_is_full_then_it_says_so_and_resumes_later(tmp_path: Path, few: Job, limit: int) -> None:
    job = make_job(tmp_path, FEW_ROWS)
    status, text = finish(start(replace(job, file_limit=limit)))
    assert status == 1
    assert "ExportError" in text
    assert "File too large" in text
    assert "run the same command again" in text
    assert "Traceback" not in text
    complete(job)
    assert_same(job, few)


def test_retry_when_killed_then_resume_equals_a_run_without_faults(tmp_path: Path, few_faultless: Job) -> None:
    broken = make_job(tmp_path, FEW_ROWS)
    complete(broken)
    mended = replace(broken, fault=False)
    manifest, report = Path(mended.out) / "manifest.json", Path(mended.out) / "report.json"
    report.unlink()
    kills = [
        kill_when(start(mended), lambda: not manifest.exists(), 0.02),
        kill_when(start(mended), lambda: any(Path(mended.out).glob("*/_shards/*")), 0.05),
        kill_when(start(mended), report.exists, 0.0),
    ]
    assert any(kills)
    status, text = finish(start(mended))
    assert status in (0, 3), text
    assert_same(mended, few_faultless)


def test_export_when_two_start_at_once_then_one_works_and_the_other_says_why(tmp_path: Path, few: Job) -> None:
    job = make_job(tmp_path, FEW_ROWS, latency_s=0.03)
    ended = sorted(finish(process) for process in [start(job), start(job)])
    assert [status for status, _ in ended] == [1, 3]
    assert "another process is exporting" in ended[0][1]
    assert "Traceback" not in ended[0][1]
    assert_same(job, few)
