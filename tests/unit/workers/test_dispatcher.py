from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tests.unit.workers.broker_parts import Broker
from tests.unit.workers.process_parts import Clock
from workers.dispatcher import CLEAN_S, Dispatcher, Dispatching
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import Expired, HeartbeatAnswer, WorkerInfo
from workers.publisher import Publisher
from workers.settings import FleetSettings
from workers.ticket import Ticket

SETTINGS = FleetSettings(inputs_budget_bytes=1000, lease_s=20.0, sweep_s=2.0, heartbeat_s=0.01, probe_s=60.0)


class Leader:
    """A leadership that writes down what is asked of it. ``away_at``: the step that loses the connection."""

    def __init__(self, ready: Mapping[str, int] | None = None) -> None:
        self.now_ready = dict(ready or {})
        self.calls: list[str] = []
        self.away_at = ""
        self.closed = False

    def _called(self, text: str) -> None:
        self.calls.append(text)
        if text.split(maxsplit=1)[0] == self.away_at:
            raise LedgerUnavailableError("away")

    def times(self, name: str) -> int:
        return sum(call.split()[0] == name for call in self.calls)

    def sweep(self, grace_s: float) -> Expired:
        self._called(f"sweep {grace_s}")
        return Expired()

    def audit(self) -> int:
        self._called("audit")
        return 0

    def ready(self) -> Mapping[str, int]:
        self._called("ready")
        return self.now_ready

    def admit(self, budget_bytes: int, per_run_ahead: int, served_models: Sequence[str] | None = None) -> int:
        self._called(f"admit {budget_bytes} {served_models}")
        return 0

    def served_models(self) -> list[str]:
        self._called("served_models")
        return ["alpha"]

    def block_hopeless(self) -> list[int]:
        self._called("block_hopeless")
        return []

    def block_unserved(self) -> list[int]:
        self._called("block_unserved")
        return []

    def unblock_due(self, probe_s: float) -> list[int]:
        self._called(f"unblock_due {probe_s}")
        return []

    def pause_spent(self) -> list[int]:
        self._called("pause_spent")
        return []

    def compact(self) -> int:
        self._called("compact")
        return 0

    def close(self) -> None:
        self.closed = True


def dispatcher(lead: Leader, broker: Broker, clock: Clock) -> Dispatcher:
    return Dispatcher(lead, Publisher(broker, broker, bound=10), SETTINGS, clock=clock)


# One step


def test_step_when_it_is_the_first_then_everything_is_looked_at_once() -> None:
    lead, broker = Leader(), Broker()
    dispatcher(lead, broker, Clock()).step()
    assert sorted(lead.calls) == [
        "admit 1000 ['alpha']", "audit", "block_hopeless", "block_unserved", "compact", "pause_spent", "ready",
        "served_models", "sweep 20.0", "unblock_due 60.0",
    ]  # fmt: skip


def test_step_when_repeated_at_once_then_only_tickets_and_admission_are_looked_at() -> None:
    lead, broker = Leader(), Broker()
    loop = dispatcher(lead, broker, Clock())
    loop.step()
    lead.calls.clear()
    loop.step()
    assert lead.calls == ["admit 1000 ['alpha']", "ready"]


def test_step_when_an_autoscaler_serves_a_model_then_its_units_are_admitted_without_a_worker() -> None:
    lead, broker = Leader(), Broker()
    settings = replace(SETTINGS, autoscaled_models=("beta",))
    Dispatcher(lead, Publisher(broker, broker, bound=10), settings, clock=Clock()).step()
    assert "admit 1000 ['alpha', 'beta']" in lead.calls


def test_step_when_a_sweep_time_has_passed_then_leases_are_swept_again() -> None:
    lead, broker, clock = Leader(), Broker(), Clock()
    loop = dispatcher(lead, broker, clock)
    for _ in range(5):
        loop.step()
        clock.forward(1.0)
    assert lead.times("sweep") == 3


def test_step_when_work_is_ready_then_tickets_are_sent_and_it_says_busy() -> None:
    lead, broker = Leader({"io": 3, "control": 1}), Broker()
    loop = dispatcher(lead, broker, Clock())
    assert loop.step()
    assert broker.tickets["io"] == [Ticket("fetch")] * 3
    lead.now_ready = {}
    assert not loop.step()


def test_step_when_inputs_may_be_cleaned_then_a_control_ticket_is_sent_now_and_then() -> None:
    lead, broker, clock = Leader(), Broker(), Clock()
    loop = dispatcher(lead, broker, clock)
    loop.step()
    loop.step()
    assert broker.tickets == {"control": [Ticket("finish")]}
    broker.tickets.clear()
    clock.forward(CLEAN_S)
    loop.step()
    assert broker.tickets == {"control": [Ticket("finish")]}


def test_step_when_the_broker_is_away_then_the_ledger_is_still_looked_after() -> None:
    lead, broker, clock = Leader({"io": 1}), Broker(), Clock()
    loop = dispatcher(lead, broker, clock)
    broker.away = True
    for _ in range(4):
        loop.step()
        clock.forward(2.0)
    assert lead.times("sweep") == 4
    broker.away = False
    loop.step()
    assert broker.tickets["io"] == [Ticket("fetch")]


# A life


class OneLedger:
    """Gives out leaderships one after the other; None: another process leads."""

    def __init__(self, *leads: Leader | None) -> None:
        self.leads = list(leads)
        self.registered: list[WorkerInfo] = []
        self.retired: list[str] = []
        self.known = True

    def lead(self) -> Leader | None:
        if not self.leads:
            raise LedgerUnavailableError("away")
        return self.leads.pop(0)

    def register(self, worker: WorkerInfo) -> None:
        self.registered.append(worker)

    def heartbeat(
        self, worker_id: str, tokens: Sequence[str], *, lease_s: float, rss_bytes: int, claims: int
    ) -> HeartbeatAnswer:
        return HeartbeatAnswer(frozenset(), {}, draining=False, known=self.known)

    def retire(self, worker_id: str) -> None:
        self.retired.append(worker_id)


def live(ledger: OneLedger, *, until: Callable[[], object]) -> Dispatching:
    """A dispatcher's life until something is true, or 5 s."""
    broker, stop = Broker(), threading.Event()
    settings = replace(SETTINGS, sweep_s=0.01)
    dispatching = Dispatching(ledger, Publisher(broker, broker), settings, stop, retry_s=0.02)
    life = threading.Thread(target=dispatching.run)
    life.start()
    end = time.monotonic() + 5
    while not until() and time.monotonic() < end:
        time.sleep(0.002)
    stop.set()
    life.join(5)
    assert not life.is_alive()
    return dispatching


def test_dispatcher_when_another_leads_then_it_waits_and_takes_over() -> None:
    lead = Leader()
    live(OneLedger(None, lead), until=lambda: lead.times("ready"))
    assert lead.times("ready") >= 1


def test_dispatcher_when_its_connection_is_lost_then_it_leads_anew_with_nothing_remembered() -> None:
    first, second = Leader(), Leader()
    first.away_at = "ready"
    live(OneLedger(first, second), until=lambda: second.times("ready"))
    assert first.closed
    assert first.times("ready") == 1
    assert second.calls[0] == "sweep 20.0"


def test_dispatcher_when_told_to_stop_then_it_gives_up_the_lead() -> None:
    lead = Leader()
    live(OneLedger(lead), until=lambda: lead.times("ready"))
    assert lead.closed


def test_dispatcher_when_it_lives_then_it_is_known_among_the_workers_and_signs_off() -> None:
    ledger, lead = OneLedger(), Leader()
    ledger.leads.append(lead)
    dispatching = live(ledger, until=lambda: lead.times("ready"))
    dispatching.retire()
    (info,) = ledger.registered
    assert info.kind == "dispatcher"
    assert ledger.retired == [info.id]


def test_dispatcher_when_the_ledger_has_forgotten_it_then_it_registers_again() -> None:
    ledger = OneLedger(Leader())
    ledger.known = False
    live(ledger, until=lambda: len(ledger.registered) >= 2)
    assert len(ledger.registered) >= 2
