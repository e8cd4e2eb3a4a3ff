"""A broker in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workers.broker import BrokerAwayError
from workers.ticket import Ticket


class Broker:
    """Queues in memory, as `Sender` and `Lengths`."""

    def __init__(self, **queued: int) -> None:
        self.tickets: dict[str, list[Ticket]] = {
            name.replace("__", "."): [Ticket("old")] * count for name, count in queued.items()
        }
        self.away = False
        self.asked: list[tuple[str, ...]] = []

    def lengths(self, queues: Iterable[str]) -> Mapping[str, int]:
        if self.away:
            raise BrokerAwayError("away")
        self.asked.append(tuple(queues))
        return {queue: len(self.tickets.get(queue, ())) for queue in queues}

    def send(self, queue: str, tickets: Iterable[Ticket]) -> int:
        new = list(tickets)
        self.tickets.setdefault(queue, []).extend(new)
        return len(new)

    def close(self) -> None: ...
