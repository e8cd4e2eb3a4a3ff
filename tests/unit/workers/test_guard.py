from __future__ import annotations

from collections.abc import Iterable, Mapping

from workers.broker import BrokerAwayError
from workers.guard import EXIT_DEAF, ConsumerGuard


class Consumer:
    """A listener and the broker it listens to."""

    def __init__(self, *, tickets: int = 0, idle_s: float = 1000.0, away: bool = False) -> None:
        self.tickets, self.idle, self.away = tickets, idle_s, away
        self.left: list[int] = []

    def idle_s(self) -> float:
        return self.idle

    def listening(self) -> tuple[str, ...]:
        return ("io",)

    def lengths(self, queues: Iterable[str]) -> Mapping[str, int]:
        if self.away:
            raise BrokerAwayError("away")
        return dict.fromkeys(queues, self.tickets)

    def look(self, times: int) -> ConsumerGuard:
        guard = ConsumerGuard(self, self, leave=self.left.append, patience_s=45.0)
        for _ in range(times):
            guard.look()
        return guard


def test_guard_when_tickets_wait_and_nothing_is_done_then_it_leaves_after_its_patience() -> None:
    consumer = Consumer(tickets=1)
    guard = consumer.look(9)
    assert consumer.left == []
    guard.look()
    assert consumer.left == [EXIT_DEAF]


def test_guard_when_there_are_no_tickets_then_idleness_is_fine() -> None:
    consumer = Consumer()
    consumer.look(50)
    assert consumer.left == []


def test_guard_when_a_task_runs_then_waiting_tickets_are_fine() -> None:
    consumer = Consumer(tickets=200, idle_s=0.0)
    consumer.look(50)
    assert consumer.left == []


def test_guard_when_a_ticket_is_taken_in_between_then_it_starts_over() -> None:
    consumer = Consumer(tickets=1)
    guard = consumer.look(9)
    consumer.idle = 0.1
    guard.look()
    consumer.idle = 1000.0
    for _ in range(9):
        guard.look()
    assert consumer.left == []


def test_guard_when_the_broker_is_away_then_it_says_nothing_about_the_consumer() -> None:
    consumer = Consumer(tickets=1, away=True)
    consumer.look(50)
    assert consumer.left == []
