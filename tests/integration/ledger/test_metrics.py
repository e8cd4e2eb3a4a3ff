"""What Prometheus and KEDA read, from a real ledger and a real Redis."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ledger_parts import admit_all, claim_shard, claim_unit, execute, fetch_all, load, outcomes, worker
from workers.ledger.records import ModelEntry
from workers.ledger.repository import Ledger
from workers.metrics import METRICS, LedgerCollector, throttle_measures
from workers.permits import RedisThrottle
from workers.servers import EmbeddedRedis

MANIFESTS = Path(__file__).resolve().parents[3] / "docker" / "k8s"


def manifest_query(name: str) -> str:
    """The statement by which KEDA scales a Deployment."""
    found: list[dict[str, Any]] = list(yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8")))
    (scaled,) = [item for item in found if item["kind"] == "ScaledObject"]
    query: str = scaled["spec"]["triggers"][0]["metadata"]["query"]
    return query


def count(url: str, query: str) -> int:
    ((value,),) = execute(url, query)
    assert isinstance(value, int)
    return value


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("metrics") / "redis")
    yield server.start()
    server.remove()


def test_metrics_when_read_from_a_ledger_at_work_then_every_name_has_its_help(ledger: Ledger) -> None:
    run = load(ledger, 40)
    worker(ledger)
    admit_all(ledger)
    unit = claim_unit(ledger)
    assert unit is not None
    ledger.settle_rows(unit.token, outcomes(unit, failed=[0]), requests=10, stored_bytes=500)
    fetch_all(ledger)
    names = {measure.name for measure in ledger.metrics()}
    assert {"runs", "units", "failed_rows", "workers", "oldest_ready_seconds", "requests_total"} <= names
    assert names <= set(METRICS)
    samples = [s for family in LedgerCollector(ledger, list).collect() for s in family.samples]
    assert {s.labels["run"] for s in samples if "run" in s.labels} == {str(run.id)}


def test_metrics_when_a_throttle_is_in_use_then_its_state_is_told(redis_url: str) -> None:
    throttle = RedisThrottle(redis_url, "null:x", cap=8, per_s=None, lease_s=0.5)
    try:
        with throttle.acquire(threading.Event()):
            found = {measure.name: measure for measure in throttle_measures(redis_url)}
        assert set(found) <= set(METRICS)
        assert found["throttle_limit"].labels == {"provider": "null:x"}
        assert (found["throttle_cap"].value, found["throttle_in_flight"].value) == (8, 1)
    finally:
        throttle.close()


def test_scaling_of_io_when_units_are_admitted_then_they_are_counted_until_done(
    ledger: Ledger, ledger_url: str
) -> None:
    query = manifest_query("io.yaml")
    run = load(ledger, 40)
    assert count(ledger_url, query) == 0
    admit_all(ledger)
    assert count(ledger_url, query) == 8
    assert claim_unit(ledger) is not None
    assert count(ledger_url, query) == 8
    ledger.pause(run.id, "a test", "tester")
    assert count(ledger_url, query) == 0
    ledger.resume(run.id, "tester")
    fetch_all(ledger)
    assert count(ledger_url, query) == 1  # the one in hand


def test_scaling_of_gpus_when_shards_are_ready_then_those_of_the_model_are_counted(
    ledger: Ledger, ledger_url: str
) -> None:
    query = manifest_query("gpu-prithvi.yaml")
    (queue,) = re.findall(r"'(gpu\.[^']+)'", query)
    model = queue.removeprefix("gpu.")
    load(ledger, 40, models=(
        ModelEntry(0, "mine", model, 0, queue, "cuda"),
        ModelEntry(1, "other", "beta", 0, "gpu.beta", "cuda"),
        ModelEntry(2, "slow", model, 1, queue, "cpu"),
    ))  # fmt: skip
    assert count(ledger_url, query) == 0
    admit_all(ledger)
    fetch_all(ledger)
    assert count(ledger_url, query) == 4
    assert claim_shard(ledger, models=[model], device_class="cuda") is not None
    assert count(ledger_url, query) == 4  # leased work counts: nobody is taken away from it
