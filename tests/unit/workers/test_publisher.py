from __future__ import annotations

import pytest

from tests.unit.workers.broker_parts import Broker
from workers.broker import BrokerAwayError
from workers.publisher import Publisher
from workers.ticket import Ticket


def test_top_up_when_little_is_ready_then_a_ticket_for_each() -> None:
    broker = Broker()
    assert Publisher(broker, broker, bound=10).top_up({"io": 3, "gpu.alpha": 2}) == 5
    assert broker.tickets == {"io": [Ticket("fetch")] * 3, "gpu.alpha": [Ticket("embed", model="alpha")] * 2}


def test_top_up_when_millions_are_ready_then_a_queue_never_exceeds_its_bound() -> None:
    broker = Broker()
    publisher = Publisher(broker, broker, bound=10)
    for _ in range(5):
        publisher.top_up({"io": 10_000_000})
    assert len(broker.tickets["io"]) == 10


def test_top_up_when_tickets_lie_there_already_then_only_what_is_missing_is_sent() -> None:
    broker = Broker(io=2, gpu__alpha=9)
    assert Publisher(broker, broker, bound=10).top_up({"io": 3, "gpu.alpha": 4}) == 1
    assert len(broker.tickets["io"]) == 3


def test_top_up_when_nothing_is_ready_then_the_broker_is_not_asked() -> None:
    broker = Broker()
    assert Publisher(broker, broker).top_up({"io": 0}) == 0
    assert broker.asked == []


def test_top_up_when_the_broker_is_away_then_it_says_so() -> None:
    broker = Broker()
    broker.away = True
    with pytest.raises(BrokerAwayError):
        Publisher(broker, broker).top_up({"io": 1})
