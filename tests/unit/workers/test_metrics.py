"""What Prometheus is told, from a ledger that is made up."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rsembed.core.errors import SpecError
from workers.broker import BrokerAwayError
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import Measure
from workers.metrics import KEEP_S, LedgerCollector, MetricsServer, serve_metrics
from workers.settings import FleetSettings


class MadeUpLedger:
    def __init__(self, *measures: Measure, error: Exception | None = None) -> None:
        self.measures = list(measures)
        self.error = error
        self.asked = 0

    def metrics(self) -> list[Measure]:
        self.asked += 1
        if self.error:
            raise self.error
        return self.measures


def no_throttles() -> list[Measure]:
    return []


def values(collector: LedgerCollector) -> dict[str, float]:
    """Sample name with labels -> value."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sample.labels.items()): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def test_metrics_when_the_ledger_answers_then_each_measure_is_a_sample() -> None:
    ledger = MadeUpLedger(
        Measure("units", {"run": "1", "stage": "embed", "label": "null", "state": "ready"}, 7),
        Measure("units", {"run": "1", "stage": "embed", "label": "null", "state": "done"}, 3),
        Measure("requests_total", {"run": "1"}, 2),
    )
    found = values(LedgerCollector(ledger, no_throttles))
    assert found["rsembed_up"] == 1
    assert found["rsembed_units label=null run=1 stage=embed state=ready"] == 7
    assert found["rsembed_units label=null run=1 stage=embed state=done"] == 3
    assert found["rsembed_requests_total run=1"] == 2


def test_metrics_when_the_ledger_is_away_then_only_that_is_told() -> None:
    found = values(LedgerCollector(MadeUpLedger(error=LedgerUnavailableError("gone")), no_throttles))
    assert found.pop("rsembed_up") == 0
    assert [name.split()[0] for name in found] == ["rsembed_info"]


def test_metrics_when_the_broker_is_away_then_the_ledger_s_are_still_told() -> None:
    def away() -> list[Measure]:
        raise BrokerAwayError("gone")

    found = values(LedgerCollector(MadeUpLedger(Measure("requests_total", {"run": "1"}, 2)), away))
    assert found["rsembed_requests_total run=1"] == 2


def test_metrics_when_scraped_twice_at_once_then_the_ledger_is_asked_once() -> None:
    now = 0.0
    ledger = MadeUpLedger()
    collector = LedgerCollector(ledger, no_throttles, clock=lambda: now)
    values(collector)
    values(collector)
    assert ledger.asked == 1
    now = KEEP_S
    values(collector)
    assert ledger.asked == 2


def test_metrics_when_served_then_prometheus_can_read_them() -> None:
    server = MetricsServer(MadeUpLedger(Measure("requests_total", {"run": "1"}, 2)), no_throttles, "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    finally:
        server.close()
    assert families["rsembed_requests"].type == "counter"
    assert families["rsembed_up"].samples[0].value == 1


def test_metrics_when_the_port_is_taken_then_the_error_names_the_variable() -> None:
    server = MetricsServer(MadeUpLedger(), no_throttles, "127.0.0.1", 0)
    try:
        with pytest.raises(SpecError, match="RSEMBED_METRICS_PORT"):
            MetricsServer(MadeUpLedger(), no_throttles, "127.0.0.1", server.port)
    finally:
        server.close()


def test_metrics_when_no_port_is_set_then_nothing_listens() -> None:
    with serve_metrics(FleetSettings(), MadeUpLedger()) as server:
        assert server is None
