"""What Prometheus reads from the ledger; the dispatcher serves it on ``RSEMBED_METRICS_PORT``.

Names begin with ``rsembed_``. Only runs that have not ended are reported, so that the number of
series does not grow with the ledger. No metric names an output, a row or a secret.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rsembed.core.errors import SpecError
from rsembed.version import __version__
from workers.broker import BrokerAwayError
from workers.ledger.errors import LedgerError
from workers.ledger.records import Measure
from workers.permit_store import throttle_states
from workers.settings import FleetSettings

logger = logging.getLogger(__name__)

PREFIX = "rsembed_"
KEEP_S = 2.0
"""Scrapes closer together than this share one look at the ledger."""

METRICS: Mapping[str, str] = {
    "up": "Whether the ledger answered this scrape",
    "info": "Always 1; the version of the fleet that answers",
    "runs": "Runs that have not ended, by state; blocked ones wait until their cause is mended",
    "units": "Fetch units (stage fetch) and shards (stage embed) of a run, by state",
    "settled_rows_per_second": "Rows with an outcome per second, over the last minute",
    "failed_rows": "Failed rows of a run by error class",
    "oldest_ready_seconds": "Age of the oldest work in a queue that nobody has claimed",
    "losses": "Leases of units still known that went without an outcome",
    "lease_expiries_total": "Leases that ran out because heartbeats stopped",
    "requests_total": "Provider requests of a run",
    "input_bytes_reserved": "Budget of the input store that fetch units hold",
    "output_bytes_total": "Bytes of a run's shards",
    "workers": "Worker processes by kind and state",
    "worker_heartbeat_age_seconds": "Time since a worker was last heard of",
    "worker_idle_seconds": "How long a worker has claimed nothing while work of its queues was ready",
    "worker_degraded": "1 for a model whose queue a worker has left, because it does not work there",
    "throttle_limit": "Requests that may be under way at a time to a provider",
    "throttle_cap": "Hard bound of throttle_limit",
    "throttle_in_flight": "Requests under way to a provider",
    "throttle_decreases_total": "Times a provider's limit was cut",
    "throttle_quota_errors_total": "Answers of a provider that asked to slow down",
    "throttle_restricted": "1 while a provider says that the project is restricted",
}
"""Name without prefix -> help; those that end in ``_total`` are counters, the others gauges."""


class MeasuredLedger(Protocol):
    """What of the ledger is used here."""

    def metrics(self) -> list[Measure]: ...


class LedgerCollector(Collector):
    """Reads the ledger, and the throttles, at each scrape; at most once in `KEEP_S` seconds."""

    def __init__(
        self,
        ledger: MeasuredLedger,
        throttles: Callable[[], Iterable[Measure]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._throttles = throttles
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = -KEEP_S
        self._measures: list[Measure] = []

    def collect(self) -> Iterator[Metric]:
        """One family for each name, its help from `METRICS` (prometheus_client's hook)."""
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for measure in self._current():
            name = PREFIX + measure.name
            labels = dict(sorted(measure.labels.items()))
            family = families.get(name)
            if family is None:
                make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                family = families[name] = make(name, METRICS.get(measure.name, measure.name), labels=list(labels))
            family.add_metric(list(labels.values()), measure.value)
        yield from families.values()

    def _current(self) -> list[Measure]:
        with self._lock:
            if self._clock() - self._read_at >= KEEP_S:
                self._measures = self._read()
                self._read_at = self._clock()
            return self._measures

    def _read(self) -> list[Measure]:
        info = Measure("info", {"version": __version__}, 1)
        try:
            measures = [info, Measure("up", {}, 1), *self._ledger.metrics()]
        except LedgerError as exc:
            logger.warning("not_measured", extra={"error": str(exc)})
            return [info, Measure("up", {}, 0)]
        try:
            measures.extend(self._throttles())
        except BrokerAwayError as exc:
            logger.warning("throttles_not_measured", extra={"error": str(exc)})
        return measures


def throttle_measures(redis_url: str) -> Iterator[Measure]:
    """What is known of each provider's throttle; BrokerAwayError when Redis is away."""
    for key, state in throttle_states(redis_url).items():
        values: Mapping[str, float] = {
            "throttle_limit": state.limit,
            "throttle_cap": state.cap,
            "throttle_in_flight": state.in_flight,
            "throttle_decreases_total": state.decreases,
            "throttle_quota_errors_total": state.quota_errors,
            "throttle_restricted": state.restricted,
        }
        for name, value in values.items():
            yield Measure(name, {"provider": key}, float(value))


@contextlib.contextmanager
def serve_metrics(settings: FleetSettings, ledger: MeasuredLedger) -> Iterator[MetricsServer | None]:
    """Answer Prometheus for the time of the block, where ``settings`` has a port for it.

    SpecError when the port cannot be listened on.
    """
    if not settings.metrics_port:
        yield None
        return
    redis_url = settings.need_redis_url()
    server = MetricsServer(ledger, lambda: throttle_measures(redis_url), settings.metrics_host, settings.metrics_port)
    try:
        yield server
    finally:
        server.close()


class MetricsServer:
    """An HTTP server for Prometheus in threads of its own; `close` ends it."""

    def __init__(
        self, ledger: MeasuredLedger, throttles: Callable[[], Iterable[Measure]], host: str, port: int
    ) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(LedgerCollector(ledger, throttles))
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as exc:
            raise SpecError(f"RSEMBED_METRICS_PORT: {host}:{port} cannot be listened on ({exc}).") from exc
        self.port: int = self._server.server_address[1]
        logger.info("metrics_listen", extra={"host": host, "port": self.port})

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)
