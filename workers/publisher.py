"""Keeps a bounded number of tickets in each queue: enough to wake workers, whatever is pending."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from workers.broker import ERRORS, BrokerAwayError, connect_redis
from workers.queues import model_of, stage_of
from workers.ticket import Ticket

TICKETS_PER_QUEUE = 200
"""A ticket is about 1 kB in Redis, so this many in each of fifty queues are 10 MB."""


class Sender(Protocol):
    """What puts tickets into queues (`workers.app.TicketSender`)."""

    def send(self, queue: str, tickets: Iterable[Ticket]) -> int: ...
    def close(self) -> None: ...


class Lengths(Protocol):
    """What tells how many tickets lie in queues; raises BrokerAwayError."""

    def lengths(self, queues: Iterable[str]) -> Mapping[str, int]: ...


class RedisLengths:
    """`Lengths` of the queues in Redis, all in one round trip."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect_redis(redis_url)

    def lengths(self, queues: Iterable[str]) -> Mapping[str, int]:
        """Tickets in each of ``queues``."""
        names = tuple(queues)
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.llen(name)
                return dict(zip(names, cast("list[int]", pipe.execute()), strict=True))
        except ERRORS as exc:
            raise BrokerAwayError(f"the broker does not tell the length of its queues: {exc}") from exc


class Publisher:
    """Tops queues up to what is ready, never above ``bound`` tickets each."""

    def __init__(self, sender: Sender, lengths: Lengths, *, bound: int = TICKETS_PER_QUEUE) -> None:
        self._sender = sender
        self._lengths = lengths
        self._bound = bound

    def top_up(self, ready: Mapping[str, int]) -> int:
        """Publish tickets for ``ready`` (queue -> units that could be claimed now); how many.

        BrokerAwayError when the broker is away; what was published before stays.
        """
        wanted = {queue: min(self._bound, count) for queue, count in ready.items() if count > 0}
        if not wanted:
            return 0
        queued = self._lengths.lengths(wanted)
        sent = 0
        for queue, count in wanted.items():
            missing = count - queued[queue]
            if missing > 0:
                ticket = Ticket(stage_of(queue), model=model_of(queue))
                sent += self._sender.send(queue, [ticket] * missing)
        return sent

    def close(self) -> None:
        """Drop the connection for publishing."""
        self._sender.close()
