"""The small chaos: everything is killed, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAOS = "--rows 1000 --kills 10 --lease 2 --every 1.5 --shard-size 64 --deadline 500 --json"


@pytest.mark.timeout(900)
def test_fleet_when_everything_is_killed_then_its_bytes_are_those_of_a_calm_export() -> None:
    command = [sys.executable, "benchmarks/chaos.py", *CHAOS.split()]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["kills"] >= 10
    assert report["redis_flushes"] >= 1
    assert report["retried_rows"] > 0
